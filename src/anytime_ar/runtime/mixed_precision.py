"""Number formats of training: float32, or bfloat16 where autocast finds it safe (`bf16-mixed`).

Which is faster depends on the processor and on the network, so a run that is told `auto` times
both, for each of its stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

UnscaledPrecision = Literal["32-true", "bf16-mixed"]
"""Number formats of training that need no scaling of the loss."""

MAX_TIME_RATIO = 0.95
"""Share of the time in float32 that bfloat16, which is less exact, may take to be chosen."""
_TIME_BUDGET_S = 1.0
"""Seconds after which a comparison ends, once each format has had two turns."""
_MAX_ROUNDS = 8
_EMULATION_SLOWDOWN = 7.0
"""Times as slow as in float32 from which a product is emulated: small ones take 22 times as long
on AVX2, and 2.3 times with instructions, for what is prepared."""
_AUTOCAST_FUNCTIONS = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
    torch.einsum,
}
"""What autocast computes in bfloat16."""


@contextmanager
def bfloat16_autocast(device: str) -> Iterator[None]:
    """Compute matrix products and convolutions in bfloat16."""
    emulated = device == "cpu" and bfloat16_is_emulated()
    with (
        torch.autocast(device, dtype=torch.bfloat16),
        _EmulatedBFloat16() if emulated else nullcontext(),
    ):
        try:
            yield
        finally:
            # PyTorch leaves that to the outermost autocast, which may be around the whole run.
            torch.clear_autocast_cache()


class _EmulatedBFloat16(TorchFunctionMode):
    """Computes products of bfloat16 numbers in float32, and rounds them: what the instructions of
    other processors do, at a tenth of the time that PyTorch takes to emulate them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _AUTOCAST_FUNCTIONS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            args, kwargs = tree_map_only(Tensor, _round_to_bfloat16, (args, kwargs))
            return func(*args, **kwargs).bfloat16()


def _round_to_bfloat16(value: Tensor) -> Tensor:
    return value.bfloat16().float() if value.is_floating_point() else value


@cache
def bfloat16_is_emulated(clock: Callable[[], float] = time.perf_counter) -> bool:
    """Time whether this CPU multiplies bfloat16 numbers by far more slowly than float32, for want
    of instructions; what it says of itself does not tell what PyTorch makes of it."""
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        # Small, and often: of 10 us and on one thread, one of them at least is not disturbed.
        matrix = torch.ones(64, 64, dtype=kind, device="cpu")
        times = []
        for _ in range(100):
            begin = clock()
            torch.mm(matrix, matrix)
            times.append(clock() - begin)
        seconds[kind] = min(times)
    return seconds[torch.bfloat16] > _EMULATION_SLOWDOWN * seconds[torch.float32]


def faster_precision(
    step: Callable[[UnscaledPrecision], object],
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[UnscaledPrecision, dict[str, float]]:
    """Time a step in float32 and in bfloat16 by turns.

    Args:
        step: does it.
        device: where; waited for.
        clock: seconds.

    Returns:
        `bf16-mixed` if that is clearly faster, else `32-true`; and the best seconds of each.
    """
    seconds: dict[str, float] = {}
    both: tuple[UnscaledPrecision, UnscaledPrecision] = ("32-true", "bf16-mixed")
    begin = clock()
    for turn in range(1 + _MAX_ROUNDS):
        for precision in both if turn % 2 else both[::-1]:
            start = clock()
            step(precision)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            spent = clock() - start
            if turn:  # what the first one prepares is not timed
                seconds[precision] = min(seconds.get(precision, spent), spent)
        if turn >= 2 and clock() - begin > _TIME_BUDGET_S:
            break
    chosen = both[seconds["bf16-mixed"] < MAX_TIME_RATIO * seconds["32-true"]]
    return chosen, seconds
