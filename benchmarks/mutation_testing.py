"""Mutation testing: change the core in one place at a time, and list changes that no test detects.

    python benchmarks/mutation_testing.py --out runs/mutants              # 200 of a fixed sample
    python benchmarks/mutation_testing.py --only sampling/cost_model.py --sample 40

First the whole test suite runs once and records which functions each test file calls. Then one
operator, number or call statement of a function is changed in a copy of the sources. The test files
that call the function run until one fails. Mutants are sampled from all possible ones with a fixed
seed. Results are stored in the folder, so that the next run continues an interrupted one.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

ROOT = Path(__file__).resolve().parent.parent
"""Root folder of the repository."""
SOURCES = ROOT / "src/anytime_ar"
"""Folder of the package sources."""
CORE = ("sampling", "autoencoder", "prior", "serving", "bundle", "evaluation")
"""Files and folders that are mutated by default, below `SOURCES`."""
SEED = 0
"""Seed of the sample of mutants."""
TIMEOUT_S = 900
"""Time limit for one test file, in seconds; a mutant that makes a test hang is noticed."""
OPERATOR_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
"""The operator that replaces each operator."""


class Mutant(NamedTuple):
    """One change of the sources."""

    path: str
    """Path of the file below `src/anytime_ar`."""
    number: int
    """Index of the change among all possible ones in the file."""
    function: str
    """The function that contains the change, as `file:first line`."""
    line: int
    """Line number of the change."""
    before: str
    """Source of the changed node before the change."""
    after: str
    """Source of the changed node after the change."""


def main() -> None:
    """Run the tests on a sample of mutants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, help="changes to try")
    parser.add_argument("--only", nargs="*", default=CORE, help="files or folders of the sources")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/mutants"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    calls = record_calls(options.out / "calls.json", options.jobs)
    every = [mutant for path in source_files(options.only) for mutant in list_mutants(path)]
    chosen = random.Random(SEED).sample(every, min(options.sample, len(every)))
    record = options.out / "mutants.json"
    results: dict[str, str] = json.loads(record.read_text("utf-8")) if record.exists() else {}
    copies = [copy_of(options.out / f"sources-{number}") for number in range(options.jobs)]
    lock = threading.Lock()

    def work(mutant: Mutant) -> None:
        key = f"{mutant.path}:{mutant.line}: {mutant.before} -> {mutant.after}"
        if key in results:
            return
        with lock:
            copy = copies.pop()
        try:
            found = run_mutant(mutant, copy, calls.get(mutant.function, {}))
        finally:
            with lock:
                copies.append(copy)
        with lock:
            results[key] = found
            write_json(record, results)
            print(f"{len(results):>4}  {found:<40} {key}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, chosen))
    print(table(results))


def source_files(only: list[str]) -> list[Path]:
    """Return the source files to mutate, in order."""
    places = [SOURCES / name for name in only]
    return [
        path
        for place in places
        for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))
    ]


def record_calls(record: Path, jobs: int) -> dict[str, dict[str, float]]:
    """Return the test files that call each function, with the seconds that each takes.

    Args:
        record: file that stores the result, which is measured only once.
        jobs: number of test processes.
    """
    if not record.exists():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "mutation_testing"]
        command += ["-n", str(jobs), "--dist", "loadfile"]
        parts = record.parent / "calls"
        parts.mkdir(exist_ok=True)
        environment = environment_of(ROOT) | {"ANYTIME_CALLS": str(parts.resolve())}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for part in sorted(parts.iterdir()):
            for function, tests in json.loads(part.read_text("utf-8")).items():
                found[function] |= tests
        write_json(record, found)
    return json.loads(record.read_text("utf-8"))


