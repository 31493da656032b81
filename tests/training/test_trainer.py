"""The loop by itself, on least squares: stopping, failing, resuming, scheduling."""

from __future__ import annotations

import json
import math
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from training_fakes import ToyStage, fit_toy, last

from anytime_ar.autoencoder import VectorQuantizerConfig
from anytime_ar.autoencoder.quantizers import VectorQuantizer
from anytime_ar.errors import InputError, TrainingError
from anytime_ar.prior import Prior, PriorConfig
from anytime_ar.runtime.signals import Terminated, defer_interrupts
from anytime_ar.training.checkpoint import Checkpoint, CheckpointManager
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.optimizer import (
    build_optimizer,
    learning_rate_at,
    load_optimizer_state,
    optimizer_state_tensors,
)


def interrupted_at(stage: ToyStage, step: int, number: int = signal.SIGINT) -> ToyStage:
    """The stage, with Ctrl-C pressed while the batch of a step is made, or another signal."""
    batch = stage.batch

    def pressed(at: int) -> object:
        if at == step:
            signal.raise_signal(number)
        return batch(at)

    stage.batch = pressed  # type: ignore[assignment, method-assign]
    return stage


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_stage_is_trained(tmp_path: Path) -> None:
    stage = ToyStage(steps=60)
    fit_toy(stage, tmp_path)
    assert stage.asked == list(range(60))
    assert stage.begun == 1
    assert not stage.toy.training
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


def test_the_randomness_of_a_step_follows_from_seed_and_step(tmp_path: Path) -> None:
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        (tmp_path / str(number)).mkdir()
        stage = ToyStage()
        fit_toy(stage, tmp_path / str(number), seed=seed)
        drawn.append(stage.toy.drawn)
    assert drawn[0] == drawn[1]
    for kind in (0, 1):
        values = [pair[kind] for pair in drawn[0] + drawn[2]]
        assert len(set(values)) == 20, "no two steps and no two seeds alike"


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    stage = ToyStage()
    fit_toy(stage, tmp_path)
    again = ToyStage()
    nn.init.zeros_(again.toy.linear.weight)
    fit_toy(again, tmp_path)
    assert again.asked == []
    assert again.begun == 0
    assert torch.equal(again.toy.linear.weight, stage.toy.linear.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, value: float
) -> None:
    stage = ToyStage()
    stage.toy.spoil[7] = value
    with pytest.raises(
        TrainingError,
        match=rf"^toy: the loss is {value} at step 8; the checkpoint in "
        r"\S*toy-00000007\.safetensors is from before; lower the learning rate "
        r"\(now at most 0\.05\) and train anew",
    ):
        fit_toy(stage, tmp_path, checkpoint_every_s=0)
    groups, record = last(CheckpointManager(tmp_path, "toy"))
    assert record["progress"]["step"] == 7
    assert torch.equal(groups["module"]["linear.weight"], stage.weights[7])
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path) if "loss" in line)


