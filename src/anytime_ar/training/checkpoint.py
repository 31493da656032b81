"""Where a stage stands, on disk: safetensors files, written atomically, never a pickle.

    STAGE-00000400.safetensors    after 400 steps
    STAGE-00000400.sha256         its SHA-256, as `sha256sum --check` reads it; written after it

The last ones are kept. One that is damaged, which neither safetensors nor JSON would notice, is put
aside, and the one before it counts.
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


class Checkpoint(NamedTuple):
    """What is on disk."""

    groups: dict[str, StateDict]
    """Tensors by name, by what they belong to."""
    record: dict[str, Any]
    """All else, as JSON can hold it."""

    def first_non_finite(self) -> str | None:
        """A weight that is not finite, if there is one."""
        weights = self.groups["module"]
        return next((name for name, one in weights.items() if not one.isfinite().all()), None)


class CheckpointManager:
    """Those of one stage.

    Args:
        folder: has them of all stages.
        stage: whose.
        keep: how many of the last ones stay.
    """

    def __init__(self, folder: Path, stage: str, *, keep: int = 2) -> None:
        self.folder, self.stage, self.keep = folder, stage, keep
        self._names = [stage, *([STAGES[stage]] if stage in STAGES else [])]

    def path(self, step: int) -> Path:
        """The file of a step."""
        paths = [self.folder / f"{name}-{step:08}.safetensors" for name in self._names]
        return next((path for path in paths if path.with_suffix(".sha256").exists()), paths[0])

    def steps(self) -> list[int]:
        """Of those that were completed, the last one first."""
        name = re.compile(rf"(?:{'|'.join(map(re.escape, self._names))})-(\d{{8,}})\.sha256")
        found = (name.fullmatch(path.name) for path in self.folder.glob("*.sha256"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, step: int, checkpoint: Checkpoint) -> None:
        """Keep one, and no more than the last ones.

        Raises:
            InputError: the file cannot be written; those of other steps stay.
        """
        tensors = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, state in checkpoint.groups.items()
            for name, value in state.items()
        }
        record = json.dumps(checkpoint.record, allow_nan=False)
        data = save(tensors, metadata={"record": record})
        path = self.path(step)
        path.with_suffix(".sha256").unlink(missing_ok=True)
        write_bytes(path, data)
        digest = hashlib.sha256(data).hexdigest()
        write_bytes(path.with_suffix(".sha256"), f"{digest}  {path.name}\n".encode())
        self.prune(self.keep)

    def prune(self, keep: int) -> None:
        """Remove all but the last ones."""
        for step in self.steps()[keep:]:
            self.path(step).with_suffix(".sha256").unlink()
            self.path(step).unlink(missing_ok=True)

    def latest(self, warn: Callable[[str], None]) -> int | None:
        """The step of the last one that is whole; None: there are none.

        Args:
            warn: gets a line for each that is damaged.

        Raises:
            InputError: all are damaged.
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
        """The one of a step.

        Raises:
            InputError: a file is missing, damaged, or of another kind.
        """
        path = self.path(step)
        try:
            data, told = path.read_bytes(), path.with_suffix(".sha256").read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error
        if told != f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode():
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
    """Of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header["__metadata__"]
