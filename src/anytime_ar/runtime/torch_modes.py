"""Compute with PyTorch's default modes, whatever modes the caller has set.

The default dtype and device, inference mode, autocast and grad mode affect every operation of a
thread, including those of libraries. A buffer that a kernel reads as float32 must not become
bfloat16 because a notebook set that as default. A cache made in inference mode cannot be written
outside it. So this library computes for callers under `default_torch_modes`.

The default dtype belongs to the whole process, and other threads may rely on it. It is not changed:
factory functions that are called under `default_torch_modes` receive dtype and device as arguments.

A forked process has none of its parent's threads. OpenMP does not notice the fork, so a parallel
operation of PyTorch would wait for them forever. A forked process therefore starts with one thread.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, ExitStack, suppress
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakSet

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from anytime_ar.runtime.process_exit import (
    end_other_computations,
    enter_computation,
    forget_other_threads,
    leave_computation,
)

P = ParamSpec("P")
"""Parameters of a decorated generator function."""
ItemT = TypeVar("ItemT")
"""Type of the items of a decorated generator."""

_CPU = torch.device("cpu")
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
"""Device types whose autocast state is separate."""
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
"""Factory functions whose results have the default dtype."""
_BY_VALUE = {torch.arange, torch.as_tensor, torch.asarray, torch.full, torch.range, torch.tensor}
"""Factory functions whose results have the default dtype if the values are Python floats."""
_INTEGER = {torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices}
"""Factory functions whose results are integers."""
FACTORIES = _FLOATING | _BY_VALUE | _INTEGER
"""Functions that make a new tensor."""


class _DefaultFactories(TorchFunctionMode):
    """A mode in which factory functions use float32 on the CPU unless arguments say otherwise."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Add dtype and device to the arguments of factory functions."""
        kwargs = kwargs or {}
        if func not in FACTORIES:
            return func(*args, **kwargs)
        if kwargs.get("device") is None:
            given = args[0] if args else None  # as_tensor leaves a tensor on its device
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
    """Use one thread in a forked process."""
    forget_other_threads()
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread_after_fork)


class default_torch_modes(ContextDecorator):
    """A context manager and decorator that computes under PyTorch's default modes.

    Python exits after computations in other threads have ended; see `runtime.process_exit`.

    Args:
        grad: whether operations are recorded for gradients.
        keep_device: whether the default device of the caller applies, as to modules of PyTorch that
            are built under it.
    """

    def __init__(self, *, grad: bool = False, keep_device: bool = False) -> None:
        """Store the modes; nothing changes yet."""
        self._grad, self._keep_device = grad, keep_device

    def _recreate_cm(self) -> default_torch_modes:
        """Return a new context manager for each call of a decorated function."""
        return default_torch_modes(grad=self._grad, keep_device=self._keep_device)

    def __enter__(self) -> None:
        """Replace the caller's modes by the defaults."""
        enter_computation(self)
        self._modes = _leave_caller_modes(self._keep_device) if _has_caller_modes() else None
        self._before = torch.is_grad_enabled()
        torch.set_grad_enabled(self._grad)

    def __exit__(self, *exception: object) -> None:
        """Restore the caller's modes."""
        torch.set_grad_enabled(self._before)
        if self._modes is not None:
            self._modes.close()
        leave_computation(self)


def _has_caller_modes() -> bool:
    """Return whether the caller has set any mode."""
    return (
        torch.is_inference_mode_enabled()
        or torch.get_default_dtype() != torch.float32
        or _len_torch_function_stack() > 0  # a default device is one of these
        or any(map(torch.is_autocast_enabled, _DEVICE_TYPES))
    )


def _leave_caller_modes(keep_device: bool) -> ExitStack:
    """Leave the caller's modes until the returned stack is closed, all or all but the device."""
    stack = ExitStack()
    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    for kind in _DEVICE_TYPES:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    if torch.get_default_dtype() != torch.float32 or torch.get_default_device() != _CPU:
        device = _default_device()
        stack.enter_context(_DefaultFactories())
        if keep_device:
            stack.enter_context(device)
    return stack


def _default_device() -> torch.device:
    """Return the device on which factory functions make tensors now."""
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, _DefaultFactories):
            return _CPU
        if isinstance(mode, DeviceContext):
            return mode.device
    return _CPU


def yield_under_default_modes(
    generator: Callable[P, Iterator[ItemT]],
) -> Callable[P, Iterator[ItemT]]:
    """Decorate a generator function to run under `default_torch_modes` between its items.

    The caller has its own modes back while it uses an item. Generators that are still open when
    Python exits are closed while the modules that they need exist.

    Args:
        generator: the generator function to decorate.
    """

    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[ItemT]:
        """Run the generator, and leave its modes before each yield."""
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

    @functools.wraps(generator)
    def start(*args: P.args, **kwargs: P.kwargs) -> Iterator[ItemT]:
        """Return the generator, which is closed at the latest when Python exits."""
        items = run(*args, **kwargs)
        _open_generators.add(items)
        return items

    return start


_open_generators: WeakSet[Iterator[Any]] = WeakSet()


@atexit.register
def _end_computations() -> None:
    """End the computations of other threads, and close the generators that are still open."""
    end_other_computations()
    for items in list(_open_generators):
        with suppress(ValueError):  # it is running in another thread
            items.close()  # type: ignore[attr-defined]  # of a generator
