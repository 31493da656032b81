"""What an installed package promises: metadata, data files, light import, a lock that fits."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anytime_ar.errors import EXTRAS

ROOT = Path(__file__).parent.parent
LOCKS = {
    "core": (),
    "demo": ("train", "eval"),
    "test": ("test",),
    "dev": ("dev",),
    "docs": ("docs",),
}
"""Extras of each lock."""


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lock_lines(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Package to version, of the lock and of those it builds on."""
    found: dict[str, str] = {}
    for line in lock_lines(name):
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r ").removesuffix(".txt"))
        else:
            package, _, version = line.partition("==")
            assert package not in found, f"{package} is pinned twice"
            found[package] = version
    return found


def wanted(*asked: str) -> list[Requirement]:
    """The project's direct requirements with extras, and those that these name."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    found = [Requirement(text) for text in project["dependencies"]]
    waiting = [*asked]
    while waiting:
        for requirement in map(Requirement, extras[waiting.pop()]):
            if requirement.name == project["name"]:
                waiting.extend(requirement.extras)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_exact_versions_and_nothing_else(name: str) -> None:
    for line in lock_lines(name):
        assert re.fullmatch(r"-r (core|demo|test)\.txt|[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
        assert not line.startswith(("nvidia", "cuda", "triton")), line


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_meets_every_requirement(name: str) -> None:
    locked = pins(name)
    requirements = wanted(*LOCKS[name])
    assert requirements
    for requirement in requirements:
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock; run `make lock`"
        assert version in requirement.specifier, f"{requirement} is not met by {version}"


def third_party_imports(folder: str = "src") -> dict[str, set[tuple[str, bool]]]:
    """Modules of ours by the foreign package that they import, and whether when they are loaded."""
    found: dict[str, set[tuple[str, bool]]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        later: set[ast.AST] = set()
        for node in ast.walk(tree):
            typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                later.update(ast.walk(node))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name != "anytime_ar":
                    found.setdefault(name, set()).add((module, node not in later))
    return found


def declared(extra: str | None) -> set[str]:
    """Names of the packages that come with an extra, or with none."""
    project = pyproject()["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


NEEDED_AT_ONCE = {
    "train": (
        "anytime_ar.data.sources.synthetic_audio",
        "anytime_ar.training.fabric",
    ),
    "serve": ("anytime_ar.serving.",),
    "client": ("anytime_ar.client.",),
    "ray": ("anytime_ar.serving.cluster.ray_", "anytime_ar.training.ray_launcher"),
}
"""Modules that nobody loads without the extra."""
USED_BY_NAME = {"httptools", "tensorboard", "uvloop"}
"""Packages that another one imports if they are there."""


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def distributions_of(name: str) -> set[str]:
    found = {canonicalize_name(one) for one in installed().get(name, [])}
    return found or {canonicalize_name(name)}  # transformers, say, which no test needs


def test_every_import_is_declared() -> None:
    imports = third_party_imports()
    assert {"torch", "numpy", "fastapi", "scipy"} <= imports.keys()
    for name, uses in imports.items():
        if distributions_of(name) & declared(None):
            continue
        within = [one for one in EXTRAS if distributions_of(name) & declared(one)]
        assert within, f"{name} is declared nowhere; {sorted(uses)} import it"
        allowed = tuple(prefix for one in within for prefix in NEEDED_AT_ONCE.get(one, ()))
        for module, at_once in uses:
            assert not at_once or module.startswith(allowed), (
                f"{module} imports {name} when it is loaded, and only {within} bring it"
            )


def test_everything_declared_is_imported() -> None:
    imports = third_party_imports().keys() | third_party_imports("benchmarks").keys()
    used = {one for name in imports for one in distributions_of(name)}
    for extra in (None, *EXTRAS):
        assert declared(extra) - used <= USED_BY_NAME


def test_the_modules_of_an_extra_are_those_of_its_packages() -> None:
    project = pyproject()["project"]
    for extra, modules in EXTRAS.items():
        found = {one for name in modules for one in distributions_of(name)}
        assert found == declared(extra) - {"uvloop"}, extra  # there is none for Windows
    listed = Requirement(project["optional-dependencies"]["all"][0])
    assert listed.extras == EXTRAS.keys()
    assert project["optional-dependencies"].keys() == EXTRAS.keys() | {"all", "test", "dev", "docs"}


def test_the_core_installs_only_what_sampling_images_needs() -> None:
    assert declared(None) == {
        "fsspec",
        "jsonargparse",
        "numpy",
        "pillow",
        "pydantic",
        "pyyaml",
        "safetensors",
        "torch",
        "tqdm",
    }
    assert not pins("core").keys() & (set().union(*map(declared, EXTRAS)) | {"aiohttp", "pytest"})
    assert not pins("demo").keys() & {"datasets", "pytest", "ruff", "mypy", "huggingface-hub"}


def test_every_fast_test_is_there() -> None:
    spec = importlib.util.spec_from_file_location("fast", ROOT / "tests" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    assert [name for name in conftest.FAST if not (ROOT / "tests" / name).exists()] == []


def test_metadata() -> None:
    installed = distribution("anytime-ar")
    assert installed.metadata["License-Expression"] == "Apache-2.0"
    assert installed.metadata["Requires-Python"] == ">=3.11"
    (command,) = installed.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("anytime", "anytime_ar.cli:main")


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    """Built from a copy, so that the build leaves nothing in the tree."""
    copy = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, *build, "--wheel-dir", tmp_path, copy], check=True)
    (wheel,) = tmp_path.glob("anytime_ar-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    source = copy / "src"
    files = {
        p.relative_to(source).as_posix() for p in (source / "anytime_ar").rglob("*") if p.is_file()
    }
    assert "anytime_ar/py.typed" in files
    assert files - held == set()


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh process has imported once it has run `program`."""
    lines = [program, "import sys", "print(*sys.modules, file=sys.stderr)"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stderr.split())


