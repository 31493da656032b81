"""Choose the number of threads that this process computes with.

A host may have 64 processors and a container on it 4: as a CPU affinity (`taskset`, SLURM, Docker's
`--cpuset-cpus`) or as a quota of the control group (`docker --cpus`, Kubernetes). PyTorch's default
respects the affinity but not the quota. With more threads than the quota, all of them are throttled
for the rest of each period.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anytime_ar.errors import InputError, plural

MAX_THREADS = 1024
"""Largest number of threads that may be requested of a worker on another machine; OpenMP ends the
process if it cannot start them."""
_ROUNDS = 5
"""Rounds in which each number of threads is timed. The sum counts, not the best time: delays from
threads that wait for each other are rare and long."""
_TIMING_LIMIT_S = 0.5
"""Seconds after which no further round is started."""


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, at least 1.

    Args:
        root: root of the file system from which control group limits are read.
    """
    return max(1, min([_scheduled_cpus(), *map(int, _quotas(root))]))


def _scheduled_cpus() -> int:
    """Return the number of processors that the scheduler may run this process on."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


class _CgroupMount(NamedTuple):
    """A mounted hierarchy of control groups."""

    group: str
    """Path of the control group that is mounted."""
    mount_point: str
    """Folder where the hierarchy is mounted."""
    controllers: frozenset[str]
    """Controllers of the hierarchy; empty for version 2, which has one hierarchy for all."""


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of each control group around this process, in processors."""
    for folder in cgroup_folders(root, "cpu"):
        quota = _read_quota(folder)
        if quota is not None:
            yield quota


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of each control group around this process, from its own outwards.

    Args:
        root: folder of the file system.
        controller: what the groups limit, `cpu` or `memory`.
    """
    own = read_lines(root / "proc/self/cgroup")
    mounts = [
        mount for line in read_lines(root / "proc/self/mountinfo") if (mount := _parse_mount(line))
    ]
    for _, controllers, group in (line.split(":", 2) for line in own if line.count(":") >= 2):
        for mount in mounts:
            if controllers:
                fits = controller in controllers.split(",") and controller in mount.controllers
            else:
                fits = not mount.controllers
            if not fits:
                continue
            # In a container, its own group is often the mounted one: remove its path.
            inside = "/" if mount.group == "/" else mount.group + "/"
            below = group.removeprefix(inside) if group.startswith(inside) else ""
            top = root / mount.mount_point.lstrip("/")
            here = top / below.lstrip("/")
            for folder in (here, *here.parents):
                yield folder
                if folder == top:
                    break


def _parse_mount(line: str) -> _CgroupMount | None:
    """Parse a line of mountinfo; return None if it is no hierarchy of control groups."""
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    if not dash or len(fields) < 5 or not rest or rest[0] not in ("cgroup", "cgroup2"):
        return None
    # Spaces and the like are written as octal numbers.
    group, mount_point = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), f) for f in fields[3:5])
    options = frozenset(rest[-1].split(",")) if rest[0] == "cgroup" else frozenset()
    return _CgroupMount(group, mount_point, options)


def _read_quota(folder: Path) -> float | None:
    """Return the CPU quota of a control group in processors; None for no limit."""
    if words := " ".join(read_lines(folder / "cpu.max")).split():
        limit, period = words[0], words[1] if len(words) > 1 else "100000"
    else:
        limit, period = (
            " ".join(read_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
        )
    if not limit.isdecimal() or not period.isdecimal() or not int(period):
        return None  # "max", "-1", or nothing
    return int(limit) / int(period)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def check_threads(threads: int, *, processes: int | None = None) -> int:
    """Check a requested number of threads, and return it.

    Args:
        threads: the requested number.
        processes: number of processes that share the processors of this machine; None: the threads
            run on other machines, whose processors are not known here.

    Raises:
        InputError: it is less than 1, or more than each process has processors.
    """
    cpus = available_cpus()
    limit = MAX_THREADS if processes is None else max(1, cpus // processes)
    if not 1 <= threads <= limit:
        shared = f", which {processes} processes share" if processes and processes > 1 else ""
        raise InputError(
            f"threads={threads} is outside 1..{limit}; this process may use "
            f"{plural(cpus, 'processor')}{shared}"
        )
    return threads


def omp_num_threads() -> int | None:
    """Return the number of threads in OMP_NUM_THREADS; None if it is unset or invalid.

    OpenMP ignores invalid values.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and 1 <= int(first) <= MAX_THREADS else None


def check_omp_num_threads(warn: Callable[[str], object]) -> None:
    """Correct OMP_NUM_THREADS in the environment, before PyTorch and its OpenMP are loaded.

    An invalid value is removed, and one above the processors that this process may use is lowered.

    Args:
        warn: receives a sentence if the value was changed.
    """
    value = os.environ.get("OMP_NUM_THREADS")
    if value is None:
        return
    threads, cpus = omp_num_threads(), available_cpus()
    if threads is None:
        del os.environ["OMP_NUM_THREADS"]
        if value:
            warn(
                f"OMP_NUM_THREADS={value} is ignored: expected a number of threads in "
                f"1..{MAX_THREADS}; correct or unset it"
            )
    elif threads > cpus:
        os.environ["OMP_NUM_THREADS"] = str(cpus)
        warn(
            f"OMP_NUM_THREADS={value} is more than the {plural(cpus, 'processor')} that this "
            f"process may use; computing with {cpus}"
        )


