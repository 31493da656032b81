r"""Measure the milliseconds in curves again, for several models interleaved.

    python benchmarks/curve_timings.py runs/cifar10=docs/results/cifar10/ordered.json \
        runs/cifar10-paper=docs/results/cifar10/paper.json

`anytime evaluate` times one model on one day. Here each round generates one sample at each number
of codes of each curve, so that a slow machine slows all models. A time is the median over the
rounds. It uses one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from anytime_ar.bundle.curve import Curve
from anytime_ar.runtime.files import write_bytes
from anytime_ar.sampling import AnytimeModel, load


def main() -> None:
    """Time all models interleaved and write the times into their curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", help="RUN=CURVE; the curve is written")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = [load(pair.split("=")[0], device="cpu") for pair in options.pairs]
    paths = [Path(pair.split("=")[1]) for pair in options.pairs]
    curves = [Curve.read(path) for path in paths]
    seconds: dict[tuple[int, int], list[float]] = {}
    for number in range(options.rounds):
        for which, (model, curve) in enumerate(zip(models, curves, strict=True)):
            _time_sample(model, curve.code_length, number)  # loads its weights into the caches
            for point in curve.points:
                taken = _time_sample(model, point.codes, number)
                if number:  # the first round includes the setup
                    seconds.setdefault((which, point.codes), []).append(taken)
    for which, (curve, path) in enumerate(zip(curves, paths, strict=True)):
        points = tuple(
            point.model_copy(update={"ms": 1000 * statistics.median(seconds[which, point.codes])})
            for point in curve.points
        )
        write_bytes(path, curve.model_copy(update={"points": points}).to_json().encode())
        summary = " ".join(f"{point.codes}:{point.ms:.2f}" for point in points)
        print(f"{path}: {summary}")


def _time_sample(model: AnytimeModel, codes: int, seed: int) -> float:
    """Return the seconds that one sample takes."""
    begin = time.perf_counter()
    model.sample(1, seed=seed, codes=codes)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
