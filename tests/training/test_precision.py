"""The number format of training: chosen by timing, once, and without a trace."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_training_resume import assert_same_run, run, run_until_power_cut
from torch import nn
from torch.nn import functional as F
from training_fakes import ToyStage, tiny

from anytime_ar.bundle.format import load_bundle
from anytime_ar.data import DataSplits
from anytime_ar.errors import InputError
from anytime_ar.runtime import mixed_precision as precision
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.mixed_precision import bfloat16_autocast, faster_precision
from anytime_ar.training.config import SINGLE_PROCESS, TrainingPrecision
from anytime_ar.training.fabric import launch_fabric
from anytime_ar.training.precision import PrecisionAutotuner, read_autotuned_settings
from anytime_ar.training.run_log import RunLog

CPU = torch.device("cpu")


def compared(seconds: dict[str, float], first: float = 1.0) -> tuple[str, list[str]]:
    """What is chosen of two formats of which a step takes so long, the first ones `first` times as
    long; and the steps."""
    now, steps = 0.0, []

    def step(kind: str) -> None:
        nonlocal now
        now += seconds[kind] * (first if kind not in steps else 1.0)
        steps.append(kind)

    chosen, best = faster_precision(step, CPU, clock=lambda: now)
    assert best == pytest.approx(seconds)
    return chosen, steps


@pytest.mark.parametrize(
    ("bfloat16", "chosen"),
    [(0.5, "bf16-mixed"), (0.97, "32-true"), (1.0, "32-true"), (9, "32-true")],
)
def test_bfloat16_has_to_be_clearly_faster(bfloat16: float, chosen: str) -> None:
    seconds = {"32-true": 0.01, "bf16-mixed": 0.01 * bfloat16}
    assert compared(seconds)[0] == chosen
    assert compared(seconds, first=100)[0] == chosen, "first steps prepare, and do not count"


def test_a_comparison_takes_a_second_or_three_steps() -> None:
    _, steps = compared({"32-true": 0.001, "bf16-mixed": 0.002})
    assert len(steps) <= 20
    _, steps = compared({"32-true": 10.0, "bf16-mixed": 20.0})
    assert sorted(steps) == 3 * ["32-true"] + 3 * ["bf16-mixed"]


class Small(nn.Module):
    """Everything that is multiplied in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.back = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.linear = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = F.gelu(self.back(F.relu(self.convolution(x))))
        q, k, v = self.linear(maps.flatten(2).mT).chunk(3, -1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return (attended @ q.mT).square().mean() + torch.bmm(k, v.mT).mean()


def test_products_that_are_rounded_are_those_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Small()
    x = torch.randn(2, 3, 8, 8)
    found: dict[bool | None, list[torch.Tensor]] = {}
    for emulated in (None, False, True):  # None: in float32
        monkeypatch.setattr(precision, "bfloat16_is_emulated", lambda: emulated)  # noqa: B023
        module.zero_grad()
        if emulated is None:
            loss = module(x)
        else:
            with bfloat16_autocast("cpu"):
                assert F.linear(x, torch.ones(2, 8)).dtype == torch.bfloat16
                loss = module(x)
        loss.backward()
        found[emulated] = [loss.detach(), *(p.grad.clone() for p in module.parameters())]
    for exact, real, rounded in zip(*found.values(), strict=True):
        error = (real - exact).norm()
        assert 0 < (rounded - exact).norm() < 2 * error, "rounded as much as there"
        assert (rounded - real).norm() < 2 * error


def choosing(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Let comparisons take their steps, and find what they are told to, one after another."""
    given = iter(answers)

    def choose(step: Any, _: torch.device) -> tuple[str, dict[str, float]]:
        for kind in ("32-true", "bf16-mixed", "32-true"):
            step(kind)
        return next(given), {"32-true": 1.0, "bf16-mixed": 1.0}

    monkeypatch.setattr("anytime_ar.training.precision.faster_precision", choose)


@pytest.mark.parametrize("kind", ["32-true", "bf16-mixed"])
def test_a_run_that_chose_is_the_run_that_was_told(
    tmp_path: Path, data: DataSplits, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run(tmp_path / "told", data, tiny(precision=kind))
    choosing(monkeypatch, kind, kind, kind)
    run(tmp_path / "auto", data, tiny(precision="auto"))
    cards = []
    for name in ("told", "auto"):  # which differ in what was asked for alone
        path = tmp_path / name / "bundle" / "config.json"
        card = json.loads(path.read_text())
        cards.append(card["training"].pop("precision"))
        path.write_text(json.dumps(card))
        (tmp_path / name / "bundle" / "manifest.json").unlink()
    assert cards == [kind, "auto"]
    assert_same_run(tmp_path / "auto", tmp_path / "told")


def test_each_stage_chooses_once_and_it_is_written_down(
    tmp_path: Path, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"autoencoder": "32-true", "decoder_gan": "bf16-mixed", "prior": "32-true"}
    choosing(monkeypatch, *wanted.values())
    config = tiny(precision="auto")
    run(tmp_path / "whole", data, config)
    folder = tmp_path / "resumed"
    choosing(monkeypatch, "32-true", "bf16-mixed")
    step = 3 + 3 * 4  # of a comparison, 3 x 4 steps
    run_until_power_cut(folder, data, monkeypatch, "decoder_gan", step, config)
    assert read_autotuned_settings(folder).precision == {
        "autoencoder": "32-true",
        "decoder_gan": "bf16-mixed",
    }
    choosing(monkeypatch, "32-true")  # of the prior; another processor would say what it liked
    run(folder, data, config, resume=True)
    assert_same_run(folder, tmp_path / "whole")
    assert read_autotuned_settings(folder).precision == wanted
    assert read_autotuned_settings(folder).threads == torch.get_num_threads()
    assert load_bundle(folder / "bundle").card.training["precision_by_stage"] == wanted
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {one["stage"]: one["precision"] for one in log if "precision" in one} == wanted


def test_an_old_run_goes_on_in_its_own_format(
    tmp_path: Path, data: DataSplits, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration names bfloat16, which was the default; that of today leaves it open."""
    folder = tmp_path / "run"
    run_until_power_cut(folder, data, monkeypatch, "autoencoder", 7)
    (folder / "autotune.json").unlink()  # which there was not
    choosing(monkeypatch)
    run(folder, data, tiny(precision="auto"), resume=True)
    assert_same_run(folder, uninterrupted)
    assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == "bf16-mixed"


def test_another_format_than_that_of_the_run_is_refused(
    data: DataSplits, uninterrupted: Path
) -> None:
    with pytest.raises(InputError, match="- precision was bf16-mixed, is 32-true"):
        run(uninterrupted, data, tiny(precision="32-true"), resume=True)


def test_autotuned_settings_that_are_damaged_take_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "autotune.json").write_text('{"precision":')
    with pytest.raises(InputError, match=r"autotune\.json is damaged .*; remove it, and what it"):
        read_autotuned_settings(tmp_path)


def test_autotuned_settings_that_are_nested_too_deep_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "autotune.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"autotune\.json is damaged .*; remove it, and what it"):
        read_autotuned_settings(tmp_path)


@pytest.mark.parametrize("kind", ["folder", *(["pipe"] if os.name == "posix" else [])])
def test_autotuned_settings_that_are_not_a_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "autotune.json"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(InputError, match=r"autotune\.json is not a file; remove it, and what it"):
        read_autotuned_settings(tmp_path)


def test_autotuned_settings_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "autotune.json").write_text("{}")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(InputError, match=r"cannot read .*autotune\.json: Perm.*; make it readable"):
        read_autotuned_settings(tmp_path)


class SecondRank(DistributedContext):
    """Of two processes, the one that hears what the first one has decided."""

    rank, world_size = 1, 2

    def __init__(self, heard: TrainingPrecision) -> None:
        self.heard = heard

    def run_on_rank_zero(self, work: Any) -> Any:
        del work  # the first process runs it
        return self.heard


@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_all_processes_compute_as_the_first_one_says(tmp_path: Path, in_bfloat16: bool) -> None:
    fabric = launch_fabric("cpu", "auto", SINGLE_PROCESS)
    ranks = SecondRank("bf16-mixed" if in_bfloat16 else "32-true")
    decider = PrecisionAutotuner(tmp_path, "auto", fabric=fabric, seed=0, distributed=ranks)
    with RunLog(None, show_progress=False) as log:
        decider.select(ToyStage(), log)
    with fabric.autocast():
        assert torch.is_autocast_enabled("cpu") == in_bfloat16
    assert not [*tmp_path.iterdir()]
