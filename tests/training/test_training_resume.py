"""A run that was killed and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fakes import last, tiny

from anytime_ar.bundle.format import load_bundle, save_bundle
from anytime_ar.data import AugmentationConfig, DataSplits
from anytime_ar.errors import InputError
from anytime_ar.training import TrainConfig, train
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.stages.autoencoder import AutoencoderObjective
from anytime_ar.training.stages.decoder_gan import DecoderGANObjective
from anytime_ar.training.stages.prior import PriorObjective
from modes import MODES

OBJECTIVES: dict[str, Any] = {
    "autoencoder": AutoencoderObjective,
    "decoder_gan": DecoderGANObjective,
    "prior": PriorObjective,
}


class PowerCut(Exception):
    pass


def run(folder: Path, data: DataSplits, config: TrainConfig | None = None, **options: Any) -> None:
    train(config or tiny(), folder, device="cpu", show_progress=False, data=data, **options)


def disturb(monkeypatch: pytest.MonkeyPatch, stage: str, step: int, how: str) -> None:
    """Let something happen inside the forward pass of a step, counted from 1."""
    objective = OBJECTIVES[stage]
    forward = objective.forward
    done = 0

    def disturbed(self: Any, *arguments: Any) -> Any:
        nonlocal done
        losses = forward(self, *arguments)
        done += self.training
        if self.training and done == step:
            if how == "power cut":
                raise PowerCut
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(objective, "forward", disturbed)


def run_until_power_cut(
    folder: Path,
    data: DataSplits,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
    config: TrainConfig | None = None,
) -> None:
    """Train up to a step, in which the process dies."""
    with monkeypatch.context() as patch:
        disturb(patch, stage, step, "power cut")
        with pytest.raises(PowerCut):
            run(folder, data, config)


def assert_same_run(folder: Path, reference: Path) -> None:
    for name in OBJECTIVES:
        groups, record = last(CheckpointManager(folder / "checkpoints", name))
        expected, expected_record = last(CheckpointManager(reference / "checkpoints", name))
        assert {"module", "optimizer", "average"} <= groups.keys() == expected.keys()
        for group, tensors in expected.items():
            assert groups[group].keys() == tensors.keys()
            for key, value in tensors.items():
                assert torch.equal(groups[group][key], value), f"{name} {group} {key}"
        for values in (record, expected_record):
            values["progress"].pop("seconds")
        assert record == expected_record
    files = sorted(path.name for path in (reference / "bundle").iterdir())
    assert sorted(path.name for path in (folder / "bundle").iterdir()) == files
    for name in files:
        assert (folder / "bundle" / name).read_bytes() == (reference / "bundle" / name).read_bytes()


def test_the_same_configuration_gives_the_same_bytes(
    tmp_path: Path, data: DataSplits, uninterrupted: Path
) -> None:
    run(tmp_path / "run", data)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_another_seed_gives_other_bytes(
    tmp_path: Path, data: DataSplits, uninterrupted: Path
) -> None:
    run(tmp_path / "run", data, tiny(seed=1))
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        ours, theirs = (f / "bundle" / name for f in (tmp_path / "run", uninterrupted))
        assert ours.read_bytes() != theirs.read_bytes()


@pytest.mark.parametrize(
    ("stage", "step"),
    [("autoencoder", 1), ("autoencoder", 7), ("decoder_gan", 6), ("prior", 1), ("prior", 8)],
)
def test_a_power_cut_in_a_step_changes_nothing(
    tmp_path: Path,
    data: DataSplits,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    folder = tmp_path / "run"
    run_until_power_cut(folder, data, monkeypatch, stage, step)
    assert not (folder / "bundle").exists()
    checkpoints = CheckpointManager(folder / "checkpoints", stage)
    assert checkpoints.steps() == [*range(step - 1, max(0, step - 3), -1)]
    if step > 1:
        assert last(checkpoints).record["progress"]["step"] == step - 1
    run(folder, data, resume=True)
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize(("stage", "step"), [("autoencoder", 7), ("prior", 12)])
def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint(
    tmp_path: Path,
    data: DataSplits,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    folder = tmp_path / "run"
    config = tiny(checkpoint_every_minutes=1000.0)  # so that nothing else writes one
    with monkeypatch.context() as patch:
        disturb(patch, stage, step, "ctrl-c")
        with pytest.raises(KeyboardInterrupt):
            run(folder, data, config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert CheckpointManager(folder / "checkpoints", stage).steps() == [step]
    run(folder, data, config, resume=True)
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        ours, theirs = (f / "bundle" / name for f in (folder, uninterrupted))
        assert ours.read_bytes() == theirs.read_bytes()


KILLED = """
import os, signal
from training_fakes import small_digits, tiny
from anytime_ar.runtime import files
from anytime_ar.training import train

