"""Features of the test split on disk: all evaluations of a data set need the same ones.

A large network takes minutes for them. The file is named after what they follow from, the samples
and the network to the last bit, so that there is nothing to invalidate: another test split or
another network has another file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.evaluation.feature_extractor import FeatureExtractor, TorchScriptFeatureExtractor
from anytime_ar.runtime.distributed import EvaluationProcesses
from anytime_ar.runtime.files import write_atomically

MAX_BYTES = 2**30
"""Features that take more are computed each time."""


class FeatureCache:
    """A folder of features that were computed before.

    Args:
        folder: created when there is something to keep.
        extractor: the network.
        distributed: of which the first one reads the folder for all, and writes to it.
    """

    def __init__(
        self,
        folder: Path,
        extractor: FeatureExtractor | TorchScriptFeatureExtractor,
        distributed: EvaluationProcesses,
    ) -> None:
        self._folder, self._distributed = folder, distributed
        self._fingerprint = _extractor_fingerprint(extractor)

    def get_or_compute(
        self, samples: Callable[[], Iterable[Tensor]], extract: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Features float32 [B, F] of samples, as `extract` gives them; `samples` may be called
        several times, and gives the same batches each time."""
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
                return  # a read-only home, or a full disk: they are computed anew each time


def _is_complete(path: Path, num_rows: int) -> bool:
    """Whether a file holds so many features; what a full disk or a crash has cut does not count."""
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False)) == num_rows
    except (OSError, ValueError, EOFError):
        return False


def _extractor_fingerprint(extractor: FeatureExtractor | TorchScriptFeatureExtractor) -> str:
    """What tells networks apart, and the devices they run on, which round differently."""
    digest = hashlib.sha256()
    if isinstance(extractor, TorchScriptFeatureExtractor):
        digest.update(str(extractor.device).encode())
        with extractor.path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()
    digest.update(f"{extractor.head.weight.device} {extractor.config}".encode())
    for name, value in sorted(extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_samples(network: str, samples: Iterable[Tensor]) -> tuple[str, list[int]]:
    """Of a network and the batches that it is given; and the sizes of these, in which features are
    given back, as sums round differently in others."""
    digest = hashlib.sha256(network.encode())
    sizes = []
    for some in samples:
        digest.update(str(tuple(some.shape)).encode())
        digest.update(some.cpu().contiguous().numpy().tobytes())
        sizes.append(len(some))
    return digest.hexdigest(), sizes
