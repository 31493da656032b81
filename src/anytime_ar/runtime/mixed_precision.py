"""Choose the precision of training: float32, or bfloat16 where autocast allows it (`bf16-mixed`).

Which is faster depends on the processor and on the network, so a run with `auto` times both for
each of its stages.
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
"""Precisions of training that need no loss scaling."""

MAX_TIME_RATIO = 0.95
"""Largest ratio of bfloat16's time to float32's at which the less exact bfloat16 is chosen."""
_TIME_BUDGET_S = 1.0
"""Seconds after which a comparison ends, once each precision has been timed twice."""
_MAX_ROUNDS = 8
"""Most rounds in which both precisions are timed."""
_EMULATION_SLOWDOWN = 7.0
"""Slowdown relative to float32 above which matrix products count as emulated. Small products take
22 times as long on AVX2, and 2.3 times as long with instructions for bfloat16, because of setup."""
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
"""Functions that autocast computes in bfloat16."""


@contextmanager
def bfloat16_autocast(device: str) -> Iterator[None]:
    """Compute matrix products and convolutions in the block in bfloat16.

    Args:
        device: type of the device, such as `cpu` or `cuda`.
    """
    emulated = device == "cpu" and bfloat16_is_emulated()
    with (
        torch.autocast(device, dtype=torch.bfloat16),
        _EmulatedBFloat16() if emulated else nullcontext(),
    ):
        try:
            yield
        finally:
            # PyTorch clears it only in the outermost autocast, which may span the whole run.
            torch.clear_autocast_cache()


class _EmulatedBFloat16(TorchFunctionMode):
    """A mode that computes products of bfloat16 numbers in float32, and rounds them.

    The result is that of a processor with bfloat16 instructions, in a tenth of the time of
    PyTorch's emulation.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Round the inputs to bfloat16, compute in float32, and round the result."""
        kwargs = kwargs or {}
        if func not in _AUTOCAST_FUNCTIONS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            args, kwargs = tree_map_only(Tensor, _round_to_bfloat16, (args, kwargs))
            return func(*args, **kwargs).bfloat16()


def _round_to_bfloat16(value: Tensor) -> Tensor:
    """Round floating-point values to bfloat16, and return them as float32."""
    return value.bfloat16().float() if value.is_floating_point() else value


@cache
def bfloat16_is_emulated() -> bool:
    """Return whether this CPU lacks instructions for bfloat16, by timing small matrix products.

    The CPU's feature flags do not show what PyTorch makes of them.
    """
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        # Of many products of 10 us on one thread, at least one is not disturbed.
        matrix = torch.ones(64, 64, dtype=kind, device="cpu")
        times = []
        for _ in range(100):
            begin = time.perf_counter()
            torch.mm(matrix, matrix)
            times.append(time.perf_counter() - begin)
        seconds[kind] = min(times)
    return seconds[torch.bfloat16] > _EMULATION_SLOWDOWN * seconds[torch.float32]


def faster_precision(
    step: Callable[[UnscaledPrecision], object],
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[UnscaledPrecision, dict[str, float]]:
    """Time a step alternately in float32 and in bfloat16, and return the faster precision.

    Args:
        step: runs one step in a precision.
        device: the device, which is synchronized after each step.
        clock: returns the time in seconds.

    Returns:
        `bf16-mixed` if it is clearly faster, else `32-true`; and the best seconds of each.
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
            if turn:  # the first round is warm-up
                seconds[precision] = min(seconds.get(precision, spent), spent)
        if turn >= 2 and clock() - begin > _TIME_BUDGET_S:
            break
    chosen = both[seconds["bf16-mixed"] < MAX_TIME_RATIO * seconds["32-true"]]
    return chosen, seconds