calls = 0
real = os.fsync

def fsync(descriptor):
    global calls
    calls += 1
    if calls == 6 + 4 * 6 + 1:  # three files and six checkpoints of two; each file and its folder
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)

files.os.fsync = fsync
train(tiny(), {folder!r}, device="cpu", show_progress=False, data=small_digits())
"""


def test_kill_9_while_a_checkpoint_is_written(
    tmp_path: Path, data: DataSplits, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=str(folder))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    checkpoints = folder / "checkpoints"
    assert len(list(checkpoints.glob(".anytime-*.tmp"))) == 1
    assert CheckpointManager(checkpoints, "autoencoder").steps()[0] == 6
    run(folder, data, resume=True)
    assert not list(folder.rglob(".anytime-*.tmp"))
    assert_same_run(folder, uninterrupted)


def test_a_finished_run_resumes_to_its_bundle_as_it_is(
    tmp_path: Path, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    config = tiny(prior=None)
    run(folder, data, config)
    bundle = load_bundle(folder / "bundle")
    card = bundle.card.model_copy(update={"name": "evaluated since"})
    save_bundle(type(bundle)(card, bundle.autoencoder), folder / "bundle")
    monkeypatch.setattr(AutoencoderObjective, "forward", None)  # nothing is trained
    again = train(config, folder, resume=True, device="cpu", show_progress=False)
    assert again.bundle.card.name == "evaluated since"
    assert not again.autoencoder.training


def test_resume_without_a_run_begins_one(tmp_path: Path, data: DataSplits) -> None:
    run(tmp_path / "new", data, tiny(prior=None), resume=True)
    assert load_bundle(tmp_path / "new" / "bundle").prior is None


def test_a_run_is_not_overwritten(tmp_path: Path, data: DataSplits, uninterrupted: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds a run already; go on with it by .*, or choose another"
    ):
        run(uninterrupted, data)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "me.jpg").write_bytes(b"smile")
    with pytest.raises(InputError, match="is not empty and holds no run; choose another folder"):
        run(foreign, data)
    with pytest.raises(InputError, match=r"me\.jpg is a file; choose a folder for the run"):
        run(foreign / "me.jpg", data)
    with pytest.raises(
        InputError, match=r"cannot write .*me\.jpg is a file; choose another folder"
    ):
        run(foreign / "me.jpg" / "run", data)
    assert [path.name for path in foreign.iterdir()] == ["me.jpg"]


def test_other_settings_are_named(data: DataSplits, uninterrupted: Path) -> None:
    other = tiny(seed=5, augmentation=AugmentationConfig(flip=True, shift=2, rotate=5, scale=0.1))
    with pytest.raises(InputError, match="was begun with other settings; go on") as refused:
        run(uninterrupted, data, other, resume=True)
    assert refused.value.details == ("augmentation.shift was 1.0, is 2.0", "seed was 0, is 5")


def test_a_damaged_configuration_is_named(tmp_path: Path, data: DataSplits) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config\.yaml is damaged; choose another folder"):
        run(tmp_path, data, resume=True)


def test_nothing_is_written_when_the_input_is_bad(tmp_path: Path, data: DataSplits) -> None:
    with pytest.raises(InputError, match="device 'gpu9' is not there; pass cpu or auto"):
        train(tiny(), tmp_path / "run", device="gpu9", data=data)
    config = tiny(autoencoder=tiny().autoencoder.model_copy(update={"code_length": None}))
    with pytest.raises(InputError, match=r"autoencoder\.code_length is needed"):
        run(tmp_path / "run", data, config)
    assert not list(tmp_path.iterdir())


def test_the_log_has_every_figure(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    for stage in OBJECTIVES:
        losses = [line for line in lines if line["stage"] == stage and "loss" in line]
        validation = [
            line for line in lines if line["stage"] == stage and "validation_loss" in line
        ]
        assert losses[-1]["step"] == validation[-1]["step"] == 12
        assert {4, 8, 12} <= {line["step"] for line in losses}
        assert all(line["loss"] > 0 and line["seconds"] > 0 for line in losses)
    assert {line["step"] for line in validation} == {5, 10, 12}


def test_the_global_generators_are_left_alone(tmp_path: Path, data: DataSplits) -> None:
    import random

    import numpy as np

    def states() -> tuple[Any, ...]:
        name, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is what others may use
        return torch.get_rng_state().tolist(), random.getstate(), name, list(keys), rest

    before = states()
    run(tmp_path / "run", data)
    assert states() == before


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_the_caller_change_no_weight(
    mode: str, tmp_path: Path, data: DataSplits, uninterrupted: Path
) -> None:
    with MODES[mode]():
        run(tmp_path / "run", data)
    assert_same_run(tmp_path / "run", uninterrupted)