def set_threads(requested: int | None = None, *, processes: int = 1) -> int:
    """Set PyTorch's number of threads in this process, and return it.

    Args:
        requested: the number. None: OMP_NUM_THREADS if set, else PyTorch's default, limited to the
            processors that this process may use.
        processes: number of processes that share those processors.

    Raises:
        InputError: `requested` is not a valid number of threads.
    """
    import torch

    threads = torch.get_num_threads()
    if requested is not None:
        threads = check_threads(requested, processes=processes)
    elif omp_num_threads() is None:
        threads = max(1, min(threads, available_cpus() // processes))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads


def single_thread_executor(name: str) -> ThreadPoolExecutor:
    """Start a thread whose PyTorch operations use no further threads.

    OpenMP has a pool of threads for each calling thread, and a pool's threads occupy their
    processors for a while after each operation. Two pools on two cores made a training step take 34
    ms instead of 19 ms.

    Args:
        name: prefix of the thread's name.
    """
    import torch

    own = torch.get_num_threads()

    def limit() -> None:
        """Limit the operations of this thread to one thread."""
        torch.get_num_threads()  # the first call in a thread sets its default
        torch.set_num_threads(1)

    thread = ThreadPoolExecutor(1, name)
    thread.submit(limit).result()
    torch.set_num_threads(own)  # the limit became the default of future threads
    return thread


def tune_threads(
    requested: int | None,
    warn: Callable[[str], object],
    *,
    processes: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    workload: Callable[[], object] | None = None,
) -> int:
    """Set PyTorch's number of threads for computation on a CPU, by timing.

    Threads wait for each other after every operation, so one that shares its processor with another
    program delays all. On two busy cores, training took 50 s with two threads and 14 s with one. So
    a short computation is timed with all threads and with fewer, and fewer are used if they are no
    slower.

    Args:
        requested: the number, which is then not changed. None: see `set_threads`.
        warn: receives a sentence if fewer threads are faster.
        processes: number of processes that share the processors.
        clock: returns the time in seconds.
        workload: the computation to time. None: a few matrix products.

    Returns:
        The number of threads that was set.

    Raises:
        InputError: `requested` is not a valid number of threads.
    """
    import torch

    threads = set_threads(requested, processes=processes)
    if threads == 1:
        return 1
    seconds = time_threads([threads, 1], clock, workload)
    best = fastest_threads(seconds)
    chosen = threads if requested is not None or omp_num_threads() else best
    torch.set_num_threads(chosen)
    if best < threads:
        warn(
            f"{threads} threads take {1000 * seconds[threads]:.0f} ms for what "
            f"{plural(best, 'thread')} can do in {1000 * seconds[best]:.0f} ms, as other programs "
            "use the processors; "
            + (
                f"--threads {best} would be faster"
                if chosen == threads
                else f"computing with {best}: --threads {threads} overrides this"
            )
        )
    return chosen


def time_threads(
    numbers: list[int],
    clock: Callable[[], float] = time.perf_counter,
    workload: Callable[[], object] | None = None,
) -> dict[int, float]:
    """Return the mean time of a short computation in seconds, by number of threads.

    Where the largest number is no faster than one thread, its halves are timed as well. PyTorch's
    number of threads is then that of the last computation.

    Args:
        numbers: numbers of threads, of which one is 1.
        clock: returns the time in seconds.
        workload: the computation to time. None: a few matrix products.
    """
    workload = workload or _matmul_workload()
    most = max(numbers)
    seconds = _mean_seconds(numbers, clock, workload)
    if most > 1 and seconds[most] >= seconds[1]:  # time again: the load may have been brief
        halves = [most >> halvings for halvings in range(1, most.bit_length() - 1)]
        again = _mean_seconds(sorted({*numbers, *halves}, reverse=True), clock, workload)
        seconds = {number: (seconds.get(number, s) + s) / 2 for number, s in again.items()}
    return seconds


def fastest_threads(seconds: dict[int, float]) -> int:
    """Return the number of threads to compute with: all that were timed, or fewer if no slower.

    Args:
        seconds: time by number of threads, see `time_threads`.
    """
    most = max(seconds)
    return most if seconds[most] < seconds[1] else min(sorted(seconds), key=seconds.__getitem__)


def _mean_seconds(
    numbers: list[int], clock: Callable[[], float], workload: Callable[[], object]
) -> dict[int, float]:
    """Return the mean time of `workload` in seconds, by number of threads."""
    import torch

    spent: dict[int, list[float]] = {number: [] for number in numbers}
    begin = clock()
    for _ in range(_ROUNDS):
        for number, times in spent.items():
            torch.set_num_threads(number)
            start = clock()
            workload()
            times.append(clock() - start)
        if clock() - begin > _TIMING_LIMIT_S:
            break
    return {number: sum(times) / len(times) for number, times in spent.items()}


def _matmul_workload() -> Callable[[], object]:
    """Return a computation of 10 ms that resembles training: 100 short parallel operations."""
    import torch

    matrix = torch.full((256, 256), 1 / 256, device="cpu")

    def work() -> None:
        """Multiply and rectify a small matrix repeatedly."""
        rows = torch.ones(128, 256, device="cpu")
        for _ in range(50):
            rows = torch.relu(torch.mm(rows, matrix))

    work()  # warm-up
    return work
