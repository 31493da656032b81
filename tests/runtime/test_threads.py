"""How many threads a process computes with: limits of the system, and busy processors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from anytime_ar.cli import main, options
from anytime_ar.cli.options import set_threads_from, tune_threads_without_kernel
from anytime_ar.data import Prefetcher, splits
from anytime_ar.errors import InputError
from anytime_ar.kernel import BuildError
from anytime_ar.runtime import threads
from anytime_ar.runtime.threads import (
    available_cpus,
    check_omp_num_threads,
    check_threads,
    omp_num_threads,
    set_threads,
    single_thread_executor,
    tune_threads,
)

V2 = "30 24 0:26 {group} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1 = "33 31 0:30 {group} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytime_ar.runtime.threads._scheduled_cpus", lambda: 64)


def host(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system in which a process is in a control group."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.usefixtures("_large_host")
@pytest.mark.parametrize(
    ("group", "mounts", "files", "expected"),
    [
        # Kubernetes as its own container sees it: the group is the root of what is mounted.
        ("0::/", V2.format(group="/"), {"cpu.max": "400000 100000"}, 4),
        # A service of systemd: the quota of the slice around it counts.
        (
            "0::/jobs.slice/run.scope",
            V2.format(group="/"),
            {"jobs.slice/cpu.max": "250000 100000", "jobs.slice/run.scope/cpu.max": "max 100000"},
            2,
        ),
        # The smallest of several.
        (
            "0::/a/b",
            V2.format(group="/"),
            {"a/cpu.max": "8000 1000", "a/b/cpu.max": "3000 1000"},
            3,
        ),
        # A container without a namespace of its own: the path is that on the host.
        ("0::/docker/1f", V2.format(group="/docker/1f"), {"cpu.max": "500000 100000"}, 5),
        # Outside of what the namespace shows.
        ("0::/../other", V2.format(group="/"), {"cpu.max": "600000 100000"}, 6),
        ("0::/", V2.format(group="/"), {"cpu.max": "50000 100000"}, 1),
        ("0::/", V2.format(group="/"), {"cpu.max": "max 100000"}, 64),
        ("0::/", V2.format(group="/"), {}, 64),
        ("", "", {}, 64),
        ("nonsense", "nonsense", {"cpu.max": "x y"}, 64),
    ],
)
def test_a_quota_of_version_2(
    tmp_path: Path, group: str, mounts: str, files: dict[str, str], expected: int
) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert available_cpus(host(tmp_path, group, mounts, files)) == expected


@pytest.mark.usefixtures("_large_host")
@pytest.mark.parametrize(
    ("group", "quota", "expected"),
    [("/docker/1f", "400000", 4), ("/", "150000", 1), ("/docker/1f", "-1", 64)],
)
def test_a_quota_of_version_1(tmp_path: Path, group: str, quota: str, expected: int) -> None:
    place = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{place}/cpu.cfs_quota_us": quota, f"{place}/cpu.cfs_period_us": "100000"}
    groups = f"5:memory:/elsewhere\n4:cpuset:/\n3:cpu,cpuacct:{group}"
    assert available_cpus(host(tmp_path, groups, V1.format(group=group), files)) == expected


@pytest.mark.usefixtures("_large_host")
def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mounts = V2.format(group="/").replace("/sys/fs/cgroup", "/my\\040groups")
    files = {"my groups/cpu.max": "700000 100000"}
    assert available_cpus(host(tmp_path, "0::/", mounts, files)) == 7


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_an_affinity_counts_and_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    splits._decoders.cache_clear()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cpus() == 1
        assert splits._decoders()._max_workers == 1
    finally:
        os.sched_setaffinity(0, before)
        splits._decoders.cache_clear()


def test_threads_are_those_asked_for_or_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytime_ar.runtime.threads.available_cpus", lambda: 3)
    torch.set_num_threads(8)
    assert set_threads() == torch.get_num_threads() == 3
    torch.set_num_threads(2)
    assert set_threads() == torch.get_num_threads() == 2  # PyTorch's own choice, as it is less
    torch.set_num_threads(8)
    assert set_threads(processes=2) == 1
    assert set_threads(3) == torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert set_threads() == 3, "what the user has set stays"
    for number in (0, -1, 4, 1000, 99_999_999_999):
        message = f"threads={number} is outside 1..3; this process may use 3 processors$"
        with pytest.raises(InputError, match=message):
            set_threads(number)
    with pytest.raises(
        InputError, match=r"outside 1\.\.1; .* 3 processors, which 2 processes share"
    ):
        set_threads(2, processes=2)
    assert check_threads(64) == 64, "of a worker on another machine"
    with pytest.raises(InputError, match=r"threads=1025 is outside 1\.\.1024"):
        check_threads(1025)


@pytest.mark.parametrize(
    ("variable", "left", "said"),
    [
        ("abc", None, "OMP_NUM_THREADS=abc is ignored: expected a number of threads"),
        ("0", None, "OMP_NUM_THREADS=0 is ignored"),
        ("", None, None),
        ("1000", "3", "OMP_NUM_THREADS=1000 is more than the 3 processors"),
        ("2", "2", None),
    ],
)
def test_a_variable_is_corrected_before_openmp_reads_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, left: str | None, said: str | None
) -> None:
    monkeypatch.setattr("anytime_ar.runtime.threads.available_cpus", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    told: list[str] = []
    check_omp_num_threads(told.append)
    assert os.environ.get("OMP_NUM_THREADS") == left
    assert [text.startswith(said or "-") for text in told] == ([] if said is None else [True])


def test_a_command_says_once_what_is_wrong_with_the_variable(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anytime_ar", "sample", "nothing"]
    env = os.environ | {"OMP_NUM_THREADS": "abc"}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    told = done.stderr.splitlines()
    assert told[0].startswith("anytime: OMP_NUM_THREADS=abc is ignored")
    assert "no model 'nothing'" in told[1]
    assert len(told) == 2


@pytest.mark.usefixtures("_four")
def test_short_commands_take_the_fastest_number_of_threads_and_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the kernel, which does not suffer from busy processors, nothing is timed."""
    monkeypatch.setattr(threads, "_mean_seconds", lambda *_: {4: 0.3, 2: 0.2, 1: 0.01})
    monkeypatch.setattr(options, "kernel_library", lambda: None)
    tune_threads_without_kernel(Namespace(threads=None, device="cpu"))
    assert torch.get_num_threads() == 4

    def no_kernel() -> None:
        raise BuildError("none")

    monkeypatch.setattr(options, "kernel_library", no_kernel)
    tune_threads_without_kernel(Namespace(threads=None, device="cpu"))
    assert torch.get_num_threads() == 1
    set_threads_from(Namespace(threads=4, device="cpu"))
    assert torch.get_num_threads() == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("6", 6), ("4,2", 4), (" 1 ", 1), ("", None), ("0", None), ("x", None), ("-2", None)],
)
def test_a_variable_that_is_no_number_of_threads_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert omp_num_threads() == expected
    monkeypatch.setattr("anytime_ar.runtime.threads.available_cpus", lambda: 3)
    torch.set_num_threads(8)
    assert set_threads() == (8 if expected else 3)


