"""Where a run stands, on disk: one safetensors file, written atomically, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.files import write_bytes

State = dict[str, Tensor]


def write_checkpoint(path: Path, groups: dict[str, State], record: dict[str, Any]) -> None:
    """Write named groups of tensors and a JSON record, atomically."""
    tensors = {
        f"{group}/{name}": value.detach().cpu().contiguous()
        for group, state in groups.items()
        for name, value in state.items()
    }
    data = save(tensors, metadata={"record": json.dumps(record, allow_nan=False)})
    write_bytes(path, data)


def read_checkpoint(path: Path) -> tuple[dict[str, State], dict[str, Any]]:
    """What `write_checkpoint` wrote.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    groups: dict[str, State] = {}
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable checkpoint ({error}); remove it to train this stage anew"
        ) from error
    return groups, record


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """The moments of an optimizer as flat tensors, by parameter number and name."""
    return {
        f"{number}.{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give an optimizer the moments of `optimizer_state`."""
    moments: dict[int, State] = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
