"""The time that a run is expected to take, measured before it begins."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from runs import difference
from training_fakes import tiny

from anytime_ar.autoencoder import OrderedAutoencoder
from anytime_ar.bundle.format import build_bundle
from anytime_ar.data import DataSplits
from anytime_ar.prior import Prior
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.progress import format_duration
from anytime_ar.training import train
from anytime_ar.training.config import SINGLE_PROCESS
from anytime_ar.training.estimate import RunTimer, StageTime, describe_rest, describe_times
from anytime_ar.training.fabric import launch_fabric
from anytime_ar.training.run import build_card


def estimate(folder: Path, data: DataSplits, microbatches: int = 1) -> list[StageTime]:
    """The times of a run, by a clock that goes on by a second whenever it is read."""
    config = tiny()
    seconds = count()
    timer = RunTimer(
        config,
        folder,
        precision="32-true",
        fabric=launch_fabric("cpu", "32-true", SINGLE_PROCESS),
        distributed=DistributedContext(),
        gradient_accumulation_steps=microbatches,
        clock=lambda: next(seconds),
    )
    bundle = build_bundle(build_card(config, data))
    assert isinstance(bundle.autoencoder, OrderedAutoencoder)
    assert isinstance(bundle.prior, Prior | None)
    return timer.estimate(bundle.autoencoder, bundle.prior, data)


def test_each_stage_is_timed(tmp_path: Path, data: DataSplits) -> None:
    config = tiny()
    assert config.decoder_gan is not None
    assert data.train.size is not None
    stages = {
        "autoencoder": (config.autoencoder_training.steps, 1.0),
        "decoder_gan": (config.decoder_gan.steps, 0.25),  # four kinds of steps in a second
        "encoding": (-(-data.train.size * config.prior_training.augmented_copies // 256), 1.0),
        "prior": (config.prior_training.steps, 1 / len(config.prior_training.prefix_fractions)),
    }
    times = estimate(tmp_path, data)
    assert {name: (steps, step_s) for name, steps, step_s in times} == stages
    halves = estimate(tmp_path, data, microbatches=2)
    assert halves[0].step_s == 2 * times[0].step_s


def test_only_steps_that_are_left_count(uninterrupted: Path, data: DataSplits) -> None:
    assert [time.steps for time in estimate(uninterrupted, data)] == [0, 0, 0]  # no encoding


def test_a_run_says_how_long_it_takes_and_stays_the_same(
    uninterrupted: Path, tmp_path: Path, data: DataSplits, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(), tmp_path / "run", device="cpu", data=data)
    printed = capsys.readouterr().err
    assert printed.index("training takes about") < printed.index("autoencoder took")
    assert printed.index("autoencoder took") < printed.index("decoder_gan took")
    assert "prior took" not in printed  # nothing is left then
    assert difference(tmp_path / "run", uninterrupted) == 0


def test_times_in_words() -> None:
    times = [
        StageTime("autoencoder", 3000, 0.1),
        StageTime("encoding", 100, 0.6),
        StageTime("prior", 1200, 0.5),
    ]
    assert describe_times(times) == (
        "training takes about 16 min here: autoencoder 5 min (3,000 steps, 10 steps/s), encoding "
        "1 min, prior 10 min (at most 1,200 steps, 2 steps/s)"
    )
    assert describe_rest(times, "autoencoder", 600) == (
        "autoencoder took 10 min; about 22 min are left"  # at half of the speed
    )
    assert describe_rest(times, "prior", 600) is None
    assert describe_rest([], "autoencoder", 600) is None
    assert describe_rest([StageTime("autoencoder", 0, 0.1), times[2]], "autoencoder", 1) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.01, "1 s"),
        (59.4, "59 s"),
        (61, "1 min"),
        (3599, "60 min"),
        (9000, "2.5 h"),
        (3e5, "3.5 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