def test_a_failure_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    stage = ToyStage()
    stage.toy.spoil[1] = math.nan
    with pytest.raises(TrainingError, match="nan at step 2; no checkpoint had been written yet"):
        fit_toy(stage, tmp_path)
    assert not list(tmp_path.glob("toy*"))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The loss of a step is computed before its update, which may be what breaks."""
    stage = ToyStage()
    stage.toy.linear.weight.register_hook(
        lambda gradient: gradient * (math.nan if stage.asked[-1] == 4 else 1)
    )
    with pytest.raises(TrainingError, match=r"linear\.weight is not finite after step 5"):
        fit_toy(stage, tmp_path, checkpoint_every_s=0)
    groups, record = last(CheckpointManager(tmp_path, "toy"))
    assert record["progress"]["step"] == 4
    assert groups["module"]["linear.weight"].isfinite().all()


def test_divergence_is_told_from_progress(tmp_path: Path) -> None:
    stage = ToyStage(steps=20)
    stage.toy.spoil |= dict.fromkeys(range(10, 20), 1e4)
    with pytest.raises(
        TrainingError, match=r"the loss has diverged to \S+ at step 15, from \S+ at step 1; no chec"
    ):
        fit_toy(stage, tmp_path)


def test_a_rise_from_a_low_loss_is_no_divergence(tmp_path: Path) -> None:
    """The second stage of the paper's recipe begins with one."""
    stage = ToyStage(steps=20)
    stage.toy.spoil |= dict.fromkeys(range(1, 10), 1e-4)
    fit_toy(stage, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert max(losses) > 100 * losses[1], "the case does not test what it should"


def test_validation_that_is_not_finite_stops(tmp_path: Path) -> None:
    stage = ToyStage(validation=[1.0, math.nan])
    with pytest.raises(TrainingError, match="validation loss is nan after step 10"):
        fit_toy(stage, tmp_path)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_early_stopping_keeps_the_best_weights(tmp_path: Path, ema_decay: float | None) -> None:
    """Best after 6 of 30 steps; two validations without a better loss end it."""
    stage = ToyStage(
        steps=30,
        validate_every=3,
        patience=2,
        ema_decay=ema_decay,
        validation=[5.0, 2.0, 3.0, 2.0, 1.0],
    )
    fit_toy(stage, tmp_path, checkpoint_every_s=0)
    assert stage.asked == list(range(12))
    shorter = ToyStage(steps=30, ema_decay=ema_decay)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(
            interrupted_at(shorter, 5), tmp_path, checkpoints=CheckpointManager(tmp_path, "shorter")
        )
    groups, _ = last(CheckpointManager(tmp_path, "shorter"))
    best = {
        None: groups["module"],
        0.9: {k.removeprefix("module."): v for k, v in groups.get("average", {}).items()},
    }[ema_decay]
    assert torch.equal(stage.toy.linear.weight, best["linear.weight"])
    assert not torch.equal(stage.toy.linear.weight, read_weight(CheckpointManager(tmp_path, "toy")))


def read_weight(checkpoints: CheckpointManager) -> torch.Tensor:
    return last(checkpoints).groups["module"]["linear.weight"]


def test_patience_goes_on_across_a_resume(tmp_path: Path) -> None:
    stage = ToyStage(steps=30, validate_every=3, patience=2, validation=[5.0, 2.0, 3.0])
    with pytest.raises(KeyboardInterrupt):
        fit_toy(interrupted_at(stage, 9), tmp_path)
    resumed = ToyStage(steps=30, validate_every=3, patience=2, validation=[4.0, 1.0])
    fit_toy(resumed, tmp_path)
    assert resumed.asked == [10, 11]
    record = last(CheckpointManager(tmp_path, "toy"))[1]["progress"]
    assert (record["best_step"], record["best_loss"]) == (6, 2.0)
    best = last(CheckpointManager(tmp_path, "toy"))[0]["best"]["linear.weight"]
    assert torch.equal(resumed.toy.linear.weight, best)
    assert torch.equal(best, stage.weights[6])


def test_the_moving_average_is_the_result(tmp_path: Path) -> None:
    stage = ToyStage(ema_decay=0.7)
    checkpoints = fit_toy(stage, tmp_path)
    after = [stage.weights[step] for step in range(1, 10)] + [read_weight(checkpoints)]
    expected = after[0]
    for weight in after[1:]:
        expected = 0.7 * expected + 0.3 * weight
    torch.testing.assert_close(stage.toy.linear.weight.detach(), expected)


def test_a_loss_scaler_is_resumed_too(tmp_path: Path) -> None:
    def half() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        return Fabric(accelerator="cpu", devices=1, plugins=plugin)

    (tmp_path / "once").mkdir()
    whole = fit_toy(ToyStage(), tmp_path / "once", fabric=half())
    with pytest.raises(KeyboardInterrupt):
        fit_toy(interrupted_at(ToyStage(), 4), tmp_path, fabric=half())
    fit_toy(ToyStage(), tmp_path, fabric=half())
    assert torch.equal(read_weight(whole), read_weight(CheckpointManager(tmp_path, "toy")))
    precision = [last(c).record["precision"] for c in (whole, CheckpointManager(tmp_path, "toy"))]
    assert precision[0] == precision[1]
    assert precision[0]["scale"] != 2.0**20, "it moved, so that there was something to lose"


def test_seconds_and_checkpoints_go_on_across_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks a second whenever it is read, from another origin in each process."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr("anytime_ar.training.trainer.time.perf_counter", clock)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(interrupted_at(ToyStage(), 4), tmp_path, log_every=1)
    first = [line["seconds"] for line in lines(tmp_path) if "loss" in line]
    now = -1e6
    saved: list[int] = []

    write = CheckpointManager.write

    def counted(self: CheckpointManager, step: int, checkpoint: Checkpoint) -> None:
        saved.append(step)
        write(self, step, checkpoint)

    monkeypatch.setattr(CheckpointManager, "write", counted)
    fit_toy(ToyStage(), tmp_path, log_every=1, checkpoint_every_s=5.5)
    seconds = [line["seconds"] for line in lines(tmp_path) if "loss" in line]
    assert len(seconds) == 10
    assert seconds[: len(first)] == first
    assert all(0 < b - a <= 3 for a, b in pairwise(seconds))
    assert saved == [8, 10], "a resumed stage waits as long for its first checkpoint as any"


def test_every_step_is_logged_once(tmp_path: Path) -> None:
    """Checkpoints between two reports neither repeat losses nor lose them."""
    (tmp_path / "plain").mkdir()
    fit_toy(ToyStage(), tmp_path / "plain", log_every=1)
    each = [line["loss"] for line in lines(tmp_path / "plain") if "loss" in line]
    fit_toy(ToyStage(), tmp_path, log_every=4, checkpoint_every_s=0)
    logged = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in logged] == list(range(1, 11))
    assert [line["loss"] for line in logged] == each


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    checkpoints = fit_toy(ToyStage(), tmp_path)
    with pytest.raises(
        InputError, match=r"toy-00000010\.safetensors does not fit this configuration .*; re"
    ):
        fit_toy(ToyStage(ema_decay=0.9), tmp_path)
    checkpoint = last(checkpoints)
    del checkpoint.groups["module"]["linear.bias"]
    checkpoints.write(10, checkpoint)
    with pytest.raises(InputError, match=r"does not fit this configuration .*linear\.bias"):
        fit_toy(ToyStage(), tmp_path)


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("anytime_ar.runtime.signals.time.monotonic", lambda: now)
    with defer_interrupts(term=True) as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        now = 0.1
        signal.raise_signal(signal.SIGINT)  # of a launcher, which was pressed as well
        now = 2.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_ends_a_stage_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Terminated) as ended:
        fit_toy(interrupted_at(ToyStage(), 4, signal.SIGTERM), tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM
    assert "after step 5 of" in ended.value.message
    assert "of stage toy, which is saved" in ended.value.message
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert CheckpointManager(tmp_path, "toy").steps() == [5]
    fit_toy(ToyStage(), tmp_path)
    (tmp_path / "once").mkdir()
    whole = fit_toy(ToyStage(), tmp_path / "once")
    assert torch.equal(read_weight(CheckpointManager(tmp_path, "toy")), read_weight(whole))


@pytest.mark.parametrize("passes", [2, 4])
def test_gradients_of_passes_add_up_to_that_of_the_batch(tmp_path: Path, passes: int) -> None:
    whole, cut = ToyStage(), ToyStage()
    for stage in (whole, cut):
        stage.toy.dropout.p = 0.0  # which is drawn for each pass
    (tmp_path / "whole").mkdir()
    fit_toy(whole, tmp_path / "whole", log_every=1)
    fit_toy(cut, tmp_path, log_every=1, gradient_accumulation_steps=passes)
    torch.testing.assert_close(cut.toy.linear.weight, whole.toy.linear.weight)
    assert cut.asked == whole.asked
    assert cut.learned == whole.learned == 10
    losses = [
        [line["loss"] for line in lines(folder) if "loss" in line]
        for folder in (tmp_path, tmp_path / "whole")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_a_batch_that_cannot_be_cut_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy: a batch of 8 cannot be cut into 3 equal parts"):
        fit_toy(ToyStage(), tmp_path, gradient_accumulation_steps=3)


def test_other_handlers_of_ctrl_c_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a job in the background
    try:
        with defer_interrupts() as interrupted:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            assert not interrupted.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(threading, "main_thread", lambda: None)  # as if this were another thread
    with defer_interrupts():
        assert signal.getsignal(signal.SIGINT) is before


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    options = OptimizerConfig(learning_rate=2.0, warmup_steps=4)
    rates = [learning_rate_at(options, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.5)
    assert rates[:4] == sorted(rates[:4])
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates[50] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[99] < 1e-3
    assert rates[100] == 0.0
    assert learning_rate_at(OptimizerConfig(learning_rate=2.0, warmup_steps=0), 0, 100) == 2.0


def test_only_matrices_and_convolutions_decay() -> None:
    quantizer = VectorQuantizerConfig(vocabulary=4, codebook_update="loss")
    model = nn.ModuleDict(
        {
            "convolution": nn.Conv2d(1, 2, 3),
            "convolution in time": nn.Conv1d(1, 2, 3),
            "prior": Prior(PriorConfig(layers=1, width=8, heads=2), 3, 4, label_count=2),
            "quantizer": VectorQuantizer(quantizer, 3, 2),
        }
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(
        model, OptimizerConfig(weight_decay=0.1, learning_rate=0.5, beta2=0.9)
    )
    groups = {
        group["weight_decay"]: {names[id(p)] for p in group["params"]}
        for group in optimizer.param_groups
    }
    assert groups.keys() == {0.1, 0.0}
    block = "prior.blocks.0"
    assert groups[0.1] == {
        "convolution.weight",
        "convolution in time.weight",
        *(f"{block}.{layer}.weight" for layer in ("qkv", "out", "up", "down")),
    }
    assert groups[0.0] == set(names.values()) - groups[0.1]
    assert {
        "quantizer.codebooks",
        "prior.code_embedding.weight",
        f"{block}.norm1.weight",
    } <= groups[0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.9)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_output_that_shares_its_weights_with_an_embedding_is_trained_as_one(
    kind: Literal["adamw", "muon"],
) -> None:
    embedding, body, output = nn.Embedding(5, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 5)
    output.weight = embedding.weight
    model = nn.Sequential(embedding, body, output)
    optimizer = build_optimizer(model, OptimizerConfig(kind=kind, weight_decay=0.1))
    decayed, kept = [
        [
            p
            for group in optimizer.param_groups
            if (group["weight_decay"] > 0) is decays
            for p in group["params"]
        ]
        for decays in (True, False)
    ]
    assert [id(p) for p in decayed] == [id(body.weight)]
    assert [id(p) for p in kept] == [id(embedding.weight), id(output.bias)]


def test_muon_moves_matrices_and_adamw_the_rest() -> None:
    """Two optimizers as one do what each does alone, also after a resume."""

    def model() -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.ReLU())

    def step(module: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        x = torch.linspace(-1, 1, 5 * 16).view(5, 1, 4, 4)
        module(x).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    options = OptimizerConfig(kind="muon", weight_decay=0.1, learning_rate=0.02)
    together, apart = model(), model()
    both = build_optimizer(together, options)
    convolution, linear = apart[0], apart[2]
    groups = [
        {"params": [convolution.weight], "weight_decay": 0.1},
        {"params": [convolution.bias, linear.bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.99))
    muon = torch.optim.Muon(
        [linear.weight], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for rate in (0.02, 0.02, 0.005, 0.01):
        for group in [*both.param_groups, *adamw.param_groups, *muon.param_groups]:
            group["lr"] = rate  # as a schedule does
        step(together, both)
        step(apart, adamw, muon)
        resumed = build_optimizer(together, options)
        load_optimizer_state(resumed, optimizer_state_tensors(both))
        both = resumed
    for mine, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert not torch.equal(mine, torch.zeros_like(mine))
    assert not torch.equal(together[2].weight, model()[2].weight)
