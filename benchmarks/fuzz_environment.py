"""Run commands in random hostile environments, and check how they end.

    python benchmarks/fuzz_environment.py --count 500 --seed 0 --out runs/fuzz_environment

Streams are closed, full or limited to few characters. There is no home, no cache, no folder for
temporary files, no current folder or no locale; few files may be open, files must be small, there
is one processor, and numbers are invalid. A command has to end with its
result, or with one line and a documented exit code: no traceback, no crash, no hang. Each violation
is printed with its number. `--only NUMBER` repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from anytime_ar.cli.console import EXIT_CODES, INTERNAL_ERROR
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

LIMIT_S = 120
"""Time limit of one command, in seconds."""


def main() -> None:
    """Run random commands and print the violations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one of them, with what it says")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz_environment"))
    options = parser.parse_args()
    if options.only is not None:
        print(*run_case(options.seed, options.only), sep="\n")
        return
    print(f"seed {options.seed}")
    with ThreadPoolExecutor(options.jobs) as pool:
        answers = list(pool.map(lambda n: run_case(options.seed, n), range(options.count)))
    violations = [
        f"{n}: {description}"
        for n, (answer, description) in enumerate(answers)
        if answer == VIOLATION
    ]
    counts = Counter(answer for answer, _ in answers)
    print(
        align_table([["answer", "count"], *([name, str(n)] for name, n in sorted(counts.items()))])
    )
    print("\n".join(violations) or "no violation")
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"seed": options.seed, "counts": counts, "violations": violations}
    write_json(options.out / "fuzz_environment.json", found)
    sys.exit(bool(violations))


VIOLATION = "violation"
"""Outcome of a command that breaks a rule."""


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Run the command of a number.

    Args:
        seed: seed of all commands.
        number: number of the command.

    Returns:
        The exit code or `VIOLATION`, and a description of the command.
    """
    chance = random.Random(f"{seed}/{number}")
    with tempfile.TemporaryDirectory() as place:
        return run_random_command(chance, Path(place))


def run_random_command(chance: random.Random, place: Path) -> tuple[str, str]:
    """Run one random command in a random environment.

    Args:
        chance: random numbers of this command.
        place: empty folder to run in.

    Returns:
        The exit code or `VIOLATION`, and a description of the command.
    """
    picture_path = place / "digit.png"
    Image.new("L", (28, 28), 99).save(picture_path)
    out = place / chance.choice(["out.png", "é.png", "a[1].png", "missing/out.png"])
    commands = [
        ["sample", "mnist", "-n", "1", "--out", str(out)],
        ["encode", "mnist", str(picture_path)],
        ["sample", "mnist", "-n", chance.choice(["²", "--5", "1e999", "9" * 20, "0", "x"])],
        ["--help"],
        ["sample", "--help"],
        ["evaluate", str(place / "nothing")],
        ["train", "digits", "--out", str(picture_path / "run")],
    ]
    command = chance.choice(commands)
    environment = dict(os.environ)
    shell = []
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(14):
            case 0:
                shell.append("exec >&-")
            case 1:
                shell.append("exec 2>&-")
            case 2:
                shell.append("exec >/dev/full")
            case 3:
                environment.pop("HOME", None)
            case 4:
                environment["HOME"] = chance.choice(["/nonexistent", "/proc", str(picture_path)])
            case 5:
                environment["PYTHONIOENCODING"] = chance.choice(["cp1252", "ascii", "utf-16"])
            case 6:
                environment["LC_ALL"] = chance.choice(["C", "POSIX", "tr_TR.UTF-8", "xx"])
            case 7:
                shell.append(f"ulimit -n {chance.choice([32, 64, 256])}")
            case 8:
                environment["TMPDIR"] = chance.choice(["/nonexistent", str(picture_path)])
            case 9:
                cache = chance.choice(["/nonexistent", "/proc", str(picture_path), "relative"])
                environment["XDG_CACHE_HOME"] = cache
            case 10:
                shell.append(f"ulimit -f {chance.choice([0, 8, 1024])}")
            case 11:
                shell.append("taskset -p -c 0 $$ >/dev/null")
            case 12:
                shell.append("mkdir gone; cd gone; rmdir ../gone")
            case _:
                shell.append("exec <&-")
    run = [sys.executable, "-m", "anytime_ar", *command]
    lines = [*shell, 'exec "$@"']
    begin = time.monotonic()
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines), "bash", *run],
            env=environment,
            cwd=place,
            capture_output=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return VIOLATION, f"{command} {shell}: not done after {LIMIT_S} s"
    said = done.stderr.decode("utf-8", "replace")
    changed = {k: v for k, v in environment.items() if os.environ.get(k) != v}
    description = f"{command} {shell} {changed}: exit {done.returncode}, {said[-300:]!r}"
    description += f" after {time.monotonic() - begin:.0f} s"
    wrong = "Traceback" in said or "Exception ignored" in said
    wrong = wrong or done.returncode not in EXIT_CODES or done.returncode == INTERNAL_ERROR
    if done.returncode == 0 and "--out" in command and command[0] == "sample":
        wrong = wrong or not out.exists()
    return (VIOLATION if wrong else f"exit {done.returncode}"), description


if __name__ == "__main__":
    main()
