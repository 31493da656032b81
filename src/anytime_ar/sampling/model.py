"""`AnytimeModel`: a bundle that samples, streams, refines, encodes and decodes."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from anytime_ar.autoencoder import (
    Tokenizer,
    check_tokenizer,
    make_decode_fn,
    require_tokenizer,
)
from anytime_ar.bundle.card import Card, DataCard
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import (
    Bundle,
    check_sizes,
    describe,
    find_bundle,
    fingerprint,
    load_bundle,
    save_bundle,
    summarize_bundle,
)
from anytime_ar.bundle.references import PartName
from anytime_ar.codes import (
    Vocabulary,
    as_codes,
    as_vocabulary,
    check_codes,
    largest_vocabulary,
)
from anytime_ar.conditions import Condition, Conditions, encode_conditions
from anytime_ar.config import check_int, format_validation_error
from anytime_ar.errors import InputError
from anytime_ar.kernel.autotune import Autotuner
from anytime_ar.legacy import warn_renamed
from anytime_ar.prior import (
    Backend,
    CausalPrior,
    NativePriorDecoder,
    Precision,
    PrecisionOption,
    Prior,
    SamplingParams,
    make_prior_decoder,
)
from anytime_ar.prior.decoders import check_decoder_options
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.files import cache_folder
from anytime_ar.runtime.process_exit import end_if_exiting
from anytime_ar.runtime.tensors import WeightVersions, check_weights
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.samples import as_samples, check_samples
from anytime_ar.sampling.arguments import (
    CodesLike,
    SampleKwargs,
    Schedule,
    budget_from,
    check_option_names,
    preview_policy_from,
    sampling_params_from,
)
from anytime_ar.sampling.batch import MAX_ROWS
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.continuation import join, long_codes, windows_of
from anytime_ar.sampling.cost_model import CostModel
from anytime_ar.sampling.plan import Label, Plan, default_candidate_codes, label_indices
from anytime_ar.sampling.result import Preview, SampleResult, SamplingState
from anytime_ar.sampling.sampler import Sampler

if TYPE_CHECKING:
    from anytime_ar.media.processor import MediaProcessor

MAX_LOGITS = 2**25
"""Number of logits that `nll` holds in memory at a time, at most."""


class AnytimeModel:
    """An ordered autoencoder and its prior, ready to sample within any budget.

    Models, results and states can be copied, pickled and sent to other processes. A forked process
    computes with one thread, since OpenMP would wait for the threads of the parent. If the parent
    has not computed yet, `torch.set_num_threads` raises the number.

    Networks may be trained or loaded before the first use, but must not change afterwards: the
    weights are packed then, and calls on changed weights raise an error. Moving them to shared
    memory is no change. Writes through `tensor.data` are noticed by one value of each weight.
    Write under `torch.no_grad()`, or make a new model with `AnytimeModel(model.bundle)`.

    Args:
        bundle: networks, card and curve.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best available one.
        precision: number format of the weights during sampling; see `load`.
        backend: implementation that draws codes; see `load`.
        cost_model_path: file that stores measured times across processes, for deadlines; None: a
            file in the cache folder.
        clock: returns the time in seconds.

    Raises:
        InputError: the device, precision or backend does not exist, or weights are on the device
            `meta`.
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
        """Move the networks to the device in evaluation mode."""
        check_decoder_options(precision, backend)
        check_weights(bundle.autoencoder, "tokenizer")
        if bundle.prior is not None:
            check_weights(bundle.prior, "prior")
        self.bundle = bundle
        self.device = resolve_device(device)
        self._precision, self._backend = precision, backend
        self.autoencoder = bundle.autoencoder.to(self.device).eval()
        self.prior = None if bundle.prior is None else bundle.prior.to(self.device).eval()
        self._cost_model_path, self._clock = cost_model_path or cache_folder() / "costs.json", clock
        self._calibration = Autotuner(self._cost_model_path.with_name("autotune.json"))

    @classmethod
    @default_torch_modes()
    def from_parts(
        cls,
        tokenizer: Tokenizer,
        prior: Prior | CausalPrior | None = None,
        *,
        name: str = "model",
        sample_rate: int | None = None,
        labels: Sequence[str] | None = None,
        label_frequencies: Sequence[float] | None = None,
        sampling_params: SamplingParams | None = None,
        device: str | torch.device = "auto",
        backend: Backend = "auto",
    ) -> Self:
        """Build a model from a tokenizer and a prior, of ours or of others.

        Args:
            tokenizer: maps between samples and codes.
            prior: generates the codes of the tokenizer; None: the model encodes and decodes only.
            name: name of the model.
            sample_rate: sampling rate of audio in Hz; None for images and series, or for that of
                the tokenizer.
            labels: names of the classes of the prior, by label; None without labels.
            label_frequencies: share of each class among random labels; None: all equal.
            sampling_params: default temperature, top-k, top-p and guidance.
            device: see `load`.
            backend: see `load`.

        Raises:
            InputError: tokenizer and prior do not fit each other, the labels or the samples, the
                vocabulary is none, or some prefix of codes does not decode.
        """
        require_tokenizer(tokenizer)
        if not isinstance(prior, Prior | CausalPrior | None):
            raise InputError(
                f"the prior is a {type(prior).__name__}; pass a Prior, or an object of a class "
                "derived from anytime_ar.CausalPrior, such as HuggingFacePrior"
            )
        if sample_rate is None:
            sample_rate = getattr(tokenizer, "sample_rate", None)
        names = None if labels is None else tuple(map(str, labels))
        if names is not None and label_frequencies is None:
            label_frequencies = [1 / len(names)] * len(names)
        try:
            data = DataCard(
                name=name,
                sample_shape=tokenizer.sample_shape,
                sample_rate=sample_rate,
                labels=names,
                label_frequencies=label_frequencies and tuple(label_frequencies),
                conditions={} if prior is None else dict(prior.conditions),
            )
            card = Card(
                name=name,
                data=data,
                autoencoder=describe(tokenizer),
                prior=None if prior is None else describe(prior),
                sampling_params=sampling_params or SamplingParams(),
            )
        except ValidationError as error:
            raise InputError(f"from_parts: {format_validation_error(error)}") from error
        check_sizes(tokenizer, prior, card)
        made = cls(Bundle(card, tokenizer, prior), device=device, backend=backend)
        check_tokenizer(made.autoencoder)
        return made

    def save(
        self, folder: Path | str, *, references: Mapping[PartName, Path | str] | None = None
    ) -> None:
        """Write the model as a bundle, which `load`, the server and all commands read.

        Args:
            folder: folder of the bundle; an existing bundle is replaced.
            references: where the weights of a tokenizer or prior of another package are stored
                already, by `"tokenizer"` or `"prior"`: a Hub ID such as `"owner/name@main"`, or a
                folder that `save_pretrained` wrote. The bundle then holds the commit and the
                SHA-256 of each file in place of the weights. `{}` stores all weights; None: the
                same as the bundle that was loaded.

        Raises:
            BundleError: a repository of `references` does not exist or cannot be reached.
            InputError: the folder cannot be written, tokenizer or prior cannot be saved, or their
                weights are others than those of `references`.
        """
        save_bundle(self.bundle, folder, references)

    def __repr__(self) -> str:
        """Return name, sizes and device of the model."""
        parts = [
            repr(self.bundle.card.name),
            summarize_bundle(self.bundle),
            f"device={str(self.device)!r}",
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def code_length(self) -> int:
        """Number of codes of a whole sample, L."""
        return self.bundle.autoencoder.code_length

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Number of values that a code can take, V: one for all positions, or one for each."""
        return as_vocabulary(self.bundle.autoencoder.vocabulary, self.code_length)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) of images, (C, T) of audio and series."""
        return self.bundle.autoencoder.sample_shape

    @property
    def sample_rate(self) -> int | None:
        """Sampling rate of audio in Hz; None for images and series."""
        return self.bundle.card.data.sample_rate

    @cached_property
    def media(self) -> MediaProcessor:
        """Converter between files and samples of this model, by its data card."""
        from anytime_ar.media.processor import processor_for

        data = self.bundle.card.data
        return processor_for(
            self.sample_shape,
            data.sample_rate,
            data.normalize,
            data.channel_ranges,
            data.channel_names,
        )

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, by label; None for an unconditional model."""
        return self.bundle.card.data.labels

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Return what samples can be conditioned on beside the label, by name."""
        return self.bundle.card.data.conditions

    def slots_per_sample(self, params: SamplingParams) -> int:
        """Return the rows of a batch that a sample takes: one more for each guidance."""
        conditional = self.labels is not None or bool(self.conditions)
        return 1 + (len(params.guidance_scales) if conditional else 0)

    @property
    def can_sample(self) -> bool:
        """Return whether there is a prior; an autoencoder alone only encodes and decodes."""
        return self.bundle.prior is not None

    @property
    def curve(self) -> Curve | None:
        """Measured quality against the number of codes; None if the bundle was not evaluated."""
        return self.bundle.curve

    @property
    def precision(self) -> Precision:
        """Number format of the weights during sampling; `auto` is resolved."""
        return self._precision if self._precision != "auto" else self.sampler.decoder.precision

    @property
    def backend(self) -> Literal["native", "portable"]:
        """Implementation that draws codes; `auto` is resolved."""
        return "native" if isinstance(self.sampler.decoder, NativePriorDecoder) else "portable"

    @default_torch_modes()
    def encode(self, x: Tensor | NDArray[Any]) -> Tensor:
        """Encode samples: float [B, *sample_shape] in [-1, 1] -> int64 [B, L], coarse to fine.

        Args:
            x: samples, as a tensor or an array.

        Raises:
            InputError: the shape does not fit the model, or a number is not finite.
        """
        self.check_weights()
        x = as_samples(x)
        check_samples(x, self.sample_shape)
        if not len(x):
            return torch.empty(0, self.code_length, dtype=torch.int64, device=self.device)
        parts = [self.autoencoder.encode(part.to(self.device)) for part in _chunks(x)]
        return torch.cat(parts)

    @default_torch_modes()
    def decode(self, codes: CodesLike) -> Tensor:
        """Decode any prefix of codes: int64 [B, k] -> float32 [B, *sample_shape] in [-1, 1].

        Args:
            codes: the first k codes of each sample, 1 <= k <= L.

        Raises:
            InputError: k is not in 1..L, or a code is outside 0..V-1.
        """
        self.check_weights()
        codes = as_codes(codes)
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        if not len(codes):
            return torch.empty(0, *self.sample_shape, dtype=torch.float32, device=self.device)
        return torch.cat([self._decode(part.to(self.device)) for part in _chunks(codes)])

    @default_torch_modes()
    def nll(
        self,
        codes: CodesLike,
        *,
        label: Label | Sequence[Label] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the negative log-likelihood of each code, given the codes before it.

        Args:
            codes: int64 [B, k].
            label: one class for all samples or B classes, by index or name; None: no label.
            conditions: values of conditions by name, one for all samples or B values.

        Returns:
            float32 [B, k] on the CPU, -ln p in nats.

        Raises:
            InputError: the model has no prior, the codes do not fit it, or a label is unknown.
        """
        self.check_weights()
        codes = as_codes(codes)
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        if self.prior is None:
            raise InputError(f"model {self.bundle.card.name!r} has no prior to ask")
        labels = None
        if label is not None:
            labels = label_indices(self.bundle.card, label, len(codes)).to(self.device)
        given = encode_conditions(self.conditions, conditions or {}, len(codes))
        rows = max(1, MAX_LOGITS // (codes.shape[1] * largest_vocabulary(self.vocabulary)))
        costs = []
        for start in range(0, len(codes), rows):
            end_if_exiting()
            part = slice(start, start + rows)
            here: list[Any] = [codes[part].to(self.device)]
            here.append(None if labels is None else labels[part])
            if given:
                here.append({name: rows[part].to(self.device) for name, rows in given.items()})
            costs.append(self.prior.nll(*here).cpu())
        return torch.cat(costs)

    def nats(self, codes: CodesLike, *, label: Label | Sequence[Label] | None = None) -> Tensor:
        """Call `nll` by its name of version 0.1."""
        warn_renamed("model.nats", "model.nll")
        return self.nll(codes, label=label)

    def sample(self, n: int = 1, **options: Unpack[SampleKwargs]) -> Tensor:
        """Generate n samples: float32 [n, *sample_shape] in [-1, 1].

        Args:
            n: number of samples.
            options: budget, label, seed and sampling parameters; see `SampleKwargs`.

        Raises:
            InputError: a number is out of range, a label is unknown, or a deadline is too short.
            TypeError: an option of that name does not exist.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        if self.sampler.needs_chunking(plan, budget):
            return self.decode(self.sampler.sample_codes(plan, budget))
        return self.sampler.run_to_end(plan, budget, started_at=begin).data

    def sample_codes(self, n: int = 1, **options: Unpack[SampleKwargs]) -> Tensor:
        """Draw the codes of n samples without decoding them: int64 [n, k].

        Args:
            n: number of samples.
            options: as for `sample`, without `deadline_s`.

        Raises:
            InputError: as for `sample`, or a deadline was given, since it includes decoding.
            TypeError: an option of that name does not exist.
        """
        plan, budget = self.plan(n, **options)
        if budget.deadline_s is not None:
            raise InputError("deadline_s includes decoding; use generate, whose result has codes")
        return self.sampler.sample_codes(plan, budget)

    @default_torch_modes()
    def sample_long(
        self,
        seconds: float,
        n: int = 1,
        *,
        overlap: int | None = None,
        **options: Unpack[SampleKwargs],
    ) -> Tensor:
        """Generate n sounds of any length, by continuation: float32 [n, C, seconds * sample_rate].

        Each window of the model is drawn given the codes of the end of the one before; the first
        is a usual sample. Every window has the label and the conditions of its sample.

        Args:
            seconds: length of a sound, in seconds.
            n: number of sounds.
            overlap: parts of time that a window shares with the next, 1..S/2, where S is
                `autoencoder.time_segments`; None: an eighth of them.
            options: as for `sample`, without `deadline_s`, `budget`, `fixed_codes` and
                `candidates`.

        Raises:
            InputError: as for `sample`, or the model has no sounds, or codes for whole sounds.
            TypeError: an option of that name does not exist.
        """
        return torch.cat([*self.stream_long(seconds, n, overlap=overlap, **options)], dim=2)

    def stream_long(
        self,
        seconds: float,
        n: int = 1,
        *,
        overlap: int | None = None,
        **options: Unpack[SampleKwargs],
    ) -> Iterator[Tensor]:
        """Generate n sounds of any length, and yield each part as soon as it is drawn.

        Args:
            seconds: see `sample_long`.
            n: see `sample_long`.
            overlap: see `sample_long`.
            options: see `sample_long`.

        Yields:
            Consecutive parts, float32 [n, C, t].

        Raises:
            InputError: as for `sample_long`, by the call itself.
            TypeError: as for `sample_long`.
        """
        if self.sample_rate is None:
            raise InputError(
                f"model {self.bundle.card.name!r} has no sounds to continue; pass an audio model"
            )
        if not 0 < seconds < math.inf:
            raise InputError(f"seconds={seconds} is no length; pass a positive number")
        for name in ("deadline_s", "budget", "fixed_codes", "candidates"):
            if options.get(name) is not None:
                raise InputError(f"{name} is for one window; pass codes or quality instead")
        windows, shared = windows_of(self, overlap)
        samples = max(1, round(seconds * self.sample_rate))
        settings: dict[str, Any] = {**options}
        if settings.get("seed") is None:
            settings["seed"] = secrets.randbits(64)
        self.plan(n, **settings)  # so that mistakes are found before anything is drawn
        codes = long_codes(self, n, windows.count(samples), shared, settings)
        return join(map(self.decode, codes), windows, samples)

    def generate(self, n: int = 1, **options: Unpack[SampleKwargs]) -> SampleResult:
        """Generate n samples, and return them with their codes, stop reason and state.

        The `state` of the result refines the samples later, here or in another process.

        Args:
            n: number of samples.
            options: budget, label, seed and sampling parameters; see `SampleKwargs`.

        Raises:
            InputError: as for `sample`.
            TypeError: as for `sample`.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        return self.sampler.run_to_end(plan, budget, started_at=begin)

    def draw(self, n: int = 1, **options: Unpack[SampleKwargs]) -> SampleResult:
        """Call `generate` by its name of version 0.1."""
        warn_renamed("model.draw", "model.generate")
        return self.generate(n, **options)

    def stream(
        self,
        n: int = 1,
        *,
        previews: Sequence[int] | None = None,
        previews_per_s: float | None = None,
        **options: Unpack[SampleKwargs],
    ) -> Iterator[Preview]:
        """Generate n samples and yield previews; closing the iterator ends sampling.

        The last item is a `SampleResult`, equal to that of `generate` with the same options. If the
        time runs out while the caller handles a preview, the same codes are yielded once more, with
        the stop reason.

        Args:
            n: number of samples.
            previews: numbers of codes at which to yield one; None: after every code.
            previews_per_s: yield at this maximum rate instead, in previews per second.
            options: budget, label, seed and sampling parameters; see `SampleKwargs`.

        Raises:
            InputError: as for `sample`, raised by the call itself.
            TypeError: as for `sample`, raised by the call itself.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan(n, **options)
        policy = preview_policy_from(previews, previews_per_s, self.code_length)
        return self.sampler.run(plan, budget, started_at=begin, previews=policy)

    def vary(
        self,
        x: Tensor | CodesLike | Preview | SamplingState,
        *,
        keep: int,
        n: int = 1,
        **options: Unpack[SampleKwargs],
    ) -> SampleResult:
        """Generate variations of samples: keep their first codes and draw the others anew.

        Codes go from coarse to fine, so the more are kept, the closer a variation is. `keep=0` is a
        fresh sample of the same label. `keep=L` returns the codes of `x`.

        Args:
            x: B samples to vary: float [B, *sample_shape] in [-1, 1], their codes int64 [B, k], or
                what `generate`, `stream` or `load_state` returned.
            keep: number of codes to keep, 0..k.
            n: number of variations of each sample.
            options: as for `sample`, without `fixed_codes`. `label` is one class, or one for each
                of the B samples; by default it is that of `x`, or for samples and codes without a
                label the likeliest one, see `likeliest_labels`. Sampling parameters of an earlier
                result are those of its variations.

        Returns:
            B * n samples, first the n variations of the first sample.

        Raises:
            InputError: as for `sample`, or `x` or `keep` does not fit the model.
            TypeError: as for `sample`.
        """
        begin = self.sampler.clock()
        plan, budget = self.plan_variation(x, keep=keep, n=n, **options)
        return self.sampler.run_to_end(plan, budget, started_at=begin)

    @default_torch_modes()
    def plan_variation(
        self,
        x: Tensor | CodesLike | Preview | SamplingState,
        *,
        keep: int,
        n: int = 1,
        **options: Unpack[SampleKwargs],
    ) -> tuple[Plan, Budget]:
        """Check the arguments of `vary`, and return the plan of the codes and the budget.

        Args:
            x: see `vary`.
            keep: see `vary`.
            n: see `vary`.
            options: see `vary`.

        Raises:
            InputError: as for `vary`.
            TypeError: as for `vary`.
        """
        check_option_names(options, SampleKwargs)
        keep, n = check_int("keep", keep), check_int("n", n)
        if n < 1:
            raise InputError(f"cannot draw {n} variations; pass n >= 1")
        if options.get("fixed_codes") is not None:
            raise InputError(
                "vary fixes the first `keep` codes; call sample with fixed_codes to fix others"
            )
        state = x.state if isinstance(x, Preview) else x
        labels: Tensor | None = None
        conditions: Conditions | None = None
        if isinstance(state, SamplingState):
            plan = state.plan_for(self)
            codes, labels, conditions = state.codes, plan.labels, plan.conditions
            options = {**plan.sampling_params.model_dump(), **options}  # type: ignore[typeddict-item]
        else:
            codes = self._codes_of(state)
        if not 0 <= keep <= codes.shape[1]:
            raise InputError(
                f"keep={keep} is outside 0..{codes.shape[1]}, the codes of the sample; pass a "
                "number in that range"
            )
        label = options.get("label")
        if label is not None:
            labels = label_indices(self.bundle.card, label, len(codes))
        elif labels is None and self.labels is not None:
            labels = self.likeliest_labels(codes)
        if labels is not None:
            options["label"] = labels.repeat_interleave(n).tolist()
        if conditions is not None and options.get("conditions") is None:
            options["conditions"] = {
                name: [self.conditions[name].decode(row) for row in rows.repeat_interleave(n, 0)]
                for name, rows in conditions.items()
            }
        if options.get("candidates", 1) != 1 and options.get("candidate_codes") is None:
            beginning = keep + default_candidate_codes(self.code_length)
            options["candidate_codes"] = min(beginning, self.code_length)
        if keep:
            options["fixed_codes"] = codes[:, :keep].repeat_interleave(n, 0)
        return self.plan(len(codes) * n, **options)

    def _codes_of(self, x: Any) -> Tensor:
        """Return the codes of samples, or codes as they are after a check: int64 [B, k]."""
        values = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
        floating = (
            values.is_floating_point() if isinstance(values, Tensor) else (values.dtype.kind == "f")
        )
        codes = self.encode(values) if floating else as_codes(x)
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        if not len(codes):
            raise InputError("there is no sample to vary; pass at least one")
        return codes

    def likeliest_labels(self, codes: CodesLike) -> Tensor:
        """Return the label under which the prior gives the codes of each sample most probability.

        Args:
            codes: int64 [B, k].

        Returns:
            int64 [B] on the CPU.

        Raises:
            InputError: the model has no prior or no labels, or the codes do not fit it.
        """
        if self.labels is None:
            raise InputError(f"model {self.bundle.card.name!r} has no labels")
        nll = [self.nll(codes, label=label).double().sum(1) for label in range(len(self.labels))]
        return torch.stack(nll).argmin(0)

    @default_torch_modes()
    def load_state(self, path: Path | str) -> SamplingState:
        """Load a state that `SamplingState.save` wrote, in order to refine it.

        Args:
            path: file of the state.

        Raises:
            InputError: the file is missing, damaged, not a state, or of another model.
        """
        return SamplingState.load(path, self.sampler)

    def warm_up(self, n: int = 1, *, guidance: Schedule | None = None) -> None:
        """Measure the costs of n samples, so that the first deadline at this size is met at once.

        Without it, the first call with `deadline_s` measures them before its clock starts.

        Args:
            n: number of samples of later calls.
            guidance: guidance of later calls; None: the bundle's default.
        """
        self._measure_costs(n, guidance)

    def min_deadline_s(
        self, n: int = 1, *, min_codes: int = 1, guidance: Schedule | None = None
    ) -> float:
        """Return the shortest `deadline_s` that n samples meet reliably on this machine.

        Args:
            n: number of samples.
            min_codes: number of codes that have to fit, 1..L.
            guidance: guidance of the samples; None: the bundle's default.
        """
        return self._measure_costs(n, guidance).reliable_deadline_s(min_codes)

    def least_deadline_s(
        self, n: int = 1, *, min_codes: int = 1, guidance: Schedule | None = None
    ) -> float:
        """Call `min_deadline_s` by its name of version 0.1."""
        warn_renamed("model.least_deadline_s", "model.min_deadline_s")
        return self.min_deadline_s(n, min_codes=min_codes, guidance=guidance)

    @default_torch_modes()
    def plan(self, n: int = 1, **options: Unpack[SampleKwargs]) -> tuple[Plan, Budget]:
        """Check the arguments of `sample`, and return the plan of the codes and the budget.

        A `DecodeBatch` can draw the rows of several plans together, as the server does.

        Args:
            n: number of samples.
            options: budget, label, seed and sampling parameters; see `SampleKwargs`.

        Raises:
            InputError: as for `sample`.
            TypeError: as for `sample`.
        """
        self.check_weights()
        check_option_names(options, SampleKwargs)
        plan = Plan.create(
            self.bundle.card,
            self.sampler.decoder.code_length,
            n,
            first=options.get("first", 0),
            seed=options.get("seed"),
            label=options.get("label"),
            sampling_params=sampling_params_from(options, self.bundle.card.sampling_params),
            fixed_codes=options.get("fixed_codes"),
            conditions=options.get("conditions"),
            candidates=options.get("candidates", 1),
            candidate_codes=options.get("candidate_codes"),
            candidate_scorer=options.get("candidate_scorer"),
            vocabulary=self.sampler.decoder.vocabulary,
        )
        return plan, budget_from(options)

    @cached_property
    @default_torch_modes()
    def sampler(self) -> Sampler:
        """The sampler of this model: prior decoder, decode loop and cost model.

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

    def check_weights(self) -> None:
        """Check that the weights are those of the first use, which the samplers have packed.

        Raises:
            InputError: a weight was written to, replaced, converted or moved to another device.
        """
        if self._weight_versions.changed():
            raise InputError(
                f"the weights of model {self.bundle.card.name!r} have changed since it was first "
                "used; make a new model of them: AnytimeModel(model.bundle)"
            )

    @cached_property
    def _weight_versions(self) -> WeightVersions:
        return WeightVersions(
            network for network in (self.autoencoder, self.prior) if network is not None
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        return fingerprint(self.bundle)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a copy needs.

        Sampler and decoder are left out, since they hold memory of the kernel in this process; the
        copy creates its own.
        """
        made = ("sampler", "_decode", "_weight_versions")
        return {name: value for name, value in vars(self).items() if name not in made}

    @default_torch_modes()
    def _decode_synchronized(self, codes: Tensor) -> Tensor:
        data = self._decode(codes.to(self.device))
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)  # a deadline includes finished samples
        return data

    def _measure_costs(self, n: int, guidance: Schedule | None) -> CostModel:
        options = SampleKwargs(seed=0)
        if guidance is not None:
            options["guidance"] = guidance
        return self.sampler.warm_up(lambda: self.plan(n, **options)[0])


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    """Yield rows in chunks of at most `MAX_ROWS`, and end between them if Python exits."""
    for chunk in rows.split(MAX_ROWS):
        end_if_exiting()
        yield chunk


def load(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: PrecisionOption = "float32",
    backend: Backend = "auto",
) -> AnytimeModel:
    """Load a model: a shipped bundle (`"mnist"`), a folder, or a Hub ID (`"owner/name"`).

    Args:
        name: name of a shipped bundle, path of a bundle or run folder, or Hub ID; see
            `find_bundle`.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best available one.
        precision: number format of the weights during sampling: `float32`, or `bfloat16` or `int8`,
            which are mostly faster; `auto` for the fastest one here. Samples differ between
            precisions.
        backend: `native` for our kernel for CPUs, `portable` for PyTorch, or `auto` for the faster
            one here. The autotuner times the candidates once and stores the result in the cache
            folder.

    Raises:
        BundleError: nothing is found under that name, or the bundle is invalid.
        InputError: the device, precision or backend does not exist.
    """
    return AnytimeModel(
        load_bundle(find_bundle(name)), device=device, precision=precision, backend=backend
    )
