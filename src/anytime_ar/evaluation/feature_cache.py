"""A cache on disk for features of the test split, which all evaluations of a data set share.

A large network takes minutes to compute them. The name of a file is a hash of the samples and of
the network's weights. Another test split or network therefore has another file, and no file is ever
out of date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from anytime_ar.errors import InputError
from anytime_ar.evaluation.feature_extractor import (
    AnyFeatureExtractor,
    ModuleFeatureExtractor,
    TorchScriptFeatureExtractor,
)
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.files import write_atomically

MAX_BYTES = 2**30
"""Maximum size in bytes of features that are stored."""


class FeatureCache:
    """A folder with features that earlier evaluations computed.

    Args:
        folder: folder of the cache, created at the first write.
        extractor: network that computes the features.
        distributed: processes that share the work; rank 0 reads the folder for all and writes to
            it.
    """

    def __init__(
        self,
        folder: Path,
        extractor: AnyFeatureExtractor,
        distributed: DistributedContext,
    ) -> None:
        """Compute the fingerprint of the network."""
        self._folder, self._distributed = folder, distributed
        self._fingerprint = _extractor_fingerprint(extractor)

    def get_or_compute(
        self, samples: Callable[[], Iterable[Tensor]], extract: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Yield features float32 [B, F] of samples, from the cache or from `extract`.

        Args:
            samples: returns the batches [B, ...] of samples; called twice, with the same result.
            extract: maps a batch to its features on the CPU.
        """
        name, sizes = _fingerprint_samples(self._fingerprint, samples())
        path = self._folder / f"{name}.npy"
        if self._distributed.run_on_rank_zero(lambda: _is_complete(path, sum(sizes))):
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            for end, size in zip(accumulate(sizes), sizes, strict=True):
                yield torch.from_numpy(np.array(rows[end - size : end]))
            return
        found: list[Tensor] | None = []
        room = MAX_BYTES
        for some in self._distributed.map_in_order(samples(), extract):
            yield some
            if found is not None:
                found.append(some)
                room -= some.nbytes
                found = found if room >= 0 else None
        if found and self._distributed.rank == 0:
            content = torch.cat(found).numpy()

            def write(file: BinaryIO) -> None:
                np.lib.format.write_array(file, content, allow_pickle=False)

            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, write)
            except (InputError, OSError):
                return  # read-only folder or full disk: compute the features each time


def _is_complete(path: Path, num_rows: int) -> bool:
    """Return whether a file holds `num_rows` rows, and was not cut by a full disk or a crash."""
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False)) == num_rows
    except (OSError, ValueError, EOFError):
        return False


def _extractor_fingerprint(
    extractor: AnyFeatureExtractor,
) -> str:
    """Return a hash of a network's weights and of its device.

    Devices round differently, so their features are not the same.
    """
    digest = hashlib.sha256()
    if isinstance(extractor, TorchScriptFeatureExtractor):
        digest.update(str(extractor.device).encode())
        with extractor.path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()
    network: nn.Module
    if isinstance(extractor, ModuleFeatureExtractor):
        network = extractor.network
        digest.update(f"{extractor.device} {network!r}".encode())
    else:
        network = extractor
        digest.update(f"{extractor.head.weight.device} {extractor.config}".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_samples(network: str, samples: Iterable[Tensor]) -> tuple[str, list[int]]:
    """Return a hash of a network and its input batches, and the sizes of the batches.

    The features are returned in batches of the same sizes, as sums round differently in others.
    """
    digest = hashlib.sha256(network.encode())
    sizes = []
    for some in samples:
        digest.update(str(tuple(some.shape)).encode())
        digest.update(some.cpu().contiguous().numpy().tobytes())
        sizes.append(len(some))
    return digest.hexdigest(), sizes
