"""Mutation testing: change the core in one place at a time, and list changes that no test detects.

    python benchmarks/mutation_testing.py --out runs/mutants              # 200 of a fixed sample
    python benchmarks/mutation_testing.py --out runs/mutants --retry      # again those not killed
    python benchmarks/mutation_testing.py --only sampling/cost_model.py --sample 40

A mutant is the package with one operator, number or call statement of a function changed. Mutants
are sampled from all possible ones with a fixed seed.

First the test files of the changed packages, and those that belong to no package, run once. They
record which functions each test calls, and how long it takes. For each mutant, tests that call the
changed function run until one fails: those of the same package first, and quick ones before slow
ones, `BUDGET_S` in all. Tests that only reach the core through a server process run last, for
mutants of their package that few other tests call.

After a failure or a hang, the same tests run on unchanged sources. If they pass, the mutant is
killed. If they fail, this is an error of the tests and kills nothing.

Each run of tests is a fork of one process that has imported PyTorch and other libraries, but not
the package. Records and results stay in the folder `--out`: the next run continues an interrupted
one, and runs only test files again whose sources have changed.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import faulthandler
import hashlib
import importlib
import json
import multiprocessing
import os
import py_compile
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
"""Root folder of the repository."""
SOURCES = ROOT / "src/anytime_ar"
"""Folder of the package sources."""
CORE = ("sampling", "autoencoder", "prior", "serving/engine", "bundle", "evaluation/metrics")
"""Files and folders that are mutated by default, below `SOURCES`."""
LEFT_OUT = (
    "bundle/test_push.py",
    "serving/test_client_example.py",
    "serving/test_cluster.py",
    "serving/test_cluster_server.py",
    "serving/test_container.py",
    "serving/test_extras.py",
    "serving/test_fuzz.py",
    "serving/test_page.py",
    "test_packaging.py",
)
"""Test files that start many processes, Ray, a browser or containers: they kill no mutant."""
PROCESS_TESTS = ("serving/test_http.py", "serving/test_promises.py")
"""Test files that talk to a server process. Which functions they call there is not recorded."""
FEW_TESTS = 10
"""Number of tests from which on those of `PROCESS_TESTS` are not tried."""
PRELOADED = (
    "torch",
    "torch.utils.data",
    "numpy",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.signal",
    "scipy.stats",
    "sklearn.decomposition",
    "sklearn.neighbors",
    "PIL.Image",
    "matplotlib.pyplot",
    "pydantic",
    "jsonargparse",
    "lightning_fabric",
    "safetensors.torch",
    "soundfile",
    "soxr",
    "pystoi",
    "fastapi.testclient",
    "uvicorn",
    "prometheus_client",
    "httpx",
    "huggingface_hub",
    "hypothesis.strategies",
    "_hypothesis_pytestplugin",
)
"""Libraries that the parent process imports, so that its forks need not."""
SEED = 0
"""Seed of the sample of mutants."""
BUDGET_S = 60.0
"""Most seconds of tests to try on one mutant; each test file adds `FILE_S`."""
FILE_S = 3.0
"""Seconds that a run of one test file takes beside its tests."""
START_LIMIT_S = 120.0
"""Time limit to import the package and collect tests, in seconds."""
UNKNOWN_S = 10.0
"""Seconds that a test is taken to need if none are recorded."""
MEMORY_LIMIT = 12 * 2**30
"""Bytes of address space that a run may use."""
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

    @property
    def key(self) -> str:
        """Name of the mutant in records."""
        return f"{self.path}:{self.line}: #{self.number}: {self.before} -> {self.after}"


class Run(NamedTuple):
    """What came of a run of tests."""

    failed: bool
    """Whether a test failed, hung, or ended the process."""
    ran: tuple[str, ...]
    """Tests that began, in order; the last one failed. Empty if none could be collected."""
    why: str
    """How it failed: the error in one line, `timed out` or `ended the process`."""


_root = Path()
"""Folder of this process, with the copy of the sources that it may change."""


def main() -> None:
    """Run the tests on a sample of mutants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, help="changes to try")
    parser.add_argument("--only", nargs="*", default=CORE, help="files or folders of the sources")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--retry", action="store_true", help="try again what was not killed")
    parser.add_argument("--out", type=Path, default=Path("runs/mutants"))
    options = parser.parse_args()
    out = options.out.resolve()
    every = [mutant for path in source_files(options.only) for mutant in list_mutants(path)]
    chosen = random.Random(SEED).sample(every, min(options.sample, len(every)))
    preload()
    context = multiprocessing.get_context("fork")
    folders = context.SimpleQueue()
    for number in range(options.jobs):
        folders.put(copy_sources(out / f"job-{number}"))
    with ProcessPoolExecutor(options.jobs, context, _take_folder, (folders,)) as pool:
        names = sorted({test_folder(mutant) for mutant in chosen})
        calls = record_calls(pool, out / "calls", test_files(names))
        record = out / "mutants.jsonl"
        results = {
            key: outcome
            for key, outcome in read_results(record).items()
            if outcome.startswith("killed") or not options.retry
        }
        tasks = [
            (mutant, select_tests(mutant, calls)) for mutant in chosen if mutant.key not in results
        ]
        for mutant, outcome in pool.map(try_mutant, tasks):
            results[mutant.key] = outcome
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"mutant": mutant.key, "outcome": outcome}) + "\n")
            print(f"{len(results):>4}  {mutant.key}\n      {outcome}", flush=True)
    tried = {mutant.key: results[mutant.key] for mutant in chosen}
    write_summary(out / "mutants.json", tried, len(every))
    print(table(tried))


