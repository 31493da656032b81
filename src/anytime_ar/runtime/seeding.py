"""Name random streams by their parts, so that any of them can be opened again without replay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stable_hash(*parts: int | str) -> int:
    """Return a 63-bit integer that depends only on the parts, on any machine and in any run."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a CPU generator for the stream that the parts name, e.g. `("order", seed, epoch)`."""
    return torch.Generator().manual_seed(stable_hash(*parts))


@contextmanager
def seeded(*parts: int | str) -> Iterator[torch.Generator]:
    """Seed torch's global random state in the block, and restore it afterwards.

    Initialization and dropout use the global state.

    Args:
        *parts: name of the random stream.

    Yields:
        A CPU generator of the same stream.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # a list avoids a warning
        torch.manual_seed(stable_hash(*parts))
        yield generator_for(*parts)