def test_importing_the_package_is_light() -> None:
    """A `pytest --collect-only` must not wait for what it does not use."""
    loaded = loaded_by("import anytime_ar")
    assert "anytime_ar" in loaded
    assert loaded & {"torch", "numpy", "pydantic"} == set()


def test_help_is_light() -> None:
    loaded = loaded_by("from anytime_ar.cli import main; main(['--help'])")
    assert "anytime_ar.cli.main" in loaded
    assert loaded & {"torch", "numpy", "pydantic", "jsonargparse", "yaml", "PIL"} == set()


def test_a_draw_imports_only_what_it_uses(tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    loaded = loaded_by(
        f"from anytime_ar.cli import main; main(['sample', 'mnist', '-n', '1', '--out', '{out}'])"
    )
    assert out.exists()
    training = {"lightning_fabric", "sklearn", "scipy", "datasets", "pyarrow"}
    others = {"matplotlib", "transformers", "huggingface_hub", "ray", "fastapi", "pystoi"}
    of_torch = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor"}
    of_pillow = {"PIL.DdsImagePlugin"}  # stands for the formats that nobody asked for
    assert loaded & (training | others | of_torch | of_pillow) == set()


def test_the_garbage_collector_rests_while_a_command_is_imported() -> None:
    """It would walk through all of torch, several times, and once more at the end."""
    program = """
import gc, sys
from anytime_ar.cli import main
frozen = []
gc.callbacks.append(lambda phase, info: frozen.append(gc.get_freeze_count()))
try:
    main(["sample", "--help"])
except SystemExit:
    pass
gc.collect()  # one run at least
assert gc.isenabled() and min(frozen) > 10**5, frozen
"""
    assert "torch" in loaded_by(program)


def readme_examples() -> ModuleType:
    """The runner of the README's examples, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_readme(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    script = ROOT / ".ci" / "readme_examples.py"
    return subprocess.run([sys.executable, script, readme], capture_output=True, text=True)


def test_the_readme_runner_finds_its_blocks() -> None:
    found = readme_examples().examples(
        "a\n```bash\necho 1\n```\n```text\nno\n```\n```bash no-run\nno\n```\n"
        "```python\nx = '``'\n\ny = 2\n```\n```console\nno\n```\n"
    )
    assert [(e.line, e.language, e.source) for e in found] == [
        (2, "bash", "echo 1\n"),
        (11, "python", "x = '``'\n\ny = 2\n"),
    ]


SERVER = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
open("port", "w").write(str(server.server_port))
print(f"serving at http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


def test_the_readme_runner_keeps_servers_running_to_the_end_of_the_page(tmp_path: Path) -> None:
    asks = "import urllib.request as u\nu.urlopen('http://127.0.0.1:' + open('port').read())\n"
    done = run_readme(tmp_path, f"```python background{SERVER}```\n```python\n{asks}```\n")
    assert done.returncode == 0, done.stdout
    assert "2 examples ran" in done.stdout
    done = run_readme(tmp_path, "```bash background\necho nothing\n```\n")
    assert done.returncode == 1
    assert "this example is not ready: nothing" in done.stdout


def test_the_readme_runner_shares_one_folder(tmp_path: Path) -> None:
    done = run_readme(
        tmp_path,
        "```bash\necho 7 > a.txt\n```\n```python\nprint(open('a.txt').read().strip() * 3)\n```\n",
    )
    assert done.returncode == 0
    assert "777" in done.stdout
    assert not (ROOT / "a.txt").exists()


def test_the_readme_runner_writes_blocks_with_a_title_to_files(tmp_path: Path) -> None:
    done = run_readme(
        tmp_path,
        '```python title="half.py"\nHALF = 0.5\n```\n```yaml title="b.yaml"\nb: 1\n```\n'
        "```bash\ncat b.yaml\n```\n```python\nimport half; print(half.HALF * 3)\n```\n",
    )
    assert done.returncode == 0, done.stdout
    assert "4 examples ran" in done.stdout
    assert "\nb: 1\n" in done.stdout
    assert "1.5" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# no examples\n```bash no-run\ntrue\n```\n", "no examples to run"),
        ("```bash\nfalse\ntrue\n```\n", "README.md:1: this example failed with exit code 1"),
        ("```bash\nfalse | true\n```\n", "failed with exit code 1"),
        ("```python\nassert False\n```\n", "failed with exit code 1"),
    ],
)
def test_the_readme_runner_fails(tmp_path: Path, text: str, message: str) -> None:
    done = run_readme(tmp_path, text)
    assert done.returncode == 1
    assert message in done.stdout
