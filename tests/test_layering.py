"""The house keeps its order: imports go down only, and a few habits are refused in the source.

The table of docs/architecture.md says what each package may import. A new package needs a row there
before it can be imported, which is the moment to decide where it stands. The table of renamed
identifiers in docs/glossary.md says which names of version 0.1 may not return.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anytime_ar

PACKAGE = "anytime_ar"
ROOT = Path(anytime_ar.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
DOCS = Path(__file__).resolve().parents[1] / "docs"

LAYERING = re.compile(r"<!-- layering: begin -->(.*)<!-- layering: end -->", re.S)
CODE = re.compile(r"`([^`]+)`")


def table_of_the_house() -> dict[str, set[str]]:
    """What each package may import besides itself, from the table of docs/architecture.md.

    Imports inside functions count as well: being lazy changes when something is loaded, not who
    knows whom.
    """
    found = LAYERING.search((DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert found is not None, "docs/architecture.md has no table between the `layering` marks"
    rows = [line.split("|") for line in found[1].strip().splitlines()[2:]]
    return {CODE.findall(row[1])[0]: set(CODE.findall(row[3])) for row in rows}


MAY_IMPORT = table_of_the_house()
NAME = re.compile(r"[A-Za-z_]\w*")
STILL_MEANS_SOMETHING = {"Folder", "Layout"}
"""Names of 0.1 that the glossary gives up for one package, and that another one uses."""
ALIASES = {("sampling.result", "stopped_by")}
"""Deprecated names that warn, by module."""


def renamed_identifiers() -> set[str]:
    """Names of version 0.1 in the glossary's tables: classes, and others with an underscore.

    Single words like `keep` have other uses, so a test cannot tell whether one has returned.
    """
    text = (DOCS / "glossary.md").read_text(encoding="utf-8").partition("words of 0.1 and of 0.2")
    rows = [line.split(" | ") for line in text[2].splitlines() if line.startswith("| ")]
    old = {
        name
        for cells in rows
        for part in [cells[0], *CODE.findall(cells[0])]
        for name in NAME.findall(part)
        if re.fullmatch(r"([A-Z][a-z]+)+", name) or (part != cells[0] and "_" in name.strip("_"))
    }
    now = {name for cells in rows for name in NAME.findall(cells[1])}
    return old - now - STILL_MEANS_SOMETHING


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that the source defines: classes, functions, variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


RENAMED = renamed_identifiers()

FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
GLOBAL_SEEDS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "numpy.random.seed",
    "random.seed",
}
# What is computed with for callers, or read as raw memory, may not depend on the defaults that they
# have set for themselves: there, tensors are made of a stated dtype and device.
STATES_DTYPE_AND_DEVICE = (
    "sampling",
    "serving",
    "kernel",
    "prior.decoders",
    "prior.sampling_params",
    "autoencoder.native_decoder",
)
FACTORIES = {
    f"torch.{name}"
    for name in (
        "arange",
        "as_tensor",
        "empty",
        "eye",
        "full",
        "hann_window",
        "linspace",
        "ones",
        "tensor",
        "zeros",
    )
}
# These draw from the global generator unless they are given one.
RANDOM_DRAWS = {
    f"torch.{name}"
    for name in ("rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal")
}


def part_of(module: str) -> str:
    """`anytime_ar.data.images` belongs to `data`, the package itself to `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def target_part(name: str) -> str | None:
    """The part of our package that an imported name leads to; None for other people's packages."""
    head, _, rest = name.partition(".")
    if head != PACKAGE:
        return None
    part, dot, _ = rest.partition(".")
    return part if dot or part in MAY_IMPORT else "__init__"


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Each call and its full dotted name, whatever the imports call it here."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, dot, rest = ast.unparse(node.func).partition(".")
            yield node, names.get(head, head) + dot + rest


def inside_fork_rng(tree: ast.AST) -> set[ast.AST]:
    """The nodes inside `with torch.random.fork_rng(...)`, which puts the global generator back.

    Layers initialise from the global generator and take no other, so this is how they are seeded.
    """
    return {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
        for inside in ast.walk(node)
    }


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong in the source of `module`, each as `line: reason`."""
    tree = ast.parse(source)
    part = part_of(module)
    found = []
    if part not in MAY_IMPORT:
        found.append(
            f"1: {part} has no place in the house; enter it in the table of docs/architecture.md"
        )
    allowed = MAY_IMPORT.get(part, set()) | {part}
    for line, name in imports(tree, module, is_package=is_package):
        target = target_part(name)
        if target is not None and target not in allowed:
            found.append(f"{line}: {part} may not import {target} ({name})")
        if name.split(".")[0] in FORBIDDEN_MODULES:
            found.append(f"{line}: {name} runs code from files; use safetensors or JSON")
    shielded = inside_fork_rng(tree)
    for call, name in calls(tree):
        keywords = {keyword.arg for keyword in call.keywords}
        if name == "torch.load":
            found.append(f"{call.lineno}: torch.load reads pickles; use safetensors")
        if name in GLOBAL_SEEDS and call not in shielded:
            found.append(f"{call.lineno}: {name} seeds everyone; pass a generator, or fork_rng")
        if name in FACTORIES and module.removeprefix(f"{PACKAGE}.").startswith(
            STATES_DTYPE_AND_DEVICE
        ):
            missing = sorted({"dtype", "device"} - keywords)
            found += [f"{call.lineno}: {name} without {keyword}; state it" for keyword in missing]
        if name in RANDOM_DRAWS and "generator" not in keywords and call not in shielded:
            found.append(f"{call.lineno}: {name} draws from the global generator; pass one")
        if name == "print" and part != "cli":
            found.append(f"{call.lineno}: print outside cli; return it or log it")
    if part != "legacy":  # which has the table of old names
        found += [
            f"{line}: {name} is a name of version 0.1; docs/glossary.md has today's"
            for line, name in names_in(tree)
            if name.lstrip("_") in RENAMED
            and (module.removeprefix(f"{PACKAGE}."), name) not in ALIASES
        ]
    if module.rpartition(".")[2] == "utils":
        found.append("1: utils says nothing; name the module after what is in it")
    return found


def test_the_package_was_found() -> None:
    assert {"anytime_ar", "anytime_ar.errors", "anytime_ar.config"} <= {
        module_of(path) for path in MODULES
    }


def test_the_glossary_was_read() -> None:
    assert {"DrawState", "SharpeningConfig", "why_stop", "Mailroom"} <= RENAMED
    assert not RENAMED & {"Preview", "SampleResult", "deadline_s", "stop_reason"}


def test_the_table_has_no_cycle() -> None:
    waiting = {part: set(below) for part, below in MAY_IMPORT.items()}
    while waiting:
        free = {part for part, below in waiting.items() if not below & waiting.keys()}
        assert free, f"these import each other: {sorted(waiting)}"
        waiting = {part: below for part, below in waiting.items() if part not in free}


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_module(path: Path) -> None:
    is_package = path.name == "__init__.py"
    source = path.read_text(encoding="utf-8")
    assert violations(module_of(path), source, is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("data.images", "from anytime_ar.prior import Prior", "data may not import prior"),
        ("data.images", "import anytime_ar.autoencoder.model", "data may not import autoencoder"),
        ("autoencoder.model", "from anytime_ar import prior", "autoencoder may not import prior"),
        ("autoencoder.vq.ema", "from ...prior import x", "autoencoder may not import prior"),
        ("prior.model", "from ..data import x", "prior may not import data"),
        ("prior.model", "from .. import data", "prior may not import data"),
        ("sampling.draw", "def f():\n  from anytime_ar.data import x", "2: sampling may not"),
        ("sampling.draw", "import_module('anytime_ar.data')", "sampling may not import data"),
        ("serving.app", "from anytime_ar.training import x", "serving may not import training"),
        ("training.loop", "from anytime_ar.evaluation import x", "training may not import eval"),
        ("evaluation.fd", "from anytime_ar.prior import x", "evaluation may not import prior"),
        ("errors", "from anytime_ar.config import Config", "errors may not import config"),
        ("prior.model", "from anytime_ar import load", "prior may not import __init__"),
        ("prior.model", "import anytime_ar", "prior may not import __init__"),
        ("novelty", "import torch", "novelty has no place in the house"),
        ("data.utils", "", "utils says nothing"),
        ("sampling.draw", "class DrawState: pass", "1: DrawState is a name of version 0.1"),
        ("autoencoder.model", "def f(entry_width): pass", "1: entry_width is a name of version"),
        ("sampling.draw", "self._why_stop = 1", "_why_stop is a name of version 0.1"),
        ("data.images", "from torch import load\nload(p)", "2: torch.load reads pickles"),
        ("data.images", "import torch as t\nt.load(p)", "torch.load reads pickles"),
        ("data.images", "import pickle", "pickle runs code"),
        (
            "data.images",
            "import torch\ntorch.manual_seed(0)",
            "2: torch.manual_seed seeds everyone",
        ),
        (
            "data.images",
            "import numpy as np\nnp.random.seed(0)",
            "numpy.random.seed seeds everyone",
        ),
        ("data.images", "import torch\ntorch.randn(3)", "torch.randn draws from the global"),
        ("data.images", "print(1)", "print outside cli"),
        (
            "sampling.draw",
            "import torch\ntorch.zeros(3, device='cpu')",
            "2: torch.zeros without dtype; state it",
        ),
        (
            "prior.decoders.native",
            "import torch\ntorch.empty(3, dtype=torch.int64)",
            "2: torch.empty without device; state it",
        ),
    ],
)
def test_the_checker_catches(module: str, source: str, reason: str) -> None:
    (found,) = violations(f"{PACKAGE}.{module}", source)
    assert reason in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data.images", "from anytime_ar.data.splits import x\nfrom .rows import y"),
        ("data.images", "from anytime_ar.errors import DataError\nimport torch.utils.data"),
        ("data.images", "import torch\ntorch.Generator().manual_seed(0)"),
        ("data.images", "import torch\ntorch.randn(3, generator=g)"),
        ("data.images", "with torch.random.fork_rng([]):\n  torch.manual_seed(0)"),
        ("sampling.draw", "from anytime_ar.prior import x\nfrom anytime_ar import bundle"),
        ("cli.demo", "import anytime_ar\nfrom anytime_ar.evaluation import x\nprint(1)"),
        ("data.images", "import torch\ntorch.zeros(3)"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations(f"{PACKAGE}.{module}", source) == []
