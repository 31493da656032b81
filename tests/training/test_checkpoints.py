"""Checkpoints on disk: the last ones, each checked; what is damaged is told and passed over."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from training_fakes import ToyStage, fit_toy, last

from anytime_ar.errors import InputError
from anytime_ar.training.checkpoint import Checkpoint, CheckpointManager

RECORD = {"progress": {"step": 3, "seconds": 0.125}, "data": {"position": 3}}


def small(step: int) -> Checkpoint:
    return Checkpoint({"module": {"weight": torch.arange(6.0) + step}}, RECORD)


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointManager:
    made = CheckpointManager(tmp_path, "toy")
    for step in (5, 10, 15):
        made.write(step, small(step))
    return made


def test_the_last_ones_are_kept_and_any_tool_can_check_them(checkpoints: CheckpointManager) -> None:
    assert checkpoints.steps() == [15, 10]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        f"toy-000000{step}.{kind}" for step in (10, 15) for kind in ("safetensors", "sha256")
    ]
    for step in (10, 15):
        told = f"toy-000000{step}.sha256"
        command = ["sha256sum", "--check", "--strict", told]
        checked = subprocess.run(command, cwd=checkpoints.folder, capture_output=True, check=False)
        assert checked.returncode == 0
    read = last(checkpoints)
    assert torch.equal(read.groups["module"]["weight"], torch.arange(6.0) + 15)
    assert read.record == RECORD


def test_stages_do_not_mix(tmp_path: Path) -> None:
    a, b = CheckpointManager(tmp_path, "prior"), CheckpointManager(tmp_path, "prior-2")
    a.write(1, small(1))
    b.write(7, small(7))
    assert (a.steps(), b.steps()) == ([1], [7])


def test_a_file_without_its_digest_was_never_completed(checkpoints: CheckpointManager) -> None:
    checkpoints.path(15).with_suffix(".sha256").unlink()
    told: list[str] = []
    assert checkpoints.latest(told.append) == 10
    assert not told


def damage(path: Path, draw: random.Random) -> str:
    """Something that disks, copies and people do."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "cut", "grow", "empty", "zeros", "gone"])
    if kind == "flip":
        place = draw.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
    elif kind == "cut":
        del content[draw.randrange(len(content)) :]
    elif kind == "grow":
        content += bytes(draw.randrange(1, 9))
    elif kind == "empty":
        content.clear()
    elif kind == "zeros":
        begin = draw.randrange(len(content))
        end = begin + draw.randrange(1, len(content))
        content[begin:end] = bytes(len(content[begin:end]))
    if kind == "gone":
        path.unlink()
    elif bytes(content) == path.read_bytes():
        return damage(path, draw)  # there were zeros already
    else:
        path.write_bytes(content)
    return kind


@pytest.mark.parametrize("seed", range(200))
def test_any_damage_is_told_and_the_one_before_counts(
    checkpoints: CheckpointManager, seed: int
) -> None:
    draw = random.Random(seed)
    file = checkpoints.path(15)
    sha = file.with_suffix(".sha256")
    hit = draw.choice([file, file, file, sha])
    kind = damage(hit, draw)
    told: list[str] = []
    assert checkpoints.latest(told.append) == 10
    if hit == sha and kind == "gone":
        assert not told  # as if it had not been completed
    else:
        assert len(told) == 1
        assert "toy-00000015.safetensors" in told[0]
        assert "the one before it counts" in told[0]
    assert torch.equal(last(checkpoints).groups["module"]["weight"], torch.arange(6.0) + 10)


def test_damage_of_all_is_an_error_once(checkpoints: CheckpointManager) -> None:
    for step in (10, 15):
        checkpoints.path(step).write_bytes(b"")
    told: list[str] = []
    with pytest.raises(InputError, match="no checkpoint of the stage toy is whole; resume once m"):
        checkpoints.latest(told.append)
    assert len(told) == 2
    assert checkpoints.latest(told.append) is None
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "toy-00000010.damaged",
        "toy-00000015.damaged",
    ]


def test_a_stage_goes_on_from_the_one_before_to_the_same_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    whole = fit_toy(ToyStage(), tmp_path / "whole")
    interrupted = ToyStage()
    interrupted.toy.spoil[7] = float("nan")
    with pytest.raises(Exception, match="nan at step 8"):
        fit_toy(interrupted, tmp_path, checkpoint_every_s=0)
    checkpoints = CheckpointManager(tmp_path, "toy")
    assert checkpoints.steps() == [7, 6]
    checkpoints.path(7).write_bytes(checkpoints.path(7).read_bytes()[:-1])
    stage = ToyStage()
    fit_toy(stage, tmp_path)
    assert stage.asked == [6, 7, 8, 9]
    assert "toy-00000007.safetensors is damaged" in capsys.readouterr().err
    messages = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum("message" in line for line in messages) == 1
    weights = [last(made).groups["module"]["linear.weight"] for made in (checkpoints, whole)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_ends_the_stage_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:  # two checkpoints of two files, each with its folder, are written
            raise OSError(code, os.strerror(code))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("anytime_ar.runtime.files.os.fsync", full)
        with pytest.raises(InputError, match=r"cannot write \S+: (No space left|Read-only file)"):
            fit_toy(ToyStage(), tmp_path, checkpoint_every_s=0)
    assert CheckpointManager(tmp_path, "toy").steps() == [2, 1]
    assert not list(tmp_path.glob(".anytime-*"))
    fit_toy(ToyStage(), tmp_path)
    (tmp_path / "whole").mkdir()
    weights = [
        last(made).groups["module"]["linear.weight"]
        for made in (CheckpointManager(tmp_path, "toy"), fit_toy(ToyStage(), tmp_path / "whole"))
    ]
    assert torch.equal(*weights)
