"""`AnytimeModel`: the public face of a bundle. Sample, stream, extend, encode, decode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from numpy.typing import NDArray
from torch import Tensor

from anytime_ar.ambient import defaults
from anytime_ar.autoencoder import decode_for
from anytime_ar.bundle import Bundle, fingerprint
from anytime_ar.calibration import Calibration
from anytime_ar.codes import as_codes, check_codes
from anytime_ar.errors import InputError
from anytime_ar.files import cache_folder
from anytime_ar.prior import Backend, NativeDecoder, Precision, PrecisionChoice, decoder_for
from anytime_ar.prior.backends import check_choices
from anytime_ar.samples import as_samples, check_samples
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.costs import Costs
from anytime_ar.sampling.described import Described
from anytime_ar.sampling.devices import choose_device
from anytime_ar.sampling.engine import NEVER, ROWS_AT_ONCE, Engine
from anytime_ar.sampling.options import (
    Along,
    DrawOptions,
    budget_of,
    check_names,
    choice_of,
    pauses_of,
)
from anytime_ar.sampling.plan import Label, Plan, label_numbers
from anytime_ar.sampling.state import DrawState, Preview, draw_previews

Codes = Tensor | NDArray[Any] | Sequence[Sequence[int]]
"""int64 [B, k], or what becomes that."""

LOGITS_AT_ONCE = 2**25
"""Logits that `nats` holds at a time."""


class AnytimeModel(Described):
    """An ordered autoencoder and its prior, ready to draw samples at any budget.

    Models, results and states can be copied, pickled and sent to other processes. A process that
    was forked off computes with one thread, since OpenMP would wait for those of its parent;
    `torch.set_num_threads` asks for more where the parent has not computed.

    Args:
        bundle: weights and what belongs to them.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
        precision: what weights are rounded to while drawing; see `load`.
        backend: what draws; see `load`.
        costs_path: the file in which measured times are kept between processes, for deadlines.
        clock: gives seconds.

    Raises:
        InputError: there is no such device, precision or backend.
    """

    @defaults()
    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        precision: PrecisionChoice = "float32",
        backend: Backend = "auto",
        costs_path: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_choices(precision, backend)
        self.bundle = bundle
        self.device = choose_device(device)
        self._precision, self._backend = precision, backend
        self.autoencoder = bundle.autoencoder.to(self.device).eval()
        self.prior = None if bundle.prior is None else bundle.prior.to(self.device).eval()
        self._costs_path, self._clock = costs_path or cache_folder() / "costs.json", clock
        self._calibration = Calibration(self._costs_path.with_name("calibration.json"))

    @property
    def precision(self) -> Precision:
        """What weights are rounded to while drawing, chosen where `auto` was asked for."""
        return self._precision if self._precision != "auto" else self.engine.decoder.precision

    @property
    def backend(self) -> Literal["native", "portable"]:
        """What draws, chosen where `auto` was asked for."""
        return "native" if isinstance(self.engine.decoder, NativeDecoder) else "portable"

    @defaults()
    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Codes of samples: float [B, *sample_shape] in [-1, 1] -> int64 [B, L], coarse to fine.

        Raises:
            InputError: the shape does not fit, or a number is not finite.
        """
        x = as_samples(x)
        check_samples(x, self.sample_shape)
        if not len(x):
            return torch.empty(0, self.code_length, dtype=torch.int64, device=self.device)
        parts = [self.autoencoder.encode(part.to(self.device)) for part in x.split(ROWS_AT_ONCE)]
        return torch.cat(parts)

    @defaults()
    def decode(self, codes: Codes) -> Tensor:
        """Samples from any prefix of codes: int64 [B, k] -> float32 [B, *sample_shape] in [-1, 1].

        Raises:
            InputError: k is not in 1..L, or a code is outside 0..V-1.
        """
        codes = as_codes(codes)
        check_codes(codes, length=self.code_length, vocabulary=self.vocabulary)
        if not len(codes):
            return torch.empty(0, *self.sample_shape, dtype=torch.float32, device=self.device)
        return torch.cat([self._decode(part.to(self.device)) for part in codes.split(ROWS_AT_ONCE)])

    @defaults()
    def nats(self, codes: Codes, *, label: Label | Sequence[Label] | None = None) -> Tensor:
        """What the prior pays for each code given those before it, -ln p: float32 [B, k].

        Args:
            codes: int64 [B, k].
            label: one class or B of them, by number or name; None: no label.

        Raises:
            InputError: the model has no prior, codes do not fit it, or a label is unknown.
        """
        codes = as_codes(codes)
        check_codes(codes, length=self.code_length, vocabulary=self.vocabulary)
        if self.prior is None:
            raise InputError(f"model {self.bundle.card.name!r} has no prior to ask")
        labels = None
        if label is not None:
            labels = label_numbers(self.bundle.card, label, len(codes)).to(self.device)
        rows = max(1, LOGITS_AT_ONCE // (codes.shape[1] * self.vocabulary))
        costs = []
        for start in range(0, len(codes), rows):
            part = slice(start, start + rows)
            asked = None if labels is None else labels[part]
            costs.append(self.prior.nats(codes[part].to(self.device), asked).cpu())
        return torch.cat(costs)

    def sample(self, n: int = 1, **options: Unpack[DrawOptions]) -> Tensor:
        """Draw n samples: float32 [n, *sample_shape] in [-1, 1]. See `DrawOptions`.

        Raises:
            InputError: a number is out of range, a label is unknown, or a deadline too short.
            TypeError: an option of that name does not exist.
        """
        begin = self.engine.clock()
        plan, budget = self.plan(n, **options)
        if self.engine.in_parts(plan, budget):
            return self.decode(self.engine.codes(plan, budget))
        (last,) = draw_previews(self.engine, plan, budget, NEVER, begin=begin)
        return last.data

    def sample_codes(self, n: int = 1, **options: Unpack[DrawOptions]) -> Tensor:
        """Draw the codes of n samples, int64 [n, k], and do not decode them. See `sample`."""
        plan, budget = self.plan(n, **options)
        if budget.deadline_s is not None:
            raise InputError("deadline_s includes decoding; use draw, whose result has codes")
        return self.engine.codes(plan, budget)

    def draw(self, n: int = 1, **options: Unpack[DrawOptions]) -> Preview:
        """Draw n samples, and tell how many codes they have, why it ended, and how to go on.

        The result's `state` extends the draw later, here or in another process; see `sample`.
        """
        begin = self.engine.clock()
        plan, budget = self.plan(n, **options)
        (last,) = draw_previews(self.engine, plan, budget, NEVER, begin=begin)
        return last

    def stream(
        self,
        n: int = 1,
        *,
        previews: Sequence[int] | None = None,
        previews_per_s: float | None = None,
        **options: Unpack[DrawOptions],
    ) -> Iterator[Preview]:
        """Draw n samples with previews on the way; closing the iterator ends the work.

        The last preview is what `draw` returns with the same options, and the only one that says
        why the draw ended. If time runs out while a preview is looked at, it is given once more.

        Args:
            n: number of samples.
            previews: numbers of codes at which to give one; None: after every code.
            previews_per_s: give them at this rate instead, at most.
            options: see `DrawOptions`.

        Raises:
            InputError, TypeError: as `sample`, at the call.
        """
        begin = self.engine.clock()
        plan, budget = self.plan(n, **options)
        pauses = pauses_of(previews, previews_per_s, self.code_length)
        return draw_previews(self.engine, plan, budget, pauses, begin=begin)

    @defaults()
    def load_state(self, path: Path | str) -> DrawState:
        """A draw that was saved with `DrawState.save`, to be continued.

        Raises:
            InputError: the file is missing, damaged or something else, or of another model.
        """
        return DrawState.load(path, self.engine)

    def warm_up(self, n: int = 1, *, guidance: Along | None = None) -> None:
        """Time draws of n samples, so that the first deadline of that size is met without delay;
        otherwise the first call with `deadline_s` does so, before its clock starts. Guidance as
        in those draws; None: not given there."""
        self._costs(n, guidance)

    def least_deadline_s(
        self, n: int = 1, *, min_codes: int = 1, guidance: Along | None = None
    ) -> float:
        """The shortest `deadline_s` that draws of n samples can be relied on to keep here."""
        return self._costs(n, guidance).deadline_s(min_codes)

    @defaults()
    def plan(self, n: int = 1, **options: Unpack[DrawOptions]) -> tuple[Plan, Budget]:
        """The checked form of a draw: what its codes depend on, and when it ends.

        A `DecodeBatch` draws the rows of many plans together; a server does.

        Raises:
            InputError, TypeError: as `sample`.
        """
        check_names(options, DrawOptions)
        plan = Plan.of(
            self.bundle.card,
            self.engine.decoder.code_length,
            n,
            first=options.get("first", 0),
            seed=options.get("seed"),
            label=options.get("label"),
            choice=choice_of(options, self.bundle.card.choice),
        )
        return plan, budget_of(options)

    @cached_property
    @defaults()
    def engine(self) -> Engine:
        """What draws: the prior laid out for it, the decode loop and the cost model.

        Raises:
            InputError: the model has no prior.
        """
        if self.prior is None:
            raise InputError(
                f"model {self.bundle.card.name!r} has no prior to sample from; "
                "train one (the `prior` settings), or use encode and decode only"
            )
        return Engine(
            name=self.bundle.card.name,
            decoder=decoder_for(self.prior, self._precision, self._backend, self._calibration),
            decode=self._decode_here,
            curve=self.curve,
            owner=self,
            costs_path=self._costs_path,
            clock=self._clock,
        )

    @cached_property
    @defaults()
    def _decode(self) -> Callable[[Tensor], Tensor]:
        return decode_for(self.autoencoder, self._backend, self._calibration)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        return fingerprint(self.bundle)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs, here or in another process, which makes the rest anew: memory of the
        kernel is of this one."""
        made = ("engine", "_decode")
        return {name: value for name, value in vars(self).items() if name not in made}

    @defaults()
    def _decode_here(self, codes: Tensor) -> Tensor:
        data = self._decode(codes.to(self.device))
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # a deadline is for finished samples
        return data

    def _costs(self, n: int, guidance: Along | None) -> Costs:
        options = DrawOptions(seed=0)
        if guidance is not None:
            options["guidance"] = guidance
        return self.engine.warm_up(lambda: self.plan(n, **options)[0])
