"""Computing as PyTorch does by default, whatever the caller of this library has set.

The default dtype and the default device, inference mode, autocast and grad mode reach every
operation of a thread, those of a library as well. A buffer that a kernel reads as float32 must not
become bfloat16 because a notebook asked for that once, and a cache that is made in inference mode
cannot be written to outside it. So what this library computes for callers runs in `default_torch_modes`.

The default dtype belongs to the whole process, and other threads may rely on what was set. It is
left alone: factory functions that are called in `default_torch_modes` get their dtype and device as arguments.

A forked process has none of its parent's threads, and waits for them for ever where PyTorch shares
out an operation, as OpenMP does not notice the fork. So it begins with one thread.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, ExitStack
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
ItemT = TypeVar("ItemT")

_CPU = torch.device("cpu")
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
"""Of devices, for each of which autocast is set by itself."""
_FLOATING = {
    torch.empty,
    torch.empty_permuted,
    torch.empty_strided,
    torch.eye,
    torch.fft.fftfreq,
    torch.fft.rfftfreq,
    torch.bartlett_window,
    torch.blackman_window,
    torch.hamming_window,
    torch.hann_window,
    torch.kaiser_window,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.scalar_tensor,
    torch.zeros,
}
"""Factory functions whose numbers have the default dtype."""
_BY_VALUE = {torch.arange, torch.as_tensor, torch.asarray, torch.full, torch.range, torch.tensor}
"""Those whose numbers have it if the values are Python's floats."""
_INTEGER = {torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices}
FACTORIES = _FLOATING | _BY_VALUE | _INTEGER
"""Functions that make a tensor where none was."""


class _DefaultFactories(TorchFunctionMode):
    """Factory functions make float32 numbers on the CPU where they are not told otherwise."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in FACTORIES:
            return func(*args, **kwargs)
        if kwargs.get("device") is None:
            given = args[0] if args else None  # which as_tensor leaves where it is
            kwargs = kwargs | {"device": given.device if isinstance(given, Tensor) else _CPU}
        if kwargs.get("dtype") is None:
            if func in _FLOATING:
                kwargs = kwargs | {"dtype": torch.float32}
            elif func in _BY_VALUE and not (args and hasattr(args[0], "dtype")):
                made = func(*args, **kwargs)
                if not made.is_floating_point():
                    return made
                kwargs = kwargs | {"dtype": torch.float32}
        return func(*args, **kwargs)


def _use_one_thread_after_fork() -> None:
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread_after_fork)


class default_torch_modes(ContextDecorator):
    """Compute without any of the modes that callers set for themselves; see the module. A context
    manager, and a decorator of functions.

    Args:
        grad: whether operations are recorded for gradients.
    """

    def __init__(self, *, grad: bool = False) -> None:
        self._grad = grad

    def _recreate_cm(self) -> default_torch_modes:
        return default_torch_modes(grad=self._grad)  # one for each call of a decorated function

    def __enter__(self) -> None:
        self._modes = _leave_caller_modes() if _has_caller_modes() else None
        self._before = torch.is_grad_enabled()
        torch.set_grad_enabled(self._grad)

    def __exit__(self, *exception: object) -> None:
        torch.set_grad_enabled(self._before)
        if self._modes is not None:
            self._modes.close()


def _has_caller_modes() -> bool:
    return (
        torch.is_inference_mode_enabled()
        or torch.get_default_dtype() != torch.float32
        or _len_torch_function_stack() > 0  # a default device is one of these
        or any(map(torch.is_autocast_enabled, _DEVICE_TYPES))
    )


def _leave_caller_modes() -> ExitStack:
    """Leave them, until what is returned is closed."""
    stack = ExitStack()
    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    for kind in _DEVICE_TYPES:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    if torch.get_default_dtype() != torch.float32 or torch.get_default_device() != _CPU:
        stack.enter_context(_DefaultFactories())
    return stack


def yield_under_default_modes(
    generator: Callable[P, Iterator[ItemT]],
) -> Callable[P, Iterator[ItemT]]:
    """Decorate a generator function to run in `default_torch_modes` from one item to the next: its caller has
    its own modes in between."""

    @functools.wraps(generator)
    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[ItemT]:
        items = generator(*args, **kwargs)
        end = object()
        try:
            while True:
                with default_torch_modes():
                    item = next(items, end)
                if item is end:
                    return
                yield cast(ItemT, item)
        finally:
            with default_torch_modes():
                items.close()  # type: ignore[attr-defined]  # of a generator

    return run
