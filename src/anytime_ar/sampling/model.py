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

from anytime_ar.autoencoder import make_decode_fn
from anytime_ar.bundle.format import Bundle, find_bundle, fingerprint, load_bundle
from anytime_ar.codes import as_codes, check_codes
from anytime_ar.errors import InputError
from anytime_ar.kernel.autotune import Autotuner
from anytime_ar.prior import (
    Backend,
    NativePriorDecoder,
    Precision,
    PrecisionOption,
    make_prior_decoder,
)
from anytime_ar.prior.decoders.select import check_decoder_options
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.files import cache_folder
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.samples import as_samples, check_samples
from anytime_ar.sampling.arguments import (
    SampleKwargs,
    Schedule,
    budget_from,
    check_option_names,
    preview_policy_from,
    sampling_params_from,
)
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.cost_model import CostModel
from anytime_ar.sampling.described import BundleProperties
from anytime_ar.sampling.plan import Label, Plan, label_indices
from anytime_ar.sampling.result import Preview, SamplingState, run_with_previews
from anytime_ar.sampling.sampler import MAX_ROWS, NO_PREVIEWS, Sampler

CodesLike = Tensor | NDArray[Any] | Sequence[Sequence[int]]
"""int64 [B, k], or what becomes that."""

MAX_LOGITS = 2**25
"""Logits that `nll` holds at a time."""


