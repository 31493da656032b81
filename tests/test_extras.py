"""What the core does alone, and what each command says of an extra that is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import save_bundle
from anytime_ar.cli.main import COMMANDS
from anytime_ar.errors import EXTRAS, MissingExtraError, install_command, require_extras
from random_models import encodec_config, llama_config, random_bundle

ROOT = Path(__file__).parent.parent
EVERY = sorted({module for modules in EXTRAS.values() for module in modules})

PROGRAM = """
import contextlib, io, json, os, sys
every, before, groups = json.loads(sys.argv[1])

def run(commands):
    outcomes = []
    for command in commands:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(command)
            except SystemExit as ended:
                code = ended.code
        outcomes.append((code, out.getvalue(), err.getvalue()))
    return outcomes

sys.modules.update(dict.fromkeys(every))
from anytime_ar.cli import main
run(before)
for without, commands, folder in groups:
    sys.stdout.flush()
    if os.fork() == 0:
        for module in set(every) - set(without):
            del sys.modules[module]
        os.chdir(folder)
        print(json.dumps(run(commands)), flush=True)
        os._exit(0)
    os.wait()
"""
"""Runs groups of commands, each in a process in which some modules cannot be imported. All of them
have what `before` imports, in which no extra can be."""
Outcome = tuple[int, str, str]
"""Exit code, standard output and standard error of a command."""


def run_groups(
    groups: list[tuple[list[str], list[list[str]], Path]], *before: list[str]
) -> list[list[Outcome]]:
    """What the commands of each group do in a folder, without some modules."""
    given = [EVERY, before, [[*group, str(folder)] for *group, folder in groups]]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(given)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [[tuple(one) for one in json.loads(line)] for line in done.stdout.splitlines()]
    assert len(found) == len(groups), done.stderr
    return found


def run_without_extras(commands: list[list[str]], folder: Path) -> list[Outcome]:
    """What commands do in a fresh process without any module of an extra."""
    return run_groups([(EVERY, commands, folder)])[0]


def test_help_needs_no_extra(tmp_path: Path) -> None:
    commands = [["--help"], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)]
    for command, (code, out, err) in zip(
        commands, run_without_extras(commands, tmp_path), strict=True
    ):
        assert (code, err) == (0, ""), command
        assert out.startswith("anytime-ar " if command == ["--version"] else "usage: "), command


def test_the_core_samples_encodes_and_decodes_images(tmp_path: Path) -> None:
    commands = [
        ["sample", "mnist", "-n", "2", "--codes", "4", "--seed", "0", "--save-state", "state"],
        ["refine", "mnist", "state", "--codes", "5"],
        ["sample", "mnist", "-n", "1", "--codes", "[1,2]", "--out", "columns.png"],
        ["encode", "mnist", "samples.png", "-o", "codes.npz"],
        ["decode", "mnist", "codes.npz", "--codes", "3"],
        ["bulk", "sample", "mnist", "-n", "2", "--format", "webdataset", "-o", "shards"],
    ]
    for command, (code, _, err) in zip(
        commands, run_without_extras(commands, tmp_path), strict=True
    ):
        assert (code, re.sub("\r.*", "", err).strip()) == (0, ""), command  # without progress bars
    for name in ("samples.png", "columns.png", "decoded.png", "shards"):
        assert (tmp_path / name).exists()


def test_the_core_draws_audio_and_names_all_public_functions(tmp_path: Path) -> None:
    program = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import anytime_ar as aar
for name in aar.__all__:
    getattr(aar, name)
model = aar.load("fsdd")
clips = model.sample(1, codes=2, seed=0)
assert model.decode(model.encode(clips)).shape == clips.shape == (1, *model.sample_shape)
for call in (
    lambda: aar.train({}, "run"), lambda: aar.evaluate(model, None, None),
    lambda: aar.push("mnist", "owner/name"), lambda: aar.load("owner/name"),
):
    try:
        call()
    except aar.MissingExtraError as error:
        print(str(error).partition("; install it: ")[0])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *EVERY],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "training needs lightning_fabric of anytime-ar[train]",
        "evaluation needs matplotlib of anytime-ar[eval]",
        "a push to the Hub needs huggingface_hub of anytime-ar[hub]",
        "'owner/name' is no folder here; fetching it from the Hub needs huggingface_hub of "
        "anytime-ar[hub]",
    ]
    assert not [*tmp_path.iterdir()]


CASES: dict[str, list[tuple[str, str, str]]] = {
    "train": [
        ("train digits --out run", "training", "train"),
        ("train digits --out run --engine ray --workers 2", "training", "train"),
        ("demo --out run", "the demo", "train eval"),
        ("train-classifier digits --out run", "data set digits", "train"),
        ("train-classifier sounds --out run", "data set sounds", "train"),
    ],
    "eval": [
        ("evaluate mnist", "evaluation", "eval"),
        ("demo --audio --out run", "the demo", "train eval audio"),
        ("compare a=mnist b=mnist", "a plot", "eval"),
    ],
    "audio": [
        ("sample fsdd -n 1", "audio", "audio"),
        ("sample fsdd -n 1 --out one.png", "audio", "audio"),
        ("encode fsdd one.wav", "audio", "audio"),
        ("decode fsdd 1 2 3", "audio", "audio"),
        ("refine fsdd state", "audio", "audio"),
        ("bulk sample fsdd -n 1 --format webdataset -o run", "audio", "audio"),
        ("serve fsdd --port 0", "audio", "audio"),
        ("demo --audio --out run", "the demo", "train eval audio"),
        ("train-classifier sounds --out run", "audio", "audio"),
    ],
    "data": [
        ("bulk sample mnist -n 1 -o run", "format parquet, unlike webdataset,", "data"),
        (
            "train-classifier digits --data.name owner/name --out run",
            "data set 'owner/name' of the Hub",
            "data",
        ),
        ("train-classifier digits --data.name a.parquet --out run", "a parquet file", "data"),
    ],
    "hub": [
        (
            "sample owner/name",
            "'owner/name' is no folder here; fetching it from the Hub",
            "hub",
        ),
        ("push mnist owner/name", "a push to the Hub", "hub"),
    ],
    "serve": [("serve mnist --port 0", "serving", "serve")],
    "ray": [
        ("train digits --out run --engine ray --workers 2", "engine ray", "ray"),
        ("bulk sample mnist -n 1 -o run --engine ray", "engine ray", "ray"),
        ("serve mnist --port 0 --engine ray", "engine ray", "ray"),
    ],
    "bench": [("bench mnist --out run", "a plot", "bench")],
}
"""By extra: commands that lack it, what needs it by their messages, and the extras to install."""


MODULE_CASES = {
    "scipy": ("train-classifier digits --out run", "this command", "train"),
    "soxr": ("encode fsdd one.wav", "audio", "audio"),
    "matplotlib": ("push mnist owner/name", "a push to the Hub", "hub"),
    **dict.fromkeys(
        ("fastapi", "starlette", "uvicorn", "httptools", "prometheus_client"),
        ("serve mnist --port 0", "serving", "serve"),
    ),
}
"""By module: a command that lacks it alone, what needs it, and the extra to install."""


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Outcome], set[str]]]:
    """By extra or module: the outcomes of its cases, and the files in their folder after them."""
    cases = {extra: (EXTRAS[extra], [case[0] for case in CASES[extra]]) for extra in CASES}
    cases |= {module: ((module,), [case[0]]) for module, case in MODULE_CASES.items()}
    groups = []
    for without, lines in cases.values():
        folder = tmp_path_factory.mktemp("extras")
        (folder / "a.parquet").write_bytes(b"PAR1")
        (folder / "one.wav").write_bytes(b"RIFF")
        groups.append(([*without], [line.split() for line in lines], folder))
    outcomes = run_groups(groups, *([*name.split(), "--help"] for name in COMMANDS))
    folders = [{path.name for path in folder.iterdir()} for _, _, folder in groups]
    return dict(zip(cases, zip(outcomes, folders, strict=True), strict=True))


@pytest.mark.parametrize("extra", CASES)
def test_a_command_says_what_it_misses(
    extra: str, missed: dict[str, tuple[list[Outcome], set[str]]]
) -> None:
    outcomes, files = missed[extra]
    for (command, purpose, extras), (code, out, err) in zip(CASES[extra], outcomes, strict=True):
        said = f"anytime: {purpose} needs "
        assert (code, out) == (2, ""), (command, err)
        assert err.startswith(said), command
        missing, _, rest = err.removeprefix(said).partition("; ")
        module, _, named = missing.partition(" of ")
        assert module in EXTRAS[extra], command
        assert named == f"anytime-ar[{extras.replace(' ', ',')}]"
        assert rest == f"install it: {install_command(*extras.split())}\n", command
    assert files == {"a.parquet", "one.wav"}


@pytest.mark.parametrize("module", MODULE_CASES)
def test_a_command_says_which_module_of_an_extra_it_misses(
    module: str, missed: dict[str, tuple[list[Outcome], set[str]]]
) -> None:
    _, purpose, extra = MODULE_CASES[module]
    ((code, out, err),), _ = missed[module]
    wanted = f"{purpose} needs {module} of anytime-ar[{extra}]; install it: "
    assert (code, out, err) == (2, "", f"anytime: {wanted}{install_command(extra)}\n")


def test_models_and_settings_of_transformers_say_that_it_is_missing(tmp_path: Path) -> None:
    data = {"sample_shape": (1, 8, 8), "name": "x"}
    own = {"code_length": 4, "code_width": 2, "quantizer": {"vocabulary": 8}}
    prior = llama_config(4, 8, 0)
    sound = {"sample_shape": (1, 96), "sample_rate": 8000, "name": "x"}
    codec = encodec_config(96, 3, 2, 8)
    for name, values in {
        "llama": {"data": data, "autoencoder": own, "prior": prior},
        "codec": {"data": sound, "autoencoder": codec, "prior": None},
    }.items():
        card = Card.parse({"name": name, **values}, origin="test")
        save_bundle(random_bundle(card), tmp_path / name)
    settings = {
        "prior.yaml": "autoencoder: {code_length: 4, code_width: 4}\n"
        f"prior: {json.dumps({'kind': 'huggingface_prior', 'config': {}})}",
        "codec.yaml": f"tokenizer: {json.dumps(codec)}",
    }
    for name, text in settings.items():
        (tmp_path / name).write_text(f"data: {{name: digits}}\n{text}\n")
    before = sorted(tmp_path.iterdir())
    commands = {
        "a Hugging Face prior": [
            "sample llama -n 1",
            "serve llama --port 0",
            "bulk sample llama -n 1 -o run --format webdataset",
            "evaluate llama --data.name digits",
            "train prior.yaml --out run --device cpu",
        ],
        "a neural codec": [
            "decode codec 1 2 3",
            "encode codec one.wav",
            "train codec.yaml --out run --device cpu",
        ],
    }
    for purpose, lines in commands.items():
        wanted = f"{purpose} needs transformers of anytime-ar[hf]; install it: "
        (outcomes,) = run_groups([(["transformers"], [line.split() for line in lines], tmp_path)])
        for line, (code, out, err) in zip(lines, outcomes, strict=True):
            assert (code, out, err) == (2, "", f"anytime: {wanted}{install_command('hf')}\n"), line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("extra", "module"), [(extra, module) for extra in EXTRAS for module in EXTRAS[extra]]
)
def test_every_module_of_an_extra_is_missed(
    extra: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    with pytest.raises(MissingExtraError) as raised:
        require_extras("it", extra)
    assert str(raised.value) == (
        f"it needs {module} of anytime-ar[{extra}]; install it: {install_command(extra)}"
    )
    if len(EXTRAS[extra]) > 1:
        other = next(name for name in EXTRAS[extra] if name != module)
        require_extras("it", extra, module=other)


def optional_dependencies() -> dict[str, list[str]]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)["project"]["optional-dependencies"]
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_installs_the_packages_of_an_extra(extra: str) -> None:
    wanted = [Requirement(line) for line in optional_dependencies()[extra]]
    given = install_command(extra)
    assert given.startswith(f"{sys.executable} -m pip install ")
    names = [canonicalize_name(word) for word in given.split()]
    for requirement in wanted:
        assert any(canonicalize_name(requirement.name) in name for name in names)


def test_a_package_of_several_extras_is_installed_once() -> None:
    assert install_command("train", "eval").count("scikit-learn") == 1


def test_the_client_is_imported_without_httpx_and_says_what_it_misses() -> None:
    program = """
import sys
sys.modules["httpx"] = None
from anytime_ar.client import AsyncClient, Client, RequestFailed
from anytime_ar.errors import MissingExtraError
for kind in (Client, AsyncClient):
    try:
        kind("http://127.0.0.1:8000")
    except MissingExtraError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    told = f"the client needs httpx of anytime-ar[client]; install it: {install_command('client')}"
    assert lines == [told] * 2
