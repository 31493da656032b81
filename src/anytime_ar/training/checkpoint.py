"""Checkpoints of a stage: safetensors files, written atomically, without pickle.

    STAGE-00000400.safetensors    state after 400 steps
    STAGE-00000400.sha256         its SHA-256 for `sha256sum --check`; written after it

Only the last checkpoints stay. The digest detects damage that safetensors and JSON do not notice. A
damaged checkpoint is renamed, and training resumes from the one before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.legacy import STAGES, upgrade_weights
from anytime_ar.runtime.files import write_bytes

StateDict = dict[str, Tensor]
"""Tensors of a module or an optimizer, by name."""


class Checkpoint(NamedTuple):
    """Contents of a checkpoint: tensors, and a record of everything else."""

    groups: dict[str, StateDict]
    """Tensors by name, in the groups `module`, `optimizer`, `best` and `average`."""
    record: dict[str, Any]
    """Counters and positions, as values that JSON can hold."""

    def first_non_finite(self) -> str | None:
        """Return the name of a weight that is not finite; None: all are finite."""
        weights = self.groups["module"]
        return next((name for name, one in weights.items() if not one.isfinite().all()), None)


class CheckpointManager:
    """The checkpoints of one stage on disk.

    Args:
        folder: Folder of the checkpoints of all stages.
        stage: Name of the stage.
        keep: Number of checkpoints that stay on disk.
    """

    def __init__(self, folder: Path, stage: str, *, keep: int = 2) -> None:
        """Store the settings without access to the disk."""
        self.folder, self.stage, self.keep = folder, stage, keep
        self._names = [stage, *([STAGES[stage]] if stage in STAGES else [])]

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        paths = [self.folder / f"{name}-{step:08}.safetensors" for name in self._names]
        return next((path for path in paths if path.with_suffix(".sha256").exists()), paths[0])

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, the last one first."""
        name = re.compile(rf"(?:{'|'.join(map(re.escape, self._names))})-(\d{{8,}})\.sha256")
        found = (name.fullmatch(path.name) for path in self.folder.glob("*.sha256"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of a step, and remove older ones than the last `keep`.

        Raises:
            InputError: The file cannot be written; checkpoints of other steps stay.
        """
        tensors = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, state in checkpoint.groups.items()
            for name, value in state.items()
        }
        seen: set[int] = set()
        for name, value in tensors.items():
            if value.data_ptr() in seen:  # tied weights, which safetensors does not store twice
                tensors[name] = value.clone()
            seen.add(value.data_ptr())
        record = json.dumps(checkpoint.record, allow_nan=False)
        data = save(tensors, metadata={"record": record})
        path = self.path(step)
        path.with_suffix(".sha256").unlink(missing_ok=True)
        write_bytes(path, data)
        digest = hashlib.sha256(data).hexdigest()
        write_bytes(path.with_suffix(".sha256"), f"{digest}  {path.name}\n".encode())
        self.prune(self.keep)

    def prune(self, keep: int) -> None:
        """Remove all checkpoints but the last `keep`."""
        for step in self.steps()[keep:]:
            path = self.path(step)
            path.with_suffix(".sha256").unlink()
            path.unlink(missing_ok=True)

    def latest(self, warn: Callable[[str], None]) -> int | None:
        """Return the step of the last intact checkpoint; None: there are no checkpoints.

        Args:
            warn: Called with a message for each damaged checkpoint, which is renamed.

        Raises:
            InputError: All checkpoints are damaged.
        """
        steps = self.steps()
        for step in steps:
            try:
                self.read(step)
            except InputError as error:
                aside = self._quarantine(step)
                warn(f"{error}; it is put aside as {aside.name}, and the one before it counts")
            else:
                return step
        if steps:
            raise InputError(
                f"{self.folder}: no checkpoint of the stage {self.stage} is whole; resume once "
                "more to train this stage anew"
            )
        return None

    def read(self, step: int) -> Checkpoint:
        """Read the checkpoint of a step.

        Raises:
            InputError: A file is missing, damaged, or no checkpoint.
        """
        path = self.path(step)
        try:
            data, digest = path.read_bytes(), path.with_suffix(".sha256").read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error
        if digest != f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode():
            raise InputError(f"{path} is damaged: its SHA-256 is not what was written")
        groups: dict[str, StateDict] = {}
        try:
            for key, value in load(data).items():
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = value
            groups = {name: upgrade_weights(state) for name, state in groups.items()}
            record = json.loads(_metadata(data)["record"])
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise InputError(f"{path} is no checkpoint ({error})") from error
        return Checkpoint(groups, record)

    def _quarantine(self, step: int) -> Path:
        path = self.path(step)
        aside = path.with_suffix(".damaged")
        path.with_suffix(".sha256").unlink()
        if path.exists():
            path.replace(aside)
        return aside


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header["__metadata__"]