class AnytimeModel(BundleProperties):
    """An ordered autoencoder and its prior, ready to draw samples at any budget.

    Models, results and states can be copied, pickled and sent to other processes. A process that
    was forked off computes with one thread, since OpenMP would wait for those of its parent;
    `torch.set_num_threads` asks for more where the parent has not computed.

    Args:
        bundle: weights and what belongs to them.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
        precision: what weights are rounded to while drawing; see `load`.
        backend: what draws; see `load`.
        cost_model_path: the file in which measured times are kept between processes, for deadlines.
        clock: gives seconds.

    Raises:
        InputError: there is no such device, precision or backend.
    """

    @default_torch_modes()
    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        precision: PrecisionOption = "float32",
        backend: Backend = "auto",
        cost_model_path: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_decoder_options(precision, backend)
        self.bundle = bundle
        self.device = resolve_device(device)
        self._precision, self._backend = precision, backend
        self.autoencoder = bundle.autoencoder.to(self.device).eval()
        self.prior = None if bundle.prior is None else bundle.prior.to(self.device).eval()
        self._cost_model_path, self._clock = cost_model_path or cache_folder() / "costs.json", clock
        self._calibration = Autotuner(self._cost_model_path.with_name("autotune.json"))

    @property
    def precision(self) -> Precision:
        """What weights are rounded to while drawing, chosen where `auto` was asked for."""
        return self._precision if self._precision != "auto" else self.sampler.decoder.precision

    @property
    def backend(self) -> Literal["native", "portable"]:
        """What draws, chosen where `auto` was asked for."""
        return "native" if isinstance(self.sampler.decoder, NativePriorDecoder) else "portable"

    @default_torch_modes()
    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Codes of samples: float [B, *sample_shape] in [-1, 1] -> int64 [B, L], coarse to fine.

        Raises:
            InputError: the shape does not fit, or a number is not finite.
        """
        x = as_samples(x)
        check_samples(x, self.sample_shape)
        if not len(x):
            return torch.empty(0, self.code_length, dtype=torch.int64, device=self.device)
        parts = [self.autoencoder.encode(part.to(self.device)) for part in x.split(MAX_ROWS)]
        return torch.cat(parts)

    @default_torch_modes()
    def decode(self, codes: CodesLike) -> Tensor:
        """Samples from any prefix of codes: int64 [B, k] -> float32 [B, *sample_shape] in [-1, 1].

        Raises:
            InputError: k is not in 1..L, or a code is outside 0..V-1.
        """
        codes = as_codes(codes)
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        if not len(codes):
            return torch.empty(0, *self.sample_shape, dtype=torch.float32, device=self.device)
        return torch.cat([self._decode(part.to(self.device)) for part in codes.split(MAX_ROWS)])

    @default_torch_modes()
    def nll(self, codes: CodesLike, *, label: Label | Sequence[Label] | None = None) -> Tensor:
        """What the prior pays for each code given those before it, -ln p: float32 [B, k].

        Args:
            codes: int64 [B, k].
            label: one class or B of them, by number or name; None: no label.

        Raises:
            InputError: the model has no prior, codes do not fit it, or a label is unknown.
        """
        codes = as_codes(codes)
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        if self.prior is None:
            raise InputError(f"model {self.bundle.card.name!r} has no prior to ask")
        labels = None
        if label is not None:
            labels = label_indices(self.bundle.card, label, len(codes)).to(self.device)
        rows = max(1, MAX_LOGITS // (codes.shape[1] * self.vocabulary))
        costs = []
        for start in range(0, len(codes), rows):
            part = slice(start, start + rows)
            asked = None if labels is None else labels[part]
            costs.append(self.prior.nll(codes[part].to(self.device), asked).cpu())
        return torch.cat(costs)

    def sample(self, n: int = 1, **options: Unpack[SampleKwargs]) -> Tensor:
        """Draw n samples: float32 [n, *sample_shape] in [-1, 1]. See `SampleKwargs`.

        Raises:
            InputError: a number is out of range, a label is unknown, or a deadline too short.
            TypeError: an option of that name does not exist.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        if self.sampler.needs_chunking(plan, budget):
            return self.decode(self.sampler.sample_codes(plan, budget))
        (last,) = run_with_previews(self.sampler, plan, budget, NO_PREVIEWS, started_at=begin)
        return last.data

    def sample_codes(self, n: int = 1, **options: Unpack[SampleKwargs]) -> Tensor:
        """Draw the codes of n samples, int64 [n, k], and do not decode them. See `sample`."""
        plan, budget = self.plan(n, **options)
        if budget.deadline_s is not None:
            raise InputError("deadline_s includes decoding; use generate, whose result has codes")
        return self.sampler.sample_codes(plan, budget)

    def generate(self, n: int = 1, **options: Unpack[SampleKwargs]) -> Preview:
        """Draw n samples, and tell how many codes they have, why it ended, and how to go on.

        The result's `state` extends the draw later, here or in another process; see `sample`.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        (last,) = run_with_previews(self.sampler, plan, budget, NO_PREVIEWS, started_at=begin)
        return last

    def stream(
        self,
        n: int = 1,
        *,
        previews: Sequence[int] | None = None,
        previews_per_s: float | None = None,
        **options: Unpack[SampleKwargs],
    ) -> Iterator[Preview]:
        """Draw n samples with previews on the way; closing the iterator ends the work.

        The last preview is what `generate` returns with the same options, and the only one that says
        why the draw ended. If time runs out while a preview is looked at, it is given once more.

        Args:
            n: number of samples.
            previews: numbers of codes at which to give one; None: after every code.
            previews_per_s: give them at this rate instead, at most.
            options: see `SampleKwargs`.

        Raises:
            InputError, TypeError: as `sample`, at the call.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        pauses = preview_policy_from(previews, previews_per_s, self.code_length)
        return run_with_previews(self.sampler, plan, budget, pauses, started_at=begin)

    @default_torch_modes()
    def load_state(self, path: Path | str) -> SamplingState:
        """A draw that was saved with `SamplingState.save`, to be continued.

        Raises:
            InputError: the file is missing, damaged or something else, or of another model.
        """
        return SamplingState.load(path, self.sampler)

    def warm_up(self, n: int = 1, *, guidance: Schedule | None = None) -> None:
        """Time draws of n samples, so that the first deadline of that size is met without delay;
        otherwise the first call with `deadline_s` does so, before its clock starts. Guidance as
        in those draws; None: not given there."""
        self._measure_costs(n, guidance)

    def min_deadline_s(
        self, n: int = 1, *, min_codes: int = 1, guidance: Schedule | None = None
    ) -> float:
        """The shortest `deadline_s` that draws of n samples can be relied on to keep here."""
        return self._measure_costs(n, guidance).reliable_deadline_s(min_codes)

    @default_torch_modes()
    def plan(self, n: int = 1, **options: Unpack[SampleKwargs]) -> tuple[Plan, Budget]:
        """The checked form of a draw: what its codes depend on, and when it ends.

        A `DecodeBatch` draws the rows of many plans together; a server does.

        Raises:
            InputError, TypeError: as `sample`.
        """
        check_option_names(options, SampleKwargs)
        plan = Plan.create(
            self.bundle.card,
            self.sampler.decoder.code_length,
            n,
            first=options.get("first", 0),
            seed=options.get("seed"),
            label=options.get("label"),
            sampling_params=sampling_params_from(options, self.bundle.card.sampling_params),
        )
        return plan, budget_from(options)

    @cached_property
    @default_torch_modes()
    def sampler(self) -> Sampler:
        """What draws: the prior laid out for it, the decode loop and the cost model.

        Raises:
            InputError: the model has no prior.
        """
        if self.prior is None:
            raise InputError(
                f"model {self.bundle.card.name!r} has no prior to sample from; "
                "train one (the `prior` settings), or use encode and decode only"
            )
        return Sampler(
            model_name=self.bundle.card.name,
            decoder=make_prior_decoder(
                self.prior, self._precision, self._backend, self._calibration
            ),
            decode=self._decode_synchronized,
            curve=self.curve,
            model=self,
            cost_model_path=self._cost_model_path,
            clock=self._clock,
        )

    @cached_property
    @default_torch_modes()
    def _decode(self) -> Callable[[Tensor], Tensor]:
        return make_decode_fn(self.autoencoder, self._backend, self._calibration)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        return fingerprint(self.bundle)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs, here or in another process, which makes the rest anew: memory of the
        kernel is of this one."""
        made = ("sampler", "_decode")
        return {name: value for name, value in vars(self).items() if name not in made}

    @default_torch_modes()
    def _decode_synchronized(self, codes: Tensor) -> Tensor:
        data = self._decode(codes.to(self.device))
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # a deadline is for finished samples
        return data

    def _measure_costs(self, n: int, guidance: Schedule | None) -> CostModel:
        options = SampleKwargs(seed=0)
        if guidance is not None:
            options["guidance"] = guidance
        return self.sampler.warm_up(lambda: self.plan(n, **options)[0])


def load(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: PrecisionOption = "float32",
    backend: Backend = "auto",
) -> AnytimeModel:
    """Load a model: a shipped bundle (`"mnist"`), a folder, or a Hub id (`"owner/name"`).

    Args:
        name: see above.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
        precision: what weights are rounded to while drawing: `float32`, or, mostly faster,
            `bfloat16` and `int8`; `auto` for the fastest one here. Another precision draws other
            samples.
        backend: `native`, our own kernel for CPUs; `portable`, PyTorch's operations; or `auto` for
            the faster one here. What `auto` chooses is timed once, and kept in the cache folder.

    Raises:
        BundleError: nothing is found under that name, or what is found is refused.
    """
    return AnytimeModel(
        load_bundle(find_bundle(name)), device=device, precision=precision, backend=backend
    )
