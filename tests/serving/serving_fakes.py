"""A tiny model whose steps and decodes take as long as a test says, by a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import Bundle
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.engine.fairness import OverloadPolicy
from anytime_ar.serving.engine.jobs import JobEvent, ResultEvent, SamplingJob, ServingError
from anytime_ar.serving.engine.runner import ModelRunner
from anytime_ar.serving.engine.scheduler import Scheduler
from fake_clock import FakeClock
from random_models import curve_of, encodec_config, llama_config, random_bundle

L, V = 12, 8
SLOW_L = 400
LABELS = ("cat", "dog", "owl")
KINDS = {"ours": "image", "a Llama prior": "llama", "a neural codec": "codec"}
"""Models of ours and with parts of other packages: what `tiny_bundle` calls each of them."""
SLOW_KINDS = {"ours": "slow", "a Llama prior": "slow-llama", "a neural codec": "slow-codec"}
"""The same with many codes."""
STEP_S, ROW_S, DECODE_S = 0.001, 0.0005, 0.002


def curve() -> Curve:
    """Sample FD falls as 1 / k until it is flat from nine codes on."""
    return curve_of({k: 9 / min(k, 9) for k in range(1, L + 1)}, L, V, ms=True)


def tiny_bundle(kind: str = "image", *, seed: int = 0, name: str = "tiny") -> Bundle:
    """Random weights: gray images of 8 x 8, colour images, sounds of 48 samples; gray images by a
    Llama, and sounds by an EnCodec; and slow ones, whose many codes take their time."""
    slow = kind.startswith("slow")
    llama, codec = kind.endswith("llama"), kind.endswith("codec")
    sound, length = codec or kind == "sound", L
    if slow:
        length = SLOW_L // 4 if llama or codec else SLOW_L
    samples, levels = 4 * length, 4 if slow else 3
    shape = (1, samples) if sound else (3, 8, 8) if kind == "colour" else (1, 8, 8)
    autoencoder: dict[str, Any] = {
        "code_length": length,
        "code_width": 2,
        "quantizer": {"vocabulary": V},
        "network": {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8},
    }
    if kind == "sound":
        autoencoder |= {"layout": "segment", "segments": 2, "whole_codes": 0, "linear_path": True}
    prior: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2}
    if slow:
        prior = {"layers": 4, "width": 128, "heads": 4}
    card = Card.parse(
        {
            "name": name,
            "data": {
                "name": "none",
                "sample_shape": shape,
                "sample_rate": 8000 if sound else None,
                "labels": LABELS,
                "label_frequencies": (0.5, 0.3, 0.2),
            },
            "autoencoder": encodec_config(samples, length // levels, levels, V)
            if codec
            else autoencoder,
            "prior": llama_config(length, V, len(LABELS)) if llama else prior,
        },
        origin="test",
    )
    bundle = random_bundle(card, seed)
    return bundle if slow else replace(bundle, curve=curve())


class TimedModel(AnytimeModel):
    """Steps and decodes take fake time; everything else takes none.

    Args:
        pretends: draw nothing at all, for long plays.
    """

    def __init__(
        self,
        folder: Path,
        clock: FakeClock,
        bundle: Bundle | None = None,
        *,
        pretends: bool = False,
    ) -> None:
        super().__init__(
            bundle or tiny_bundle(),
            device="cpu",
            cost_model_path=folder / "costs.json",
            clock=clock,
        )
        self.slowness = 1.0
        self.stalls: Iterator[float] = iter(())
        """Seconds that steps take longer than they should, one after the other."""
        self.steps = 0
        self.fails = False
        decoder, engine = self.sampler.decoder, self.sampler
        real_step, real_decode = decoder.step, engine.decode

        def step(rows: DecodeState[Any], count: int) -> None:
            if self.fails:
                raise RuntimeError("the device is gone")
            self.steps += 1
            clock.now += self.slowness * (STEP_S + ROW_S * count) + next(self.stalls, 0.0)
            if pretends:
                for slot in range(count):
                    rows.positions[slot] += 1
            else:
                now = clock.now
                real_step(rows, count)
                clock.now = now  # a step may call `step_with_logits`

        def decode(codes: Tensor) -> Tensor:
            clock.now += self.slowness * DECODE_S * len(codes)
            return codes[:, :1] if pretends else real_decode(codes)

        real_scored_step = decoder.step_with_logits

        def step_with_logits(rows: DecodeState[Any], count: int) -> Tensor:
            clock.now += self.slowness * (STEP_S + ROW_S * count)
            return real_scored_step(rows, count)

        decoder.step = step  # type: ignore[method-assign]
        decoder.step_with_logits = step_with_logits  # type: ignore[method-assign]
        engine.decode = decode


@dataclass
class Heard:
    """A draw of a test, and what its client heard."""

    draw: SamplingJob
    refused_at_once: ServingError | None = None
    events: list[tuple[float, JobEvent]] = field(default_factory=list)

    @property
    def last(self) -> JobEvent:
        return self.refused_at_once or self.events[-1][1]

    @property
    def done(self) -> ResultEvent:
        assert isinstance(self.last, ResultEvent), self.last
        return self.last


class Stage:
    """A scheduler and its clients, under one clock."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 8,
        policy: OverloadPolicy = "elastic",
        models: int = 1,
        kind: str = "ours",
        pretends: bool = False,
    ) -> None:
        self.clock = FakeClock()
        bundles = [tiny_bundle(KINDS[kind], seed=i, name=f"tiny{i}") for i in range(models)]
        self.models = [
            TimedModel(folder, self.clock, bundle, pretends=pretends) for bundle in bundles
        ]
        runners = {
            model.bundle.card.name: ModelRunner(model.bundle.card.name, model, slots, self.clock)
            for model in self.models
        }
        self.scheduler = Scheduler(runners, self.clock, policy=policy)
        self.scheduler.warm_up()
        self.heard: list[Heard] = []

    def ask(
        self,
        n: int = 1,
        *,
        deadline_s: float = 10.0,
        floor: int = 1,
        cap: int = L,
        model: int = 0,
        client: str = "a",
        arrival: float | None = None,
        look_every_s: float = float("inf"),
        given: Tensor | None = None,
        **options: Any,
    ) -> Heard:
        """Submit a draw that arrives now, or did before; with codes that it has already."""
        options.setdefault("seed", len(self.heard))
        plan, _ = self.models[model].plan(n, **options)
        arrival = self.clock.now if arrival is None else arrival
        draw = SamplingJob(
            model=self.models[model].bundle.card.name,
            client=client,
            arrival=arrival,
            deadline=arrival + deadline_s,
            listener=lambda event: heard.events.append((self.clock.now, event)),
            plan=plan,
            min_codes=floor,
            max_codes=cap,
            preview_interval_s=look_every_s,
            codes=given,
            codes_drawn=0 if given is None else given.shape[1],
        )
        heard = Heard(draw)
        self.heard.append(heard)
        try:
            self.scheduler.submit(draw)
        except ServingError as refused:
            heard.refused_at_once = refused
        return heard

    def run(self) -> None:
        """Until nothing is left."""
        while not self.scheduler.idle:
            self.scheduler.run_iteration()

    def play(self, arrivals: Sequence[tuple[float, dict[str, Any]]]) -> list[Heard]:
        """Clients that come at times from now, whatever goes on."""
        begin, came = self.clock.now, []
        waiting = sorted(arrivals, key=lambda one: one[0])
        while waiting or not self.scheduler.idle:
            if self.scheduler.idle:
                self.clock.now = max(self.clock.now, begin + waiting[0][0])
            while waiting and begin + waiting[0][0] <= self.clock.now:
                at, options = waiting.pop(0)
                came.append(self.ask(arrival=begin + at, **options))
            if not self.scheduler.idle:
                self.scheduler.run_iteration()
        return came


def poisson(rate: float, seconds: float, *, seed: int = 0) -> list[float]:
    """Times of arrivals at random."""
    draw, times, now = random.Random(seed), [], 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        times.append(now)
    return times
