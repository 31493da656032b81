"""Measure bulk jobs on Ray: speed compared with plain samplers, and recovery from kills.

    python benchmarks/bulk.py speed mnist --workers 2 --rounds 5 --out runs/bulk-speed.json
    python benchmarks/bulk.py kills mnist --samples 100000 --out runs/bulk-kills.json

`speed` interleaves three cases: one sampler alone, as many samplers at once as there are workers
(each a process without Ray), and Ray. A rate counts from the first shard of each worker to the last
shard of all. On a shared machine such rates vary with the load of others. Two further figures do
not: the CPU time of a sample alone and on Ray, and the fraction of time that workers spend on
shards. Their product is the speed of Ray relative to W samplers.

`kills` runs an undisturbed job and a disturbed one, and compares their files. In the disturbed job
first a worker and then the driver get SIGKILL, and the job is run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from process_stats import command_line, descendants
from pyarrow import parquet

from anytime_ar import bulk
from anytime_ar.sampling import load

ACTOR = "ray::MapWorker"
"""Beginning of the command line of a Ray worker process."""


class WorkerRate(NamedTuple):
    """The rates of a job, from the first shard of each worker on."""

    samples_per_s: float
    """Samples per second of all workers."""
    samples_per_cpu_s: float
    """Samples per second of CPU time."""
    utilization: float
    """Fraction of the workers' time that is spent on shards, 0..1."""


def measure_rate(name: str, samples: int, size: int, workers: int | None = None) -> WorkerRate:
    """Return the rates of one job on Ray, or without workers in this process.

    Args:
        name: name of the model.
        samples: number of samples.
        size: samples per shard.
        workers: number of Ray workers; None: this process alone.
    """
    import torch

    torch.set_num_threads(1)
    model = load(name, device="cpu")
    job = bulk.sample_job(
        name, model, samples, seed=0, sharding=bulk.ShardingConfig(shard_size=size)
    )
    with tempfile.TemporaryDirectory() as folder:
        if workers is None:
            bulk.run(job, folder)
        else:
            bulk.run(job, folder, engine="ray", pool=bulk.RayPoolConfig(workers=workers))
        # Times of completion; the Ray driver learns of them later.
        paths = sorted(Path(folder).glob("records/*"), key=lambda path: path.stat().st_mtime)
        times = [path.stat().st_mtime for path in paths]
        records = [json.loads(path.read_text()) for path in paths]
    first = workers or 1
    span, counted = times[-1] - times[first - 1], records[first:]
    done = sum(record["rows"] for record in counted)
    cpu_s = sum(record["cpu_seconds"] for record in counted)
    work_s = sum(record["seconds"] for record in counted)
    return WorkerRate(done / span, done / cpu_s, work_s / (first * span))


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the three cases interleaved, print them, and return the figures."""
    name, workers, size = options.model, options.workers, options.shard_size
    each = options.samples // workers
    rounds = []
    spawning = multiprocessing.get_context("spawn")
    heads = f"ray / one x {workers}  ray / at once  by processor time"
    print(f"{'one':>8} {'at once':>8} {'ray':>8}  {heads}")
    for _ in range(options.rounds):
        with spawning.Pool(workers) as processes:
            one = processes.apply(measure_rate, (name, each, size))
            at_once = sum(
                p.samples_per_s
                for p in processes.starmap(measure_rate, [(name, each, size)] * workers)
            )
        ray = measure_rate(name, options.samples, size, workers)
        shares = {
            "one": ray.samples_per_s / (one.samples_per_s * workers),
            "at_once": ray.samples_per_s / at_once,
            "processor": ray.samples_per_cpu_s / one.samples_per_cpu_s * ray.utilization,
        }
        rounds.append(
            {"one": one._asdict(), "at_once": at_once, "ray": ray._asdict(), "shares": shares}
        )
        print(
            f"{one.samples_per_s:8.0f} {at_once:8.0f} {ray.samples_per_s:8.0f}  "
            f"{shares['one']:11.2f}  {shares['at_once']:13.2f}  {shares['processor']:17.2f}"
        )
    for what in ("one", "at_once", "processor"):
        found = sorted(row["shares"][what] for row in rounds)
        print(f"{what}: {median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})")
    return {"workers": workers, "samples": options.samples, "rounds": rounds}


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """Return the command line of a bulk job."""
    args = ["bulk", "sample", options.model, "-n", str(options.samples), "--seed", "1"]
    args += ["--engine", "ray", "--workers", str(options.workers)]
    args += ["--shard-size", str(options.shard_size)]
    return [sys.executable, "-m", "anytime_ar", *args, "--json", "--out", str(out)]


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """Run an undisturbed and a disturbed job, and return the comparison of their files."""
    root = Path(tempfile.mkdtemp(prefix="bulk-kills-"))
    quiet, killed = root / "quiet", root / "killed"
    try:
        done = subprocess.run(
            command(options, quiet), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        print("undisturbed:", done.stdout.decode().strip())
        shards = len(list((quiet / "records").iterdir()))
        with subprocess.Popen(
            command(options, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as driver:
            wait_for(killed, shards // 4, driver)
            worker = next(
                pid for pid in descendants(driver.pid) if command_line(pid).startswith(ACTOR)
            )
            os.kill(worker, signal.SIGKILL)
            print(f"killed worker {worker} after {count_complete(killed)} of {shards} shards")
            wait_for(killed, shards // 2, driver)
            driver.kill()
        print(f"killed the driver after {count_complete(killed)} of {shards} shards")
        again = subprocess.run(
            command(options, killed), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        print("continued:", again.stdout.decode().strip())
        report = compare(quiet, killed)
    finally:
        shutil.rmtree(root)
    print(json.dumps(report))
    if report["different"] or not report["rows"] == report["distinct"] == options.samples:
        sys.exit("the two jobs differ")
    return report | {"continued": json.loads(again.stdout)}


def wait_for(folder: Path, shards: int, driver: subprocess.Popen[bytes]) -> None:
    """Wait until a number of shards are complete."""
    while count_complete(folder) < shards:
        if driver.poll() is not None:
            sys.exit(f"the driver ended with {driver.returncode} before it was killed")
        time.sleep(0.05)


def count_complete(folder: Path) -> int:
    """Return the number of shards with a record."""
    return len(list(folder.glob("records/*.json")))


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Return the differences of two jobs by shard, and the row counts of the second."""
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    first, second = (
        {shard["file"]: shard["sha256"] for shard in manifest["shards"]} for manifest in manifests
    )
    files = sorted(path.relative_to(other).as_posix() for path in other.glob("data/*"))
    numbers: list[int] = []
    for file in files:
        numbers += parquet.read_table(other / file, columns=["index"])["index"].to_pylist()
    return {
        "shards": len(first),
        "different": sorted({*first, *files} - {k for k in first if first[k] == second.get(k)}),
        "rows": len(numbers),
        "distinct": len(set(numbers)),
    }


def main() -> None:
    """Run the requested benchmark and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "kills"))
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=20_000, help="whole shards")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"speed": speed, "kills": kills}[options.what](options)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
