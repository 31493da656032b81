"""Tiny models with random weights."""

from __future__ import annotations

import torch

from anytime_ar.bundle.card import Card
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