def preload() -> None:
    """Import libraries, but not the package, so that forks of this process start fast."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    assert "anytime_ar" not in sys.modules


def _take_folder(folders: Any) -> None:
    """Choose the folder of a new process."""
    global _root
    _root = folders.get()


def copy_sources(root: Path) -> Path:
    """Copy the sources to a folder where they can be changed, and return it.

    Compiled modules are checked by the hash of their source: times of files are too coarse.
    """
    shutil.rmtree(root, ignore_errors=True)
    copy = root / "src/anytime_ar"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(
        copy, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
    return root


def read_results(record: Path) -> dict[str, str]:
    """Return the latest outcome of each mutant in a file."""
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    return {entry["mutant"]: entry["outcome"] for entry in map(json.loads, lines)}


def source_files(only: list[str]) -> list[Path]:
    """Return the source files to mutate, in order."""
    places = [SOURCES / name for name in only]
    return [
        path
        for place in places
        for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))
    ]


def test_folder(mutant: Mutant) -> str:
    """Return the name of the folder with the tests of the mutant's package."""
    return Path(mutant.path).parts[0].removesuffix(".py")


def test_files(folders: Sequence[str]) -> list[str]:
    """Return the test files whose calls are recorded, relative to `ROOT`.

    Args:
        folders: folders below `tests`; files of `tests` itself come first.
    """
    tests = ROOT / "tests"
    files = [path for name in ("", *folders) for path in sorted((tests / name).glob("test_*.py"))]
    names = [str(path.relative_to(tests)) for path in files]
    return [f"tests/{name}" for name in names if name not in (*LEFT_OUT, *PROCESS_TESTS)]


