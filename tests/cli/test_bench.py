"""`anytime bench`: its figures, its neighbours and where it finds the benchmarks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from anytime_ar.cli import main
from anytime_ar.kernel import load_kernel
from cli.command_line import fails
from processes import is_running

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_bench_speed(folder, tmp_path, capsys):
    run, out = str(folder / "run"), tmp_path / "bench"
    main(["bench", run, "--batch-sizes", "[1,2]", "--rounds", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "int8 portable products only" in printed
    assert "1 rows: 4 codes take" in printed
    assert "2 rows: first preview after" in printed
    assert json.loads((out / "speed.json").read_text())["code_length"] == 4
    with Image.open(out / "speed.png") as picture:
        assert picture.width > 100


def test_bench_deadlines_beside_a_neighbour(folder, tmp_path, capsys):
    bench = ["bench", str(folder / "run"), "deadlines", "--draws", "3", "--busy-processes", "1"]
    main([*bench, "--json", "--out", str(tmp_path / "bench")])
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "bench" / "deadlines.json").read_text())
    assert [row["draws"] for row in figures["deadlines"]] == [3] * 8
    assert multiprocessing.active_children() == []
    assert "choose from" in fails(["bench", str(folder / "run"), "sped"], capsys)


def test_a_neighbour_ends_with_the_benchmark_that_was_killed(tmp_path):
    """What keeps a core busy must not outlive its benchmark."""
    script = (
        "import time\n"
        "from busy_processes import busy_processes\n"
        "if __name__ == '__main__':\n"
        "    with busy_processes(1) as neighbours:\n"
        "        print(neighbours[0].pid, flush=True)\n"
        "        time.sleep(3600)\n"
    )
    (tmp_path / "busy.py").write_text(script)
    command = [sys.executable, str(tmp_path / "busy.py")]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as benchmark:
        assert benchmark.stdout is not None
        neighbour = int(benchmark.stdout.readline())
        assert is_running(neighbour)
        benchmark.kill()
    for _ in range(6000):
        if not is_running(neighbour):
            return
        time.sleep(0.05)
    os.kill(neighbour, signal.SIGKILL)
    pytest.fail("the neighbour lives on")


@pytest.fixture
def no_kernel_yet() -> Iterator[None]:
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


@pytest.mark.usefixtures("no_kernel_yet")
def test_a_benchmark_with_a_setting_that_cannot_be_met_does_not_begin(monkeypatch, capsys):
    monkeypatch.setenv("ANYTIME_KERNEL_ISA", "mmx")
    told = fails(["bench", "no-such-model"], capsys)  # for which it did not look yet
    assert "there is no such instruction set" in told


def test_the_script_is_the_same_command(folder):
    command = [sys.executable, BENCHMARKS / "bench.py", folder / "run", "deadlines"]
    done = subprocess.run(
        [*command, "--draws", "1", "--threads", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert figures["machine"]["threads"] == 1
    assert [row["draws"] for row in figures["deadlines"]] == [1] * 8


def test_without_the_repository_it_says_where_the_benchmarks_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("anytime_ar.cli.bench._ROOT", tmp_path)
    told = fails(["bench", "mnist"], capsys)
    assert "the benchmarks are not part of the installed package in" in told
    assert "in a clone of the anytime-ar repository, run pip install -e . and then" in told
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--help"])
    assert stopped.value.code == 0
    assert "--busy-processes" in capsys.readouterr().out
