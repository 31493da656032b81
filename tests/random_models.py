"""Tiny models with random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve, CurvePoint, near_lossless_codes
from anytime_ar.bundle.format import Bundle, attach_codebook, build_bundle


def llama_config(code_length: int, vocabulary: int, label_count: int) -> dict[str, Any]:
    """The prior of a card: a Llama of transformers."""
    model = {
        "model_type": "llama",
        "vocab_size": vocabulary + label_count + 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": code_length,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = {
        "model": model,
        "code_length": code_length,
        "vocabulary": vocabulary,
        "label_count": label_count,
        "tokens": "shared",
    }
    return {"kind": "huggingface_prior", "config": config}


def encodec_config(samples: int, frames: int, levels: int, vocabulary: int) -> dict[str, Any]:
    """The tokenizer of a card: an EnCodec of transformers, of 8000 Hz."""
    hop = samples // frames
    model = {
        "model_type": "encodec",
        "sampling_rate": 8000,
        "num_filters": 2,
        "hidden_size": 4,
        "codebook_dim": 4,
        "codebook_size": vocabulary,
        "upsampling_ratios": [4, hop // 4],
        "num_lstm_layers": 1,
        "target_bandwidths": [levels * math.ceil(8000 / hop) / 100],  # 10 bits a code
    }
    config = {"model": model, "samples": samples, "levels": levels, "frames": frames}
    return {"kind": "neural_codec", "config": config}


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
