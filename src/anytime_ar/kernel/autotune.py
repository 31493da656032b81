"""Autotuning: time several implementations on this machine, and select the fastest.

An implementation that is faster on one processor is slower on another, so timing takes place where
the model runs. Implementations round differently, and the samples of a seed must not change between
processes. So a file stores the results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import PositiveFloat, TypeAdapter

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.kernel import BuildError, cpu_name, load_kernel
from anytime_ar.runtime.files import cache_folder
from anytime_ar.runtime.json_store import JsonStore

BATCH_SIZES = (1, 16, 64)
"""Numbers of rows to time implementations with. One implementation serves all numbers, so that a
sample is the same in any batch."""
_TIMED_ROUNDS = 3
"""Number of timed runs of each implementation, in turns, after a first run that does not count.
The shortest run counts."""
_GIVE_UP_RATIO = 8.0
"""Time relative to the fastest implementation above which another one is timed no further."""
_TIE_RATIO = 1.1
"""Time relative to the fastest implementation up to which an earlier one in the list is
preferred."""


@dataclass(frozen=True)
class Implementation:
    """An implementation to time.

    Attributes:
        name: its name in the file.
        prepare: builds it, and returns a function that runs it for a number of rows.
    """

    name: str
    prepare: Callable[[], Callable[[int], object]]


class AutotuneResult(Config):
    """The result of timing several implementations."""

    chosen: str
    """Name of the selected implementation."""
    seconds: dict[str, tuple[PositiveFloat, ...]]
    """Shortest time by name, in seconds, for all of `BATCH_SIZES`, or fewer for a slow one."""


_results: dict[tuple[Path, str], AutotuneResult] = {}
"""Results of this process, by file and key. They hold even where no file can be written."""


class Autotuner:
    """A selection of implementations by timing, with the results stored in a file.

    If several processes time at once, all take the result that is first in the file. A process does
    not change a result that it has once used, even if the file changes.

    Args:
        path: JSON file; None: `autotune.json` in the cache folder. A file without valid results
            is replaced. Without write access, every process times anew.
        clock: returns the time in seconds.
    """

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Open the file of results."""
        path = (path or cache_folder() / "autotune.json").absolute()
        self._store, self._clock = JsonStore(path, TypeAdapter(AutotuneResult)), clock

    def fastest(self, key: str, implementations: Sequence[Implementation]) -> str:
        """Return the name of the fastest implementation, or of an earlier one almost as fast.

        Args:
            key: what the implementations compute; `machine_key` is added to it.
            implementations: in order of preference. A single one is not timed.
        """
        if len(implementations) == 1:
            return implementations[0].name
        names = [candidate.name for candidate in implementations]
        key = f"{machine_key()}/{key}/{' '.join(names)}"
        result_key = self._store.path, key
        if result_key not in _results:
            result = self._store.get(key)
            if result is None or result.chosen not in names:
                result = self._publish(
                    key, time_implementations(implementations, self._clock), names
                )
            _results.setdefault(result_key, result)  # another thread may have stored one
        return _results[result_key].chosen

    def _publish(self, key: str, measured: AutotuneResult, names: Sequence[str]) -> AutotuneResult:
        """Return the result that another process has stored since, or store the measured one."""

        def first(found: AutotuneResult | None) -> AutotuneResult:
            """Return the stored result if it is valid, else the measured one."""
            return found if found is not None and found.chosen in names else measured

        try:
            return self._store.update(key, first)
        except InputError:  # a read-only home: the next process times again
            return measured


def time_implementations(
    implementations: Sequence[Implementation], clock: Callable[[], float]
) -> AutotuneResult:
    """Time implementations in turns, and select one; see `Autotuner.fastest`.

    Args:
        implementations: in order of preference.
        clock: returns the time in seconds.
    """
    runs = {candidate.name: candidate.prepare() for candidate in implementations}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for rows in BATCH_SIZES:
        shortest: dict[str, float] = dict.fromkeys(runs, math.inf)
        for turn in range(1 + _TIMED_ROUNDS):
            for name, run in list(runs.items()):
                begin = clock()
                run(rows)
                if turn > 0:  # the first run allocates memory and fills caches
                    shortest[name] = min(shortest[name], max(clock() - begin, 1e-9))
            if turn > 0:
                limit = _GIVE_UP_RATIO * min(shortest[name] for name in runs)
                runs = {name: run for name, run in runs.items() if shortest[name] <= limit}
        for name, found in shortest.items():
            if math.isfinite(found):
                seconds[name].append(found)
    means = {name: math.prod(seconds[name]) for name in runs}  # geometric mean without the root
    limit = _TIE_RATIO ** len(BATCH_SIZES) * min(means.values())
    chosen = next(name for name, mean in means.items() if mean <= limit)
    return AutotuneResult(
        chosen=chosen, seconds={name: tuple(found) for name, found in seconds.items()}
    )


def machine_key() -> str:
    """Return a key of what timings depend on beside the computation itself.

    It has the processor, the instruction sets and the versions. The number of threads follows the
    load of the machine, and is no part of it: the samples of a seed must not depend on the load.
    """
    try:
        loaded = load_kernel()
        kernel = f"{loaded.instruction_set} {loaded.origin}"
    except (BuildError, InputError):  # environment variables name an unavailable kernel
        kernel = "no kernel"
    torch_set = torch.backends.cpu.get_cpu_capability()
    return f"{_software_key()}/{torch_set}/{kernel}"


@cache
def _software_key() -> str:
    """Return the processor's name, and the versions of anytime-ar and PyTorch."""
    return f"{cpu_name()}/{version('anytime-ar')}/torch {torch.__version__}"
