"""Compare what a code costs with conditions and without any.

    python benchmarks/conditions.py --out runs/conditions.json

Priors of one size have no condition, a class label, three attributes, a vector of 512 numbers, or a
text of 8 or 32 words. They take turns at each step, and a round draws all codes of a batch. Rows
are added before, as encoding conditions happens once a sample; it is timed by itself. Times are
processor time, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from anytime_ar.conditions import (
    ClassCondition,
    Condition,
    TextCondition,
    VectorCondition,
    encode_conditions,
)
from anytime_ar.kernel import load_kernel
from anytime_ar.kernel.instruction_sets import cpu_name
from anytime_ar.prior import NativePriorDecoder, Prior, PriorConfig, SamplingParams
from anytime_ar.prior.decoders import make_prior_decoder
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import DecodeBatch
from anytime_ar.sampling.plan import uniform_noise

LENGTH, VOCABULARY = 64, 256
SIZES = ((4, 192), (6, 512))
"""Layers and width."""
WORDS = tuple(f"word{i}" for i in range(1000))
NONE: tuple[int, dict[str, Condition], dict[str, Any]] = (0, {}, {})
KINDS: dict[str, tuple[int, dict[str, Condition], dict[str, Any]]] = {
    "none": NONE,
    "label": (10, {}, {}),
    "attributes": (
        10,
        {name: ClassCondition(names=("a", "b", "c")) for name in ("x", "y", "z")},
        {"x": 0, "y": 1, "z": 2},
    ),
    "vector": (0, {"v": VectorCondition(width=512)}, {"v": [0.1] * 512}),
    "text of 8": (
        0,
        {"text": TextCondition(words=WORDS, max_tokens=8)},
        {"text": " ".join(WORDS[:8])},
    ),
    "text of 32": (
        0,
        {"text": TextCondition(words=WORDS, max_tokens=32)},
        {"text": " ".join(WORDS[:32])},
    ),
}
"""By name: number of classes, conditions, and their values."""


def main() -> None:
    """Measure each size and batch size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--out", type=Path, default=Path("runs/conditions.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print("| prior | rows | condition | ms a code | to none (quartiles) | once, ms a row |")
    print("| :-- | --: | :-- | --: | --: | --: |")
    for layers, width in SIZES:
        config = PriorConfig(layers=layers, width=width, heads=width // 32)
        decoders = {
            name: make_prior_decoder(Prior(config, LENGTH, VOCABULARY, labels, known).eval())
            for name, (labels, known, _) in KINDS.items()
        }
        for batch in options.batches:
            for line in measure(decoders, batch, options.rounds):
                found.append({"layers": layers, "width": width, "batch": batch} | line)
                print(_line(found[-1]), flush=True)
    native = isinstance(decoders["none"], NativePriorDecoder)
    machine = {
        "processor": cpu_name(),
        "kernel": load_kernel().instruction_set if native else None,
        "threads": 1,
        "torch": torch.__version__,
    }
    write_json(options.out, {"machine": machine, "code_length": LENGTH, "results": found})


@torch.no_grad()
def measure(decoders: dict[str, Any], batch: int, rounds: int) -> list[dict[str, Any]]:
    """Time the priors by turns.

    Args:
        decoders: decoders by the name of what they are conditioned on.
        batch: number of rows.
        rounds: number of timed draws of each; a first one is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in decoders}
    once: dict[str, list[float]] = {name: [] for name in decoders}
    noise = uniform_noise(0, range(batch), LENGTH)
    for _ in range(rounds + 1):
        batches = {}
        for name, decoder in decoders.items():
            labels, known, values = KINDS[name]
            given = encode_conditions(known, values, batch) if known else None
            of_rows = torch.zeros(batch, dtype=torch.int64) if labels else None
            batches[name] = DecodeBatch(decoder, batch)
            begin = time.process_time()
            batches[name].add(noise, of_rows, SamplingParams(), conditions=given)
            once[name].append(time.process_time() - begin)
        spent = dict.fromkeys(decoders, 0.0)
        for _ in range(LENGTH):
            for name, rows in batches.items():
                begin = time.process_time()
                rows.step()
                spent[name] += time.process_time() - begin
        for name, seconds in spent.items():
            times[name].append(1000 * seconds / LENGTH)
    lines = []
    for name, values in times.items():
        pairs = zip(values[1:], times["none"][1:], strict=True)
        lower, median, upper = statistics.quantiles([one / other for one, other in pairs], n=4)
        lines.append(
            {
                "condition": name,
                "ms": statistics.median(values[1:]),
                "ratio": median,
                "quartiles": [lower, upper],
                "once_ms": 1000 * statistics.median(once[name][1:]) / batch,
            }
        )
    return lines


def _line(found: dict[str, Any]) -> str:
    """Return a measurement as a line of the table."""
    lower, upper = found["quartiles"]
    return (
        f"| {found['layers']} x {found['width']} | {found['batch']} | {found['condition']} | "
        f"{found['ms']:.3f} | {found['ratio']:.2f} ({lower:.2f} to {upper:.2f}) | "
        f"{found['once_ms']:.3f} |"
    )


if __name__ == "__main__":
    main()