@pytest.mark.parametrize(
    "command", ["train", "train-classifier", "evaluate", "sample", "bench", "demo"]
)
def test_a_command_refuses_no_threads(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = {"train": ["digits"], "train-classifier": ["digits"], "demo": []}.get(command, ["mnist"])
    out = [] if command == "bench" else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([command, *what, *out, "--device", "cpu", "--threads", "0"])
    assert ended.value.code == 2
    assert "threads=0 is outside 1.." in capsys.readouterr().err


def test_a_thread_of_one_thread_leaves_those_of_others() -> None:
    torch.set_num_threads(3)
    with single_thread_executor("alone") as alone, ThreadPoolExecutor(1) as other:
        assert alone.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 3
        assert other.submit(torch.get_num_threads).result() == 3


def test_batches_are_read_ahead_by_one_thread() -> None:
    torch.set_num_threads(3)
    used: list[int] = []

    class Batches:
        def __next__(self) -> None:
            used.append(torch.get_num_threads())

        def state_dict(self) -> dict[str, int]:
            return {}

    next(Prefetcher(Batches()))  # type: ignore[arg-type]
    assert used[0] == 1


class Machine:
    """A clock that work moves on, by seconds for each number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.later: dict[int, float] = seconds  # after the first ten times
        self.times = 0
        self.told: list[str] = []

    def settle(self, asked: int | None = None) -> int:
        def work() -> None:
            self.times += 1
            seconds = self.seconds if self.times <= 10 else self.later
            self.now += seconds[torch.get_num_threads()]

        chosen = tune_threads(asked, self.told.append, clock=lambda: self.now, workload=work)
        assert chosen == torch.get_num_threads()
        return chosen


@pytest.fixture
def _four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytime_ar.runtime.threads.available_cpus", lambda: 4)
    torch.set_num_threads(4)


@pytest.mark.usefixtures("_four")
def test_all_threads_where_nothing_else_runs() -> None:
    machine = Machine({4: 0.003, 1: 0.010})
    assert machine.settle() == 4
    assert machine.told == []


@pytest.mark.usefixtures("_four")
@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({4: 0.3, 2: 0.2, 1: 0.01}, 1),
        ({4: 0.03, 2: 0.006, 1: 0.01}, 2),
        ({4: 0.01, 2: 0.01, 1: 0.01}, 1),
    ],
)
def test_fewer_threads_where_more_are_no_faster(seconds: dict[int, float], best: int) -> None:
    machine = Machine(seconds)
    assert machine.settle() == best
    (told,) = machine.told
    assert f"4 threads take {1000 * seconds[4]:.0f} ms for what {best} thread" in told
    assert f"computing with {best}: --threads 4 overrides this" in told


@pytest.mark.usefixtures("_four")
def test_a_moment_is_not_a_busy_machine() -> None:
    machine = Machine({4: 0.012, 2: 0.006, 1: 0.010})
    machine.later = {4: 0.003, 2: 0.006, 1: 0.010}
    assert machine.settle() == 4
    assert machine.told == []


@pytest.mark.usefixtures("_four")
def test_threads_that_were_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({4: 0.3, 2: 0.2, 1: 0.01})
    assert machine.settle(4) == 4
    assert machine.told[0].endswith("--threads 1 would be faster")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine.settle() == 4
    assert len(machine.told) == 2
    assert Machine({}).settle(1) == 1, "nothing to compare"


@pytest.mark.usefixtures("_four")
def test_the_comparison_ends_soon_on_a_machine_that_is_very_busy() -> None:
    machine = Machine({4: 3.0, 2: 1.0, 1: 0.01})
    machine.settle()
    assert machine.now < 7.1
