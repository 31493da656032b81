"""Tiny models with random weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve, CurvePoint, near_lossless_codes
from anytime_ar.bundle.format import Bundle, attach_codebook, build_bundle


def random_bundle(card: Card, seed: int = 0) -> Bundle:
    """A model of which labels and codes matter, although it has learned nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bundle = build_bundle(card)
        if bundle.prior is not None:
            with torch.no_grad():  # weights start too small for that
                for weight in bundle.prior.parameters():
                    weight.add_(0.3 * torch.randn_like(weight))
                for name, buffer in bundle.autoencoder.named_buffers():
                    if name.endswith("codebooks"):
                        buffer.normal_()
            attach_codebook(bundle.autoencoder, bundle.prior)
    return bundle


def curve_of(
    distances: Mapping[int, float | None], code_length: int, vocabulary: int, *, ms: bool = False
) -> Curve:
    """Sample FD by number of codes; the squared error is 1 / k, and `ms` says k if wanted."""
    points = tuple(
        CurvePoint(
            codes=k,
            mse=1 / k,
            psnr=None,
            fd_reconstruction=None,
            fd_sample=distance,
            bits=3.0 * k,
            ms=float(k) if ms else None,
        )
        for k, distance in distances.items()
    )
    return Curve(
        code_length=code_length,
        vocabulary=vocabulary,
        points=points,
        near_lossless_codes=near_lossless_codes(points),
        fd_train=None,
        num_train_samples=1000,
        num_samples=1000,
        num_test_samples=1000,
        seed=0,
    )
