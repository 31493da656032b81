"""Bulk jobs as a user of the command line meets them, here and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from anytime_ar.cli import main
from anytime_ar.sampling import DecodeBatch
from processes import command_line, descendants, wait_for

ACTOR = "ray::MapWorker"
"""How Ray calls a process of the pool."""


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line that a mistake gives."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


def test_samples_in_bulk(path_of, tmp_path, capsys) -> None:
    out = str(tmp_path / "out")
    sample = ["bulk", "sample", path_of("images"), "-n", "40", "--shard-size", "15"]
    sample += ["--class-balanced", "--save", "codes", "--codes", "4", "--out", out]
    main([*sample, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["samples"], figures["shards"], figures["new_samples"]) == (40, 3, 40)
    assert figures["codes_per_worker_s"] == pytest.approx(4 * figures["samples_per_worker_s"], 0.1)
    main([*sample, "--verify"])  # goes on with the seed that was drawn
    told = capsys.readouterr().out
    assert told == f"{out}: 40 samples in 3 shards, seed {figures['seed']}; it was complete\n"
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert (job["label"], job["save"], job["codes"]) == (list(range(10)), "codes", 4)


def test_a_data_set_in_bulk(path_of, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    encode = ["bulk", "encode", path_of("images"), "--split", "test", "--out", str(out)]
    main([*encode, "--data", "digits"])
    assert f"{out}: 179 samples in 1 shard; made 179 in" in capsys.readouterr().out
    (shard,) = out.glob("data/test-00000-of-00001.parquet")
    assert parquet.read_table(shard).column_names == ["index", "label", "codes"]
    # Without --data, that of the model.
    main(encode)
    assert "; it was complete" in capsys.readouterr().out


def test_mistakes_take_one_line(path_of, tmp_path, capsys) -> None:
    images, out = path_of("images"), ["--out", str(tmp_path / "out")]
    sample = ["bulk", "sample", images, "-n", "4"]
    unlabelled = ["bulk", "sample", path_of("images unlabelled"), "-n", "4", *out]
    for arguments, message in [
        (sample, "arguments are required: --out;"),
        (["bulk", "sample", images, *out], "arguments are required: --num-samples;"),
        (["sample", images, *out, "--shard-size", "3"], "unrecognized arguments: --shard-size"),
        ([*sample, *out, "--deadline-s", "1"], "unrecognized arguments: --deadline-s"),
        ([*sample, *out, "--codes", "[1,2]"], "--codes: expected int or null, got [1, 2]"),
        ([*sample, *out, "--workers", "2"], "workers and threads are settings of engine"),
        ([*sample, *out, "--class-balanced", "--label", "3"], "label '3' was given"),
        (
            [*unlabelled, "--class-balanced"],
            "--class-balanced, but this model has no labels; leave one out",
        ),
        ([*sample, *out, "--engine", "spark"], "spark"),
        (["encode", images], "arguments are required: files;"),
        (["bulk", "encode", images, "a.png", *out], "unrecognized arguments: a.png"),
        (["encode", images, "a.png", "--verify"], "unrecognized arguments: --verify"),
        (["bulk", "smple"], "unknown command 'bulk smple', did you mean 'bulk sample'?"),
    ]:
        assert message in fails(arguments, capsys)
    assert not (tmp_path / "out").exists()


def test_sigterm_ends_a_job_with_what_it_has(path_of, tmp_path) -> None:
    out = tmp_path / "out"
    with start(path_of("images"), out, "local", 100_000) as process:
        until(lambda: complete(out) >= 2, process)
        process.terminate()
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 143
    assert f"of 2000 shards are complete in {out}, and the same command makes the" in told
    assert complete(out) >= 2
    assert not (out / "manifest.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_dropped_ends_a_job_all_the_same(
    path_of, tmp_path, capsys, monkeypatch
) -> None:
    """As in the destructor of a file, where Python cannot raise it."""
    real = DecodeBatch.step
    signals = iter([signal.SIGTERM])

    class Closing:
        def __del__(self) -> None:
            for number in signals:
                signal.raise_signal(number)

    def step(*arguments):
        Closing()
        return real(*arguments)

    monkeypatch.setattr(DecodeBatch, "step", step)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(command(path_of("images"), out, "local", 1000))
    assert ended.value.code == 143
    assert "1 of 20 shards are complete" in capsys.readouterr().err
    assert complete(out) == 1


def test_ray_with_a_killed_worker_and_a_killed_driver_gives_what_one_process_gives(
    path_of, tmp_path, capsys
) -> None:
    out, samples = tmp_path / "ray", 10_000
    with start(path_of("images"), out, "ray", samples) as driver:
        until(lambda: complete(out) >= 3, driver)
        worker = next(pid for pid in descendants(driver.pid) if command_line(pid).startswith(ACTOR))
        os.kill(worker, signal.SIGKILL)
        there = complete(out)
        until(lambda: complete(out) >= there + 3, driver)
        driver.kill()
        assert driver.stdout is not None
        assert driver.stdout.read() == ""  # the dead worker is told elsewhere
    made = complete(out)
    assert made < 200, "it ended before it was killed"
    main(command(path_of("images"), out, "local", samples))  # any engine goes on
    assert 0 < json.loads(capsys.readouterr().out)["new_samples"] <= samples - made * 50
    local = tmp_path / "local"
    main(command(path_of("images"), local, "local", samples))
    assert (out / "manifest.json").read_bytes() == (local / "manifest.json").read_bytes()
    assert shards(out) == shards(local)


def command(model: str, out: Path, engine: str, samples: int) -> list[str]:
    workers = ["--workers", "2"] if engine == "ray" else []
    cut = ["--shard-size", "50", "--seed", "1", "--json", "--out", str(out)]
    return ["bulk", "sample", model, "-n", str(samples), "--engine", engine, *workers, *cut]


def start(model: str, out: Path, engine: str, samples: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "anytime_ar", *command(model, out, engine, samples)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    wait_for(lambda: condition() or process.poll() is not None, "a process")
    assert condition(), process.stderr.read()  # type: ignore[union-attr]


def complete(out: Path) -> int:
    return len(list(out.glob("records/*.json")))


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("data/*")}