def record_calls(pool: Executor, folder: Path, files: list[str]) -> dict[str, Any]:
    """Return for each test file the functions that its tests call.

    Args:
        pool: processes that run tests.
        folder: records of earlier runs, which hold while no source has changed.
        files: test files.

    Returns:
        For each file: `tests`, with the seconds and functions of each test that passes, and
        `shared`, the functions called by imports and by fixtures that tests share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*.py")):
        package.update(path.read_bytes())
    found, stale = {}, []
    for name in files:
        digest = package.copy()
        path = ROOT / name
        helpers = [each for each in path.parent.glob("*.py") if not each.match("test_*")]
        for each in (path, *sorted(helpers), *sorted((ROOT / "tests").glob("[!t]*.py"))):
            digest.update(each.read_bytes())
        record = folder / f"{path.parent.name}-{path.stem}-{digest.hexdigest()[:16]}.json"
        if record.exists():
            found[name] = read_calls(record)
        else:
            stale.append((name, record))
    for number, message in enumerate(pool.map(record_file, stale)):
        print(f"{number + 1}/{len(stale)} {message}", flush=True)
    found |= {name: read_calls(record) for name, record in stale if record.exists()}
    return found


def read_calls(record: Path) -> dict[str, Any]:
    """Return the functions that tests of a file call."""
    found = json.loads(record.read_text("utf-8"))
    for test in found["tests"].values():
        test["functions"] = set(test["functions"])
    return found


def record_file(task: tuple[str, Path]) -> str:
    """Run a test file, store the functions that its tests call, and return what to report."""
    name, record = task
    recorder = CallRecorder(_root)
    found = run_forked([name], recorder)
    if not recorder.calls.exists():
        return f"{name} is left out: {found.why} in {found.ran[-1:]}"
    recorder.calls.replace(record)
    return name


def select_tests(mutant: Mutant, calls: dict[str, Any]) -> list[list[tuple[str, float]]]:
    """Return the tests to try on a mutant, with their seconds, in one group for each file.

    Tests that call the changed function come first, then those whose shared fixtures or imports
    do. Test files of the same package come before others, and quick ones before slow ones.
    """
    groups = []
    for file, found in calls.items():
        tests = sorted((test["seconds"], name) for name, test in found["tests"].items())
        direct = [
            (name, seconds)
            for seconds, name in tests
            if mutant.function in found["tests"][name]["functions"]
        ]
        shared = mutant.function in found["shared"]
        other = file.split("/")[1] != test_folder(mutant)
        if direct:
            groups.append((False, other, sum(seconds for _, seconds in direct), direct))
        if shared:
            rest = [(name, seconds) for seconds, name in tests if (name, seconds) not in direct]
            groups.append((True, other, sum(seconds for _, seconds in rest), rest))
    chosen, left = [], BUDGET_S
    for *_, group in sorted(groups):
        left -= FILE_S
        kept = []
        for name, seconds in group:
            left -= seconds
            if left < 0 and (chosen or kept):
                break
            kept.append((name, seconds))
        if kept:
            chosen.append(kept)
        if left < 0:
            break
    return chosen


def try_mutant(
    task: tuple[Mutant, list[list[tuple[str, float]]]],
) -> tuple[Mutant, str]:
    """Run tests on a mutant until one kills it, and return the outcome.

    The sources to compare with have passed through the syntax tree as well, without a change.
    """
    mutant, groups = task
    path = _root / "src/anytime_ar" / mutant.path
    original = path.read_text("utf-8")
    changed, unchanged = mutated_module(original, mutant.number), ast.unparse(ast.parse(original))
    slow = [f"tests/{name}" for name in PROCESS_TESTS if name.startswith(test_folder(mutant) + "/")]
    if sum(map(len, groups)) >= FEW_TESTS:
        slow = []
    outcome = "survived" if groups or slow else "survived: no test calls it"
    runs: list[tuple[list[str], SelectedTests]] = []
    for group in groups:
        file = group[0][0].split("::")[0]
        runs.append(([file], SelectedTests(_root, dict(group))))
    runs += [([name], SelectedTests(_root, None)) for name in slow]
    try:
        for files, selection in runs:
            path.write_text(changed, "utf-8")
            first = run_forked(files, selection)
            if not first.failed:
                continue
            last = first.ran[-1] if first.ran else files[0]
            until = selection.until(first.ran)
            path.write_text(unchanged, "utf-8")
            compared = run_forked(files, until)
            if not compared.failed:
                return mutant, f"killed by {last}: {first.why}"
            outcome = f"error: {last} fails on unchanged sources: {compared.why}"
    finally:
        path.write_text(original, "utf-8")
    return mutant, outcome


def run_forked(files: list[str], watch: Watch) -> Run:
    """Run tests in a fork of this process, with the package from the folder `_root`.

    Args:
        files: test files, relative to `ROOT`.
        watch: plugin of pytest that says which of their tests to run.
    """
    watch.state.unlink(missing_ok=True)
    watch.hang.write_bytes(b"")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _enter_fork()
            options = ["-q", *watch.options, "--tb=short", f"--basetemp={_root / 'tmp'}"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-seed=0"]
            for plugin in ("_hypothesis_pytestplugin", "no:cacheprovider", "no:faulthandler"):
                options += ["-p", plugin]
            code = int(pytest.main([*options, *files], plugins=[watch]))
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that tests have started
    state = json.loads(watch.state.read_text("utf-8")) if watch.state.exists() else {}
    why = state.get("why") or "ended the process"
    if watch.hang.stat().st_size:
        why = "timed out"
    return Run(status != 0, tuple(state.get("ran", ())), why)


def _enter_fork() -> None:
    """Prepare this process, a fork, for a run of tests: own group, package, cache and output."""
    os.setsid()
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, resource.RLIM_INFINITY))
    log = os.open(_root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    package = str(_root / "src")
    sys.path.insert(0, package)
    os.environ["PYTHONPATH"] = os.pathsep.join([package, str(ROOT / "benchmarks")])
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # most take long to import
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(_root / "hypothesis")
    os.environ["XDG_CACHE_HOME"] = str(make_cache())


def make_cache() -> Path:
    """Make a new cache folder with the kernels and timings of the user's, and return it.

    A mutant may write wrong timings. They must not reach the next run.
    """
    users = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "anytime-ar"
    kernels = users / "native"
    kernels.mkdir(parents=True, exist_ok=True)
    cache = _root / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    (cache / "anytime-ar").mkdir(parents=True)
    (cache / "anytime-ar/native").symlink_to(kernels, target_is_directory=True)
    for path in users.glob("*.json"):
        shutil.copy(path, cache / "anytime-ar")
    return cache


class Watch:
    """A plugin of pytest that notes the progress of a run in files, and ends a run that hangs.

    Args:
        root: folder of the files.
    """

    options: Sequence[str] = ()
    """Options of pytest."""

    def __init__(self, root: Path) -> None:
        self.state, self.hang = root / "state.json", root / "hang.txt"
        self._ran: list[str] = []

    def pytest_sessionstart(self) -> None:
        """Limit the time until the first test begins."""
        self._file = self.hang.open("w", encoding="utf-8")
        self._limit(START_LIMIT_S)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note the test that begins, and limit its time."""
        self._ran.append(nodeid)
        self._note("")
        self._limit(self.limit_s(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        if report.failed:
            self._note(error_line(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note that tests cannot be collected."""
        if report.failed:
            self._note(error_line(report))

    def pytest_sessionfinish(self) -> None:
        """Limit the time that pytest needs to end."""
        self._limit(START_LIMIT_S)

    def limit_s(self, nodeid: str) -> float:
        """Return the time limit of a test, in seconds."""
        raise NotImplementedError

    def _limit(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def _note(self, why: str) -> None:
        self.state.write_text(json.dumps({"ran": self._ran, "why": why}), "utf-8")


def error_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the error of a report in one line."""
    lines = str(report.longreprtext).splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["failed"])[0][:200]


class SelectedTests(Watch):
    """A run of chosen tests.

    Args:
        root: folder of the files.
        seconds: tests to run in order, with the seconds that each takes; None for all.
    """

    options = ("-x",)

    def __init__(self, root: Path, seconds: dict[str, float] | None) -> None:
        super().__init__(root)
        self._seconds = seconds

    def until(self, ran: Sequence[str]) -> SelectedTests:
        """Return the selection of tests that began in a run, or itself if none did."""
        if not ran:
            return self
        known = self._seconds or {}
        return SelectedTests(self.state.parent, {name: known.get(name, UNKNOWN_S) for name in ran})

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Select and sort the tests. Afterwards, pytest joins those with common fixtures."""
        if self._seconds is not None:
            ranks = {name: rank for rank, name in enumerate(self._seconds)}
            items[:] = sorted(
                (item for item in items if item.nodeid in ranks),
                key=lambda item: ranks[item.nodeid],
            )

    def limit_s(self, nodeid: str) -> float:
        """Return the time limit of a test, in seconds."""
        return 30 + 10 * (self._seconds or {}).get(nodeid, UNKNOWN_S)


class CallRecorder(Watch):
    """A run of all tests of a file that records which functions of the package each test calls.

    Args:
        root: folder of the files, and of the package.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls = root / "calls.json"
        self.calls.unlink(missing_ok=True)
        self._prefix = str(root / "src/anytime_ar") + os.sep
        self._seconds: Counter[str] = Counter()
        self._functions: dict[str, set[str]] = defaultdict(set)
        self._unfit: set[str] = set()
        self._name = ""  # of the current test; empty for what tests share
        self._seen: set[int] = set()

    def pytest_sessionstart(self) -> None:
        """Record what imports call as well."""
        super().pytest_sessionstart()
        self._record_as("")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record what this test calls."""
        super().pytest_runtest_logstart(nodeid)
        self._record_as(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Record what fixtures of several tests call apart."""
        before = self._name
        if fixturedef.scope != "function":
            self._record_as("")
        try:
            return (yield)
        finally:
            self._record_as(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the duration of a test."""
        super().pytest_runtest_logreport(report)
        self._seconds[report.nodeid] += report.duration
        if not report.passed:
            self._unfit.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        sys.setprofile(None)
        threading.setprofile(None)
        tests = {
            name: {"seconds": round(seconds, 3), "functions": sorted(self._functions[name])}
            for name, seconds in self._seconds.items()
            if name not in self._unfit
        }
        record = {"tests": tests, "shared": sorted(self._functions[""])}
        self.calls.write_text(json.dumps(record), "utf-8")
        super().pytest_sessionfinish()

    def limit_s(self, _nodeid: str) -> float:
        """Return the time limit of a test, in seconds."""
        return 300.0

    def _record_as(self, name: str) -> None:
        self._name, self._seen = name, set()
        sys.setprofile(self._profile)
        threading.setprofile(self._profile)

    def _profile(self, frame: Any, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and id(code) not in self._seen:
            self._seen.add(id(code))
            if code.co_filename.startswith(self._prefix):
                path = code.co_filename[len(self._prefix) :]
                self._functions[self._name].add(f"{path}:{code.co_firstlineno}")


def write_summary(path: Path, results: dict[str, str], of: int) -> None:
    """Write the outcomes to a JSON file, with what was tested."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = {
        "commit": commit.stdout.strip(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "seed": SEED,
        "possible": of,
        "outcomes": dict(Counter(kind_of(outcome) for outcome in results.values())),
        "mutants": results,
    }
    path.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")


def kind_of(outcome: str) -> str:
    """Return the first word of an outcome: `killed`, `survived` or `error`."""
    return outcome.split()[0].rstrip(":")


def table(results: dict[str, str]) -> str:
    """Return how many mutants of each package were killed, and the others."""
    by_part: dict[str, Counter[str]] = defaultdict(Counter)
    for key, outcome in results.items():
        for part in (key.split(":")[0].split("/")[0], "all"):
            by_part[part][kind_of(outcome)] += 1
    rows = [
        f"{'package':<12} {'mutants':>8} {'killed':>8} {'survived':>8} {'error':>8} {'share':>8}"
    ]
    for part in sorted(by_part, key=lambda part: (part == "all", part)):
        counts = by_part[part]
        numbers = [counts.total(), counts["killed"], counts["survived"], counts["error"]]
        share = f"{100 * counts['killed'] / counts.total():.1f} %"
        rows.append(f"{part:<12} " + " ".join(f"{number:>8}" for number in (*numbers, share)))
    others = [
        f"{key}\n      {found}" for key, found in results.items() if kind_of(found) != "killed"
    ]
    return "\n".join([*rows, *others])


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


if __name__ == "__main__":
    main()
