"""Choose between ways of computing the same thing by timing them on this machine.

A path that is faster on one processor is slower on another, so ours is compared with the plain one
where it runs. A decision is kept in a file between processes, since the ways round differently:
what a seed draws on a machine must not change from one process to the next.
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
"""Numbers of rows that ways are timed with. One is chosen for all numbers, so that a sample is the
same in any batch."""
_TIMED_ROUNDS = 3
"""Times that each is timed, by turns, after one that is not counted; the shortest one counts."""
_GIVE_UP_RATIO = 8.0
"""How many times as long as the fastest one a way may take before it is not timed any further."""
_TIE_RATIO = 1.1
"""How many times as long as the fastest one the way that is chosen may take: the first such one."""


@dataclass(frozen=True)
class Implementation:
    """A way of computing something.

    Attributes:
        name: what it is called in the file.
        prepare: builds it; the function that it returns computes for a number of rows.
    """

    name: str
    prepare: Callable[[], Callable[[int], object]]


class AutotuneResult(Config):
    """The outcome of a comparison."""

    chosen: str
    seconds: dict[str, tuple[PositiveFloat, ...]]
    """By name, for the first of `BATCH_SIZES`, or for all."""


_results: dict[tuple[Path, str], AutotuneResult] = {}
"""What this process has found, by file and key: it holds even where no file can be written."""


class Autotuner:
    """Decisions by what was compared, kept in a file.

    Processes that compare at the same time take the decision that is in the file first. A process
    keeps to what it has found once, whatever becomes of the file.

    Args:
        path: JSON; None: `autotune.json` in the cache folder. A file that does not read as one
            is replaced; where it cannot be written, every process compares anew.
        clock: gives seconds.
    """

    def __init__(
        self, path: Path | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        path = (path or cache_folder() / "autotune.json").absolute()
        self._store, self._clock = JsonStore(path, TypeAdapter(AutotuneResult)), clock

    def fastest(self, key: str, implementations: Sequence[Implementation]) -> str:
        """Return the name of the fastest candidate, or of an earlier one that is nearly as fast.

        Args:
            key: says what the candidates compute; see `machine_key`, which is added.
            implementations: what is preferred comes first. One alone is not timed.
        """
        if len(implementations) == 1:
            return implementations[0].name
        names = [candidate.name for candidate in implementations]
        key = f"{machine_key()}/{key}/{' '.join(names)}"
        place = self._store.path, key
        if place not in _results:
            decision = self._store.get(key)
            if decision is None or decision.chosen not in names:
                decision = self._publish(
                    key, time_implementations(implementations, self._clock), names
                )
            _results.setdefault(place, decision)  # another thread may have been first
        return _results[place].chosen

    def _publish(self, key: str, measured: AutotuneResult, names: Sequence[str]) -> AutotuneResult:
        """Return what another process has put into the file since, or put ours there."""

        def first(found: AutotuneResult | None) -> AutotuneResult:
            return found if found is not None and found.chosen in names else measured

        try:
            return self._store.update(key, first)
        except InputError:  # a read-only home: the next process compares again
            return measured


def time_implementations(
    implementations: Sequence[Implementation], clock: Callable[[], float]
) -> AutotuneResult:
    """Time candidates by turns, and choose one; see `Autotuner.fastest`."""
    runs = {candidate.name: candidate.prepare() for candidate in implementations}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for rows in BATCH_SIZES:
        shortest: dict[str, float] = dict.fromkeys(runs, math.inf)
        for turn in range(1 + _TIMED_ROUNDS):
            for name, run in list(runs.items()):
                begin = clock()
                run(rows)
                if turn > 0:  # the first one pays for memory and caches
                    shortest[name] = min(shortest[name], max(clock() - begin, 1e-9))
            if turn > 0:
                limit = _GIVE_UP_RATIO * min(shortest[name] for name in runs)
                runs = {name: run for name, run in runs.items() if shortest[name] <= limit}
        for name, found in shortest.items():
            if math.isfinite(found):
                seconds[name].append(found)
    means = {name: math.prod(seconds[name]) for name in runs}  # geometric, but for the root
    limit = _TIE_RATIO ** len(BATCH_SIZES) * min(means.values())
    chosen = next(name for name, mean in means.items() if mean <= limit)
    return AutotuneResult(
        chosen=chosen, seconds={name: tuple(found) for name, found in seconds.items()}
    )


def machine_key() -> str:
    """Name what timings on a CPU depend on beside what is computed: processor, instruction sets,
    versions and threads."""
    try:
        loaded = load_kernel()
        kernel = f"{loaded.instruction_set} {loaded.origin}"
    except (BuildError, InputError):  # of variables that ask for what cannot be had
        kernel = "no kernel"
    torch_set = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{_software_key()}/{torch_set}/{kernel}/{threads} threads"


@cache
def _software_key() -> str:
    return f"{cpu_name()}/{version('anytime-ar')}/torch {torch.__version__}"