def environment_of(root: Path) -> dict[str, str]:
    """Return environment variables with which Python imports the package from `root`/src."""
    paths = [str(root / "src"), str(ROOT / "benchmarks")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def copy_of(root: Path) -> Path:
    """Copy the sources to a folder where they can be changed, and return it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(SOURCES, root / "src/anytime_ar", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def run_mutant(mutant: Mutant, copy: Path, tests: dict[str, float]) -> str:
    """Run the tests on a mutant and return `killed by FILE` or `survived`.

    Args:
        mutant: the change to make.
        copy: folder of a copy of the sources.
        tests: test files that call the function, with their seconds.
    """
    path = copy / "src/anytime_ar" / mutant.path
    original = path.read_text("utf-8")
    # Run the tests of its own package first, and fast ones before slow ones.
    own = f"tests/{Path(mutant.path).parts[0].removesuffix('.py')}/"
    order = sorted(tests, key=lambda name: (not name.startswith(own), tests[name]))
    if not order:  # only child processes call the function
        order = [own if (ROOT / own).is_dir() else "tests"]
    path.write_text(mutated_module(original, mutant.number), "utf-8")
    try:
        for name in order:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", name]
            try:
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=environment_of(copy),
                    timeout=TIMEOUT_S,
                    capture_output=True,
                )
            except subprocess.TimeoutExpired:
                return f"killed by {name}, in time"
            if done.returncode != 0:
                return f"killed by {name}"
    finally:
        path.write_text(original, "utf-8")
    return "survived"


def table(results: dict[str, str]) -> str:
    """Return how many mutants of each package were noticed, and the survivors."""
    by_part: dict[str, Counter[bool]] = defaultdict(Counter)
    for key, found in results.items():
        for part in (key.split(":")[0].split("/")[0], "all"):
            by_part[part][found != "survived"] += 1
    rows = [["part", "changes", "noticed", "share"]]
    for part in sorted(by_part, key=lambda part: (part == "all", part)):
        noticed, missed = by_part[part][True], by_part[part][False]
        share = f"{100 * noticed / (noticed + missed):.0f} %"
        rows.append([part, str(noticed + missed), str(noticed), share])
    survivors = [key for key, found in results.items() if found == "survived"]
    return "\n".join([align_table(rows), *survivors])


def list_mutants(path: Path) -> list[Mutant]:
    """Return every possible mutant of a file."""
    name = str(path.relative_to(SOURCES))
    found = []
    for number, (node, function) in enumerate(mutable_nodes(ast.parse(path.read_text("utf-8")))):
        after = deepcopy(node)
        mutate_node(after)
        where = f"{name}:{function}"
        texts = ast.unparse(node), ast.unparse(after)
        found.append(Mutant(name, number, where, node.lineno, *texts))
    return found


def mutated_module(source: str, number: int) -> str:
    """Return the source of a module with one change."""
    tree = ast.parse(source)
    node, _ = list(mutable_nodes(tree))[number]
    mutate_node(node)
    return ast.unparse(tree)


def mutable_nodes(tree: ast.Module) -> Iterator[tuple[Any, int]]:
    """Yield each node that can be changed in a function, with the first line of the function.

    Error messages, types and assertions are left out.
    """
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([outer.lineno, *(each.lineno for each in outer.decorator_list)])
            yield from ((node, first) for node in _below(outer))


def _below(node: ast.AST) -> Iterator[Any]:
    """Yield the nodes below a node that can be changed."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(
                child,
                ast.FunctionDef | ast.AsyncFunctionDef | ast.Raise | ast.Assert | ast.JoinedStr,
            ):
                continue
            if _can_change(child):
                yield child
            yield from _below(child)


def _can_change(node: ast.AST) -> bool:
    """Return whether `mutate_node` can change a node."""
    match node:
        case ast.Compare(ops=[op]) | ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            return type(op) in OPERATOR_SWAPS
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return True
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.IfExp() | ast.Expr(value=ast.Call()):
            return True
    return False


def mutate_node(node: Any) -> None:
    """Change one node of a syntax tree in place."""
    match node:
        case ast.Compare():
            node.ops = [OPERATOR_SWAPS[type(node.ops[0])]()]
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            node.op = OPERATOR_SWAPS[type(node.op)]()
        case ast.UnaryOp(op=ast.Not()):
            # `not not x` is x as a truth value.
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.UnaryOp():
            node.op = ast.UAdd()
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=value):
            node.value = value + 1 if isinstance(value, int) else 2 * value or 1.0
        case ast.IfExp():
            node.body, node.orelse = node.orelse, node.body
        case ast.Expr():
            node.value = ast.Constant(None)


# As a plugin of pytest (`-p mutation_testing`), this file records what each test file calls.

_record = os.environ.get("ANYTIME_CALLS")
_now: list[str] = []
_calls: dict[str, set[str]] = defaultdict(set)
_seconds: Counter[str] = Counter()


def _profile(frame: Any, event: str, _argument: Any) -> None:
    """Record which functions of the package the current test file calls."""
    if event == "call" and _now:
        code = frame.f_code
        if code.co_filename.startswith(str(SOURCES)):
            name = code.co_filename[len(str(SOURCES)) + 1 :]
            _calls[f"{name}:{code.co_firstlineno}"].add(_now[0])


if _record is not None:
    threading.setprofile(_profile)
    sys.setprofile(_profile)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note the current test file and start profiling."""
    _now[:] = [nodeid.split("::")[0]]
    sys.setprofile(_profile if _record is not None else None)


def pytest_runtest_logreport(report: Any) -> None:
    """Add the duration of a test to its test file."""
    _seconds[report.nodeid.split("::")[0]] += report.duration


def pytest_sessionfinish() -> None:
    """Write the recorded calls and seconds to a file."""
    if _record is not None:
        found = {
            function: {name: round(_seconds[name], 1) for name in sorted(names)}
            for function, names in _calls.items()
        }
        worker = os.environ.get("PYTEST_XDIST_WORKER", "all")
        write_json(Path(_record) / f"{worker}.json", found)


if __name__ == "__main__":
    main()
