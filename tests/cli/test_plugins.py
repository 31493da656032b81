"""Classes and functions of a user, by their import paths in settings and options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from anytime_ar import load
from anytime_ar.cli import main
from cli.command_line import refused

MODULE = "anytime_plugins_of_tests"
CODE = """
import torch
from torch import nn
from anytime_ar.autoencoder.config import ConvolutionalConfig
from anytime_ar.autoencoder.layouts import SpatialLayout
from anytime_ar.autoencoder.quantizers import FiniteScalarQuantizer, QuantizerConfig

class Levels(QuantizerConfig):
    count: int = 3
    @property
    def size(self):
        return self.count ** 2
    @property
    def code_width(self):
        return 2
    def build(self, code_length, code_width):
        return FiniteScalarQuantizer((self.count,) * 2, 0.1)

class Positions(ConvolutionalConfig):
    def implied_sizes(self, shape):
        return shape[0] * shape[1], None
    def build_layout(self, features, shape, hidden):
        return SpatialLayout(self.sizes[1], shape)

class Encoder(nn.Sequential):
    def __init__(self, length: int = 4):
        super().__init__(nn.Flatten(), nn.Linear(64, 2 * length), nn.Unflatten(1, (length, 2)))

class Decoder(nn.Sequential):
    def __init__(self, length: int = 4):
        super().__init__(nn.Flatten(), nn.Linear(2 * length, 64), nn.Unflatten(1, (1, 8, 8)))

class Features(nn.Flatten):
    pass

def power(code_length, exponent: float = 1.0):
    return [k ** -exponent for k in range(1, code_length + 1)]

def noise(count: int):
    return torch.linspace(-1, 1, count * 64).view(count, 1, 8, 8)

def mae(original, decoded, rate):
    return (original - decoded).abs().flatten(1).mean(1)

def total(original, decoded, rate):
    return original.sum()

def two(original, decoded):
    return original

def failing(*_, **__):
    raise KeyError("nothing there")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module is in the current folder, and every command is the first to import it."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop(MODULE, None)


def settings(**changes: object) -> dict[str, object]:
    source = {"kind": f"{MODULE}.noise", "config": {"count": 60}}
    autoencoder = {
        "layout": "custom",
        "encoder": {"kind": f"{MODULE}.Encoder", "config": {"length": 4}},
        "decoder": {"kind": f"{MODULE}.Decoder"},
        "quantizer": {"kind": f"{MODULE}.Levels", "count": 4},
    }
    power = {"kind": f"{MODULE}.power", "config": {"exponent": 0.5}}
    return {
        "name": "own",
        "data": {"source": source},
        "autoencoder": autoencoder,
        "autoencoder_training": {
            "steps": 3,
            "batch_size": 8,
            "truncation": {"distribution": power},
        },
        "prior": {"layers": 1, "width": 8, "heads": 2},
        "prior_training": {"steps": 3, "batch_size": 8},
    } | changes


def write(name: str, values: dict[str, object]) -> str:
    Path(name).write_text(yaml.safe_dump(values))
    return name


def anytime(*arguments: str) -> None:
    """Run a command as if the module had not been imported before."""
    sys.modules.pop(MODULE, None)
    main([*arguments, "--device", "cpu"])


def test_every_part_of_a_run_may_be_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anytime("train", write("own.yaml", settings()))
    anytime("train", "--resume", "runs/own")
    config = json.loads(Path("runs/own/bundle/config.json").read_text())
    assert config["autoencoder"]["quantizer"] == {"kind": f"{MODULE}.Levels", "count": 4}
    assert (config["autoencoder"]["code_length"], config["autoencoder"]["code_width"]) == (4, 2)

    options = ["--num-samples", "10", "--codes", "[1,4]", "--metrics", f"[{MODULE}.mae]"]
    features = ["--feature-extractor", f"{MODULE}.Features"]
    anytime("evaluate", "runs/own", *options, *features)
    curve = json.loads(Path("runs/own/curve.json").read_text())
    assert all(point["metrics"]["mae"] > 0 for point in curve["points"])
    assert "mae" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        anytime("evaluate", "runs/own", "--metrics", f"[{MODULE}.total]", *features)
    assert "metric total returns [] for" in capsys.readouterr().err
    (text,) = refused(["evaluate", "runs/own", "--metrics", f"[{MODULE}.two]"], capsys)
    assert "a metric takes (original, decoded, sample_rate): too many" in text
    with pytest.raises(SystemExit):
        anytime("evaluate", "runs/own", "--metrics", f"[{MODULE}.failing]", *features)
    assert "metric failing has failed (KeyError: 'nothing there')" in capsys.readouterr().err

    sys.modules.pop(MODULE)
    (text,) = refused(["sample", "runs/own"], capsys)
    assert f"and {MODULE} is not imported" in text
    assert f"set ANYTIME_PLUGINS={MODULE}, or import it first" in text
    monkeypatch.setenv("ANYTIME_PLUGINS", MODULE)
    anytime("sample", "runs/own", "-n", "2")


def test_a_layout_of_the_user() -> None:
    layout = {"layout": f"{MODULE}.Positions", "code_width": 2, "network": {"widths": [4, 8]}}
    anytime("train", write("own.yaml", settings(autoencoder=layout)))
    config = json.loads(Path("runs/own/bundle/config.json").read_text())
    assert config["autoencoder"]["layout"] == f"{MODULE}.Positions"
    assert load("runs/own", device="cpu").code_length == 16


def test_a_folder_or_a_word_of_a_stranger_imports_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("theirs").mkdir()
    write("theirs/config.yaml", settings())
    for arguments in (
        ["sample", "-n", "4", "theirs"],
        ["evaluate", "--codes", "[1]", "theirs"],
        ["encode", "kind", f"{MODULE}.png"],
        ["train", "digits", "--out", "theirs"],
    ):
        refused(arguments, capsys)
        assert MODULE not in sys.modules, arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--autoencoder.quantizer.count=x"], "--autoencoder.quantizer.count: expected int, got x"),
        (["--autoencoder.quantizer.cuont=3"], "did you mean '--autoencoder.quantizer.count'?"),
        (["--autoencoder.encoder.config={size: 3}"], "size is no argument of it; it takes length"),
        (["--autoencoder.encoder.kind=no.such"], "module no cannot be imported (ModuleNotFound"),
        (["--autoencoder.encoder.kind=os.sep"], "the encoder is 'os.sep', which is no class of"),
        (["--autoencoder.encoder.config={length: 5}"], "decoder cannot compute float32 [2, 5, 2]"),
        (["--data.source.config={}"], "noise: count is missing; it takes count"),
        ([f"--data.source.kind={MODULE}.failing"], "has failed (KeyError: 'nothing there')"),
        (["--autoencoder.encoder.kind=torch.nn.Linear"], "in_features is missing"),
        (["--data.source.kind=os.sep"], "the data source is 'os.sep', which is no function"),
        (["--autoencoder.quantizer.kind=os.sep"], "--autoencoder.quantizer.kind: expected vq or"),
    ],
)
def test_mistakes(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = refused(["train", write("own.yaml", settings()), *options], capsys)
    assert message in text
    assert not Path("runs").exists()
