"""Compare the kernel with PyTorch's operations, limited to one instruction set after the other.

    python benchmarks/instruction_sets.py sse avx2 avx512bf16 --out runs/instruction_sets

Each instruction set has its own process, in which kernel and PyTorch are limited to it, with one
thread. For each shipped model and batch size, both sample and decode interleaved. A ratio above 1
means that the kernel is faster: median and range over rounds. Then the codes of 1,000 seeds in
float32 and int8 are compared between instruction sets, seed by seed.

Sets of aarch64 run on another machine or under an emulator, which is not timed:

    python benchmarks/instruction_sets.py avx2 dotprod \
        --aarch64 "qemu-aarch64 -cpu max -L ROOT ROOT/usr/bin/python3.11"
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import torch
from speed import time_ratios

from anytime_ar.kernel import (
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
    cpu_name,
    load_kernel,
)
from anytime_ar.runtime.files import write_json
from anytime_ar.runtime.timing import BenchmarkCase, time_interleaved
from anytime_ar.sampling import AnytimeModel, load

MODELS = ("mnist", "cifar10", "fsdd")
"""Shipped models that are timed."""
SEEDS = 1000
"""Number of seeds whose codes are compared."""
MAX_CODES = 64
"""Maximum number of codes per sample. All codes of the audio model would take hours."""
ISA_LIMITS = {
    "sse": ("default", "SSE41"),
    "avx2": ("avx2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE"),
    "avx512vnni": ("avx512", "AVX512_CORE_VNNI"),
    "avx512bf16": ("avx512", "AVX512_CORE_BF16"),
    "neon": ("default", "DEFAULT"),
    "dotprod": ("default", "DEFAULT"),
}
"""Limits of PyTorch's own operations and of oneDNN, by instruction set."""


def main() -> None:
    """Measure each instruction set and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = [isa.name for isa in available_instruction_sets(cpu_architecture(), cpu_features())]
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(ISA_LIMITS)}; default: all here")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/instruction_sets"))
    parser.add_argument(
        "--aarch64", type=shlex.split, help="command of a Python for the sets of aarch64"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # child process
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.rows, options.rounds)))
        return
    found = {}
    if unknown := set(options.sets) - ISA_LIMITS.keys():
        parser.error(f"unknown {min(unknown)}; choose among {', '.join(ISA_LIMITS)}")
    for name in options.sets or here:
        if name not in here and options.aarch64:
            found[name] = in_process(name, options.aarch64, [], 0)
        else:
            found[name] = in_process(name, [sys.executable], options.rows, options.rounds)
        print(table(name, found[name]), flush=True)
    print("\n".join(code_differences(found)))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "instruction_sets.json", found)


def in_process(name: str, python: list[str], rows: list[int], rounds: int) -> dict:
    """Measure in a process of a Python command that is limited to an instruction set."""
    command = [*python, "-W", "ignore", __file__, "--here", "--rounds", str(rounds)]
    command += ["--rows", *map(str, rows)]
    done = subprocess.run(
        command, env=isa_environment(name), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def isa_environment(name: str) -> dict[str, str]:
    """Return the environment of a process of one thread that is limited to an instruction set."""
    aten, onednn = ISA_LIMITS[name]
    return os.environ | {
        "ANYTIME_KERNEL_ISA": name,
        "ATEN_CPU_CAPABILITY": aten,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "OMP_NUM_THREADS": "1",
    }


def measure(rows: list[int], rounds: int) -> dict:
    """Time all models, and compute digests of the codes of all seeds."""
    loaded = load_kernel()
    return {
        "processor": cpu_name(),
        "instructions": loaded.instruction_set,
        "kernel": loaded.origin,
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "rows": [row for name in MODELS if rows for row in time_backends(name, rows, rounds)],
        "digests": {
            f"{name} {precision}": digests(load(name, precision=precision, backend="native"))
            for name in MODELS
            for precision in ("float32", "int8")
        },
    }


def time_backends(name: str, rows: list[int], rounds: int) -> list[dict]:
    """Return the times of both backends and their ratios, by batch size."""
    models = [load(name, backend=backend) for backend in ("native", "portable")]
    most = min(MAX_CODES, models[0].code_length)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(
        models[0].vocabulary, (max(rows), models[0].code_length), generator=generator
    )
    found = []
    for what, make in (
        ("codes", lambda model: lambda n: model.sample_codes(n, codes=most, seed=0)),
        ("decode", lambda model: lambda n: model.decode(codes[:n])),
    ):
        cases = [
            BenchmarkCase(backend, make(model))
            for backend, model in zip(("native", "portable"), models, strict=True)
        ]
        times = time_interleaved(cases, rows, rounds=rounds)
        for native, portable in zip(times[::2], times[1::2], strict=True):
            found.append(
                {
                    "model": name,
                    "what": what,
                    "rows": native.batch_size,
                    "native_s": native.seconds,
                    "portable_s": portable.seconds,
                    "ratio": time_ratios(portable, native),
                }
            )
    return found


def digests(model: AnytimeModel) -> list[str]:
    """Return a digest of the codes of each seed."""
    codes = min(MAX_CODES, model.code_length)
    drawn = (model.sample_codes(1, codes=codes, seed=seed) for seed in range(SEEDS))
    return [sha256(one.numpy().tobytes()).hexdigest()[:16] for one in drawn]


def table(name: str, found: dict) -> str:
    """Return the ratios of an instruction set, a line for each model and batch size."""
    lines = [f"{name} ({found['processor']}; kernel {found['kernel']}; torch {found['torch']})"]
    lines.append(f"{'model':<9}{'what':<8}{'rows':>5}{'native ms':>11}{'portable / native':>26}")
    for row in found["rows"]:
        least, middle, most = row["ratio"]
        lines.append(
            f"{row['model']:<9}{row['what']:<8}{row['rows']:>5}"
            f"{1000 * sorted(row['native_s'])[len(row['native_s']) // 2]:>11.2f}"
            f"{middle:>12.2f} ({least:.2f}..{most:.2f})"
        )
    return "\n".join(lines)


def code_differences(found: dict[str, dict]) -> list[str]:
    """Return how many seeds give other codes than with the last instruction set."""
    *others, last = found
    lines = []
    for what, expected in found[last]["digests"].items():
        for name in others:
            pairs = zip(found[name]["digests"][what], expected, strict=True)
            differ = sum(a != b for a, b in pairs)
            lines.append(
                f"{what}: {differ} of {SEEDS} seeds draw other codes with {name} than {last}"
            )
    return lines


if __name__ == "__main__":
    main()
