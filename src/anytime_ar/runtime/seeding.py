"""Random streams named by their parts, so that any of them can be opened again without replay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stable_hash(*parts: int | str) -> int:
    """A 63-bit integer that depends on the parts only: same on every machine and in every run."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator for the stream that the parts name, e.g. `("order", seed, epoch)`."""
    return torch.Generator().manual_seed(stable_hash(*parts))


@contextmanager
def seeded(*parts: int | str) -> Iterator[torch.Generator]:
    """Randomness named by its parts: a CPU generator, and torch's own global state (which
    initialization and dropout use) set to match and put back afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # named, or it warns of many
        torch.manual_seed(stable_hash(*parts))
        yield generator_for(*parts)
