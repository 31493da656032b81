"""Features of the test split on disk: all evaluations of a data set need the same ones.

A large network takes minutes for them. The file is named after what they follow from, the samples
and the network to the last bit, so that there is nothing to invalidate: another test split or
another network has another file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from anytime_ar.evaluation.classifier import FeatureNetwork
from anytime_ar.evaluation.scripted import ScriptedFeatures
from anytime_ar.evaluation.workers import Workers
from anytime_ar.files import write_atomically

MOST_BYTES = 2**30
"""Features that take more are computed each time."""


class FeatureCache:
    """A folder of features that were computed before.

    Args:
        folder: created when there is something to keep.
        features: the network.
        workers: of which the first one reads the folder for all, and writes to it.
    """

    def __init__(
        self, folder: Path, features: FeatureNetwork | ScriptedFeatures, workers: Workers
    ) -> None:
        self._folder, self._workers = folder, workers
        self._network = _identity(features)

    def features(
        self, samples: Callable[[], Iterable[Tensor]], extract: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Features float32 [B, F] of samples, as `extract` gives them; `samples` may be called
        several times, and gives the same batches each time."""
        path = self._folder / f"{_digest(self._network, samples())}.npy"
        if self._workers.first(lambda: path.is_file()):
            yield from self._kept(path, samples())
            return
        found: list[Tensor] | None = []
        for some in self._workers.each(samples(), extract):
            yield some
            if found is not None:
                found.append(some)
                if sum(part.nbytes for part in found) > MOST_BYTES:
                    found = None
        if found and self._workers.rank == 0:
            content = torch.cat(found).numpy()
            path.parent.mkdir(parents=True, exist_ok=True)

            def write(file: BinaryIO) -> None:
                np.lib.format.write_array(file, content, allow_pickle=False)

            write_atomically(path, write)

    def _kept(self, path: Path, samples: Iterable[Tensor]) -> Iterator[Tensor]:
        """What is in the file, as large a batch at a time as the samples are."""
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        at = 0
        for some in samples:
            yield torch.from_numpy(np.array(rows[at : at + len(some)]))
            at += len(some)


def _identity(features: FeatureNetwork | ScriptedFeatures) -> str:
    """What tells networks apart, and the devices they run on, which round differently."""
    digest = hashlib.sha256()
    if isinstance(features, ScriptedFeatures):
        digest.update(str(features.device).encode())
        with features.path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()
    digest.update(f"{features.head.weight.device} {features.config}".encode())
    for name, value in sorted(features.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(network: str, samples: Iterable[Tensor]) -> str:
    """Of a network and the batches that it is given."""
    digest = hashlib.sha256(network.encode())
    for some in samples:
        digest.update(str(tuple(some.shape)).encode())
        digest.update(some.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
