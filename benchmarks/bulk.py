"""Bulk jobs on Ray: how fast beside plain samplers, and what is left after kills.

    python benchmarks/bulk.py speed mnist --workers 2 --rounds 5 --out runs/bulk-speed.json
    python benchmarks/bulk.py kills mnist --samples 100000 --out runs/bulk-kills.json

`speed` takes turns, within one run, of one sampler alone, of as many samplers at once as there are
workers, each a process of its own without Ray, and of Ray. Rates count from the first shard of each
to the last one of all. On an idle machine the first two differ little; on a busy one the second
shows what Ray itself costs.

`kills` runs a job that nothing happens to, and another one, in the middle of which first a worker
and then the driver get SIGKILL, and which is then run again; and compares their files.
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
from typing import Any

from processes import descendants, title
from pyarrow import parquet

from anytime_ar import bulk
from anytime_ar.sampling import load

ACTOR = "ray::MapWorker"
"""How Ray calls a process of the pool."""


def steady_rate(
    name: str, samples: int, first: int, engine: bulk.EngineName, pool: bulk.Pool, size: int
) -> float:
    """Samples a second of one job, from its `first`-th shard on."""
    job = bulk.sample_job(
        name, load(name, device="cpu"), samples, seed=0, layout=bulk.Layout(shard_size=size)
    )
    with tempfile.TemporaryDirectory() as folder:
        bulk.run(job, folder, engine=engine, pool=pool)
        # When each was complete; the driver of Ray hears of it later.
        times = sorted(path.stat().st_mtime for path in Path(folder).glob("records/*"))
    return (len(times) - first) * size / (times[-1] - times[first - 1])


def alone(name: str, samples: int, size: int) -> float:
    """Samples a second of a sampler in a process of its own."""
    import torch

    torch.set_num_threads(1)
    return steady_rate(name, samples, 1, "local", bulk.Pool(), size)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    name, workers, size = options.model, options.workers, options.shard_size
    each = options.samples // workers
    rounds = []
    spawning = multiprocessing.get_context("spawn")
    print(f"{'one':>8} {'at once':>8} {'ray':>8}   ray / (one x {workers})   ray / at once")
    for _ in range(options.rounds):
        with spawning.Pool(workers) as processes:
            one = processes.apply(alone, (name, each, size))
            at_once = sum(processes.starmap(alone, [(name, each, size)] * workers))
        pool = bulk.Pool(workers=workers)
        ray = steady_rate(name, options.samples, workers, "ray", pool, size)
        rounds.append({"one": one, "at_once": at_once, "ray": ray})
        shares = ray / (one * workers), ray / at_once
        print(f"{one:8.0f} {at_once:8.0f} {ray:8.0f}   {shares[0]:14.2f}   {shares[1]:13.2f}")
    of_one = sorted(row["ray"] / (row["one"] * workers) for row in rounds)
    of_many = sorted(row["ray"] / row["at_once"] for row in rounds)
    for what, found in ((f"one x {workers}", of_one), ("at once", of_many)):
        print(f"ray / {what}: {median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})")
    return {"workers": workers, "samples": options.samples, "rounds": rounds}


def command(options: argparse.Namespace, out: Path) -> list[str]:
    asked = ["sample", options.model, "-n", str(options.samples), "--seed", "1", "--engine", "ray"]
    asked += ["--workers", str(options.workers), "--shard_size", str(options.shard_size)]
    return [sys.executable, "-m", "anytime_ar", *asked, "--json", "--out", str(out)]


def kills(options: argparse.Namespace) -> dict[str, Any]:
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
            worker = next(pid for pid in descendants(driver.pid) if title(pid).startswith(ACTOR))
            os.kill(worker, signal.SIGKILL)
            print(f"killed worker {worker} after {complete(killed)} of {shards} shards")
            wait_for(killed, shards // 2, driver)
            driver.kill()
        print(f"killed the driver after {complete(killed)} of {shards} shards")
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
    """Until so many are complete."""
    while complete(folder) < shards:
        if driver.poll() is not None:
            sys.exit(f"the driver ended with {driver.returncode} before it was killed")
        time.sleep(0.05)


def complete(folder: Path) -> int:
    """Shards with a record."""
    return len(list(folder.glob("records/*.json")))


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Two jobs, shard by shard, and what is in the second."""
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "kills"))
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=20_000, help="whole shards")
    parser.add_argument("--shard_size", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"speed": speed, "kills": kills}[options.what](options)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
