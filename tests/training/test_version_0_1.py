"""Version 0.1 is still read: its configurations, its runs and its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from safetensors.torch import load_file, save
from test_training_resume import assert_same_run, run, run_until_power_cut
from training_fakes import last, tiny

from anytime_ar.autoencoder import (
    AutoencoderConfig,
    ChannelConfig,
    LappedSegmentConfig,
    LinearConfig,
    NetworkConfig,
    ProjectionConfig,
    ResidualVQConfig,
    SegmentConfig,
    SpatialConfig,
)
from anytime_ar.autoencoder.quantizers import (
    FiniteScalarQuantizerConfig,
    NoQuantizerConfig,
    ResidualPCAQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from anytime_ar.bundle.format import find_bundle, fingerprint, load_bundle, shipped_models
from anytime_ar.cli.parser import config_names, config_path
from anytime_ar.cli.train import Experiment
from anytime_ar.data import DataSplits
from anytime_ar.errors import InputError
from anytime_ar.legacy import KEYS, STAGES, VALUES, old_weight_name, upgrade_weights
from anytime_ar.training import TrainConfig
from anytime_ar.training.checkpoint import CheckpointManager

CONFIGS = Path(__file__).parent / "version_0_1"
"""The configurations that came with version 0.1, as they were."""
FINGERPRINTS = {
    "mnist": "7f368e9cfe856774",
    "cifar10": "198152980db1d1b6",
    "fsdd": "40f667926e1fa6a4",
}
"""Beginnings of the fingerprints of the shipped models in version 0.1."""
QUANTIZER: dict[str, Any] = {
    "kind": "vq",
    "vocabulary": 64,
    "shared_codebook": False,
    "learned_by": "ema",
    "start": "kmeans",
    "ema_decay": 0.99,
    "commitment": 0.25,
    "restart_below": 0.03,
    "error_feedback": True,
    "levels": [],
}
AUTOENCODER: dict[str, Any] = {
    "layout": "vector",
    "order": "rows",
    "segments": 1,
    "whole_codes": 1,
    "linear_path": False,
    "noise_bands": 0,
    "code_length": None,
    "code_width": None,
    "quantizer": QUANTIZER,
    "fill": "learned",
    "network": None,
}
"""Defaults of version 0.1, which its files hold for every layout and quantizer."""
NETWORK = {"patch": 1, "widths": [64, 128], "shrink": 2, "blocks": 2, "hidden": 512}
LAPPED = {"layout": "segment", "whole_codes": 0, "linear_path": True}


def as_in_0_1(config: BaseModel, used: set[tuple[str, str]]) -> dict[str, Any]:
    """Return the settings of a configuration under the names of 0.1, and note renamed keys."""
    plain = config.model_dump(mode="json")
    values: dict[str, Any] = {}
    for field in type(config).model_fields:
        value = getattr(config, field)
        name, dumped = field, plain[field]
        for owner in (base.__name__ for base in type(config).__mro__):
            for old, new in KEYS.get(owner, {}).items():
                if new == field:
                    name = old
                    used.add((owner, old))
            for old, new in VALUES.get((owner, field), {}).items():
                dumped = old if dumped == new else dumped
        values[name] = as_in_0_1(value, used) if isinstance(value, BaseModel) else dumped
    return values


def config_classes(config: BaseModel) -> set[str]:
    """Return the names of the classes of a configuration and of all inside it."""
    found = {base.__name__ for base in type(config).__mro__}
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(value, BaseModel):
            found |= config_classes(value)
    return found


@pytest.mark.parametrize("name", config_names())
def test_configurations_of_0_1_are_those_of_today(name: str) -> None:
    old = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    present = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))
    assert Experiment.parse(old, origin="0.1") == Experiment.parse(present, origin="now")


def test_every_key_of_0_1_is_read() -> None:
    used: set[tuple[str, str]] = set()
    experiment = Experiment(**dict(tiny()))
    for other in (ResidualVQConfig(), SegmentConfig()):
        as_in_0_1(other, used)
    values = as_in_0_1(experiment, used)
    classes = config_classes(experiment)
    assert {"TrainConfig", "DecoderGANConfig", "OptimizerConfig", "AudioConfig"} <= classes
    assert used == {
        (owner, old) for owner, keys in KEYS.items() if owner in classes for old in keys
    }
    assert len(used) > 25
    assert Experiment.parse(yaml.safe_load(yaml.safe_dump(values)), origin="0.1") == experiment
    assert values["sharpening"]["width"] == experiment.decoder_gan.discriminator_width
    assert values["prior_training"]["optimizer"]["matrices"] == "muon"


@pytest.mark.parametrize(
    ("old", "present"),
    [
        (
            {"data": {"sound": {"loudness": "as_stored"}}},
            {"data": {"audio": {"normalize": "none"}}},
        ),
        ({"autoencoder": {"layout": "vector"}}, {"autoencoder": {"layout": "projection"}}),
        (
            {"autoencoder": {"layout": "residual", "order": "rows"}},
            {"autoencoder": {"layout": "residual_vq", "scan_order": "raster"}},
        ),
        (
            {"autoencoder": {"layout": "residual", "order": "spread"}},
            {"autoencoder": {"layout": "residual_vq", "scan_order": "bayer"}},
        ),
    ],
)
def test_values_of_0_1_are_read(old: dict[str, Any], present: dict[str, Any]) -> None:
    """That of `start: greedy` is in fsdd.yaml, as it needs other settings."""
    assert TrainConfig.parse(old, origin="0.1") == TrainConfig.parse(present, origin="now")


@pytest.mark.parametrize(
    ("changes", "present"),
    [
        ({}, ProjectionConfig()),
        ({"linear_path": True}, ProjectionConfig(linear_skip=True)),
        ({"layout": "channel", "code_length": 7}, ChannelConfig(code_length=7)),
        ({"layout": "spatial", "fill": "zeros"}, SpatialConfig(fill="zeros")),
        ({"layout": "residual", "order": "spread"}, ResidualVQConfig(scan_order="bayer")),
        ({"layout": "segment", "segments": 4}, SegmentConfig(segments=4)),
        ({"layout": "segment", "whole_codes": 0}, SegmentConfig(global_codes=0)),
        ({"layout": "segment", "linear_path": True}, SegmentConfig(linear_skip=True)),
        (LAPPED, LappedSegmentConfig()),
        ({**LAPPED, "noise_bands": 3}, LappedSegmentConfig(noise_bands=3)),
        ({"network": {"kind": "linear", **NETWORK}}, LinearConfig()),
        ({"network": {"kind": "conv", **NETWORK}}, ProjectionConfig(network=NetworkConfig())),
        (
            {"layout": "residual", "quantizer": {**QUANTIZER, "vocabulary": 8}},
            ResidualVQConfig(quantizer=ResidualQuantizerConfig(vocabulary=8)),
        ),
        (
            {**LAPPED, "quantizer": {**QUANTIZER, "start": "greedy", "ema_decay": 0.9}},
            LappedSegmentConfig(quantizer=ResidualPCAQuantizerConfig(ema_decay=0.9)),
        ),
        (
            {**LAPPED, "quantizer": {**QUANTIZER, "error_feedback": False}},
            LappedSegmentConfig(quantizer=VectorQuantizerConfig(error_feedback=False)),
        ),
        (
            {"quantizer": {**QUANTIZER, "kind": "fsq", "levels": [8, 5], "vocabulary": 9}},
            ProjectionConfig(quantizer=FiniteScalarQuantizerConfig(levels=(8, 5))),
        ),
        (
            {"quantizer": {**QUANTIZER, "kind": "none", "commitment": 2}},
            ProjectionConfig(quantizer=NoQuantizerConfig()),
        ),
    ],
)
def test_layouts_and_quantizers_of_0_1_are_those_of_today(
    changes: dict[str, Any], present: AutoencoderConfig
) -> None:
    config = AutoencoderConfig.parse(AUTOENCODER | changes, origin="0.1")
    assert config == present
    assert AutoencoderConfig.parse(config.model_dump(mode="json"), origin="now") == present


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "spread"}, "scan_order is 'bayer', a setting of layout=residual_vq, not of"),
        ({"layout": "channel", "linear_path": True}, "linear_skip is True, a setting of"),
        ({"layout": "segment", "noise_bands": 3}, "noise_bands is 3, a setting of"),
        ({"quantizer": {**QUANTIZER, "start": "greedy"}}, "kind is 'residual_pca', expected"),
        ({"quantizer": {**QUANTIZER, "levels": [8, 5]}}, r"levels is \[8, 5\], a setting of"),
        (
            {"layout": "channel", "network": {"kind": "linear"}},
            "network.kind is 'linear', and layout is 'channel'",
        ),
    ],
)
def test_what_0_1_refuses_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AutoencoderConfig.parse(AUTOENCODER | changes, origin="0.1")


def turn_into_0_1(folder: Path) -> None:
    """Give everything in the folder of a run the names that version 0.1 gave it."""
    config = as_in_0_1(tiny(), set())
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    settings = json.loads((folder / "autotune.json").read_text())
    settings["precision"] = {
        STAGES.get(stage, stage): value for stage, value in settings["precision"].items()
    }
    (folder / "autotune.json").unlink()
    (folder / "decisions.json").write_text(json.dumps(settings))
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        stage, step = path.stem.rsplit("-", 1)
        record = CheckpointManager(path.parent, stage).read(int(step)).record
        record["stage"] = STAGES.get(stage, stage)
        tensors = {old_weight_name_in_group(name): value for name, value in load_file(path).items()}
        data = save(tensors, metadata={"record": json.dumps(record)})
        path.unlink()
        path.with_suffix(".sha256").unlink()
        old = path.with_name(f"{record['stage']}-{step}.safetensors")
        old.write_bytes(data)
        old.with_suffix(".sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {old.name}\n")


def old_weight_name_in_group(name: str) -> str:
    group, _, weight = name.partition("/")
    return f"{group}/{old_weight_name(weight)}"


@pytest.mark.parametrize(("stage", "step"), [("autoencoder", 7), ("decoder_gan", 6), ("prior", 8)])
def test_a_run_of_0_1_goes_on_bit_for_bit(
    tmp_path: Path,
    data: DataSplits,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    folder = tmp_path / "run"
    run_until_power_cut(folder, data, monkeypatch, stage, step)
    turn_into_0_1(folder)
    checkpoints = folder / "checkpoints"
    assert not list(checkpoints.glob("decoder_gan-*"))
    if stage == "decoder_gan":
        (path,) = checkpoints.glob("sharpening-00000005.safetensors")
        names = load_file(path)
        assert "module/discriminator.by_kept.weight" in names
        assert "module/autoencoder.quantizer.usage" in names
        assert last(CheckpointManager(checkpoints, stage)).record["stage"] == "sharpening"
    run(folder, data, resume=True)
    # A stage that 0.1 has finished keeps its checkpoint, in which the stage has its old name.
    done = [*checkpoints.glob("sharpening-*")]
    assert len(done) == (2 if stage == "prior" else 0)
    if done:
        reference = uninterrupted / "bundle"
        for path in reference.iterdir():
            assert (folder / "bundle" / path.name).read_bytes() == path.read_bytes()
    else:
        assert_same_run(folder, uninterrupted)


def test_a_stage_that_0_1_has_begun_leaves_no_old_checkpoints(tmp_path: Path) -> None:
    for step in (4, 5):
        path = tmp_path / f"sharpening-{step:08}.safetensors"
        path.write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        path.with_suffix(".sha256").write_text(f"{digest}  {path.name}\n")
    checkpoints = CheckpointManager(tmp_path, "decoder_gan")
    assert checkpoints.steps() == [5, 4]
    checkpoints.prune(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sharpening-00000005.safetensors",
        "sharpening-00000005.sha256",
    ]


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_keep_fingerprints_and_weights(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    assert fingerprint(bundle).startswith(FINGERPRINTS[name])
    for network in (bundle.autoencoder, bundle.prior):
        assert network is not None
        state = network.state_dict()
        upgraded = upgrade_weights(state)
        assert list(upgraded) == list(state)
        assert all(upgraded[key] is value for key, value in state.items())
