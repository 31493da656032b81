"""Results of sampling, and states from which sampling continues.

A state on disk is one safetensors file: codes, labels, and a JSON header with the seed, the
sampling parameters and a fingerprint of the model. The random numbers of the next codes follow from
the seed. Refined samples therefore equal samples without an interruption, code for code, in every
process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anytime_ar.codes import check_codes
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.legacy import warn_renamed
from anytime_ar.media.sheets import audio_players_html, image_grid_png
from anytime_ar.prior import Precision, SamplingParams
from anytime_ar.runtime.files import write_bytes
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.sampling.arguments import (
    BudgetKwargs,
    budget_from,
    check_option_names,
    preview_policy_from,
)
from anytime_ar.sampling.batch import MAX_ROWS, DecodeBatch
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.loop import StopReason
from anytime_ar.sampling.plan import Plan, resolve_fixed_codes, uniform_noise

if TYPE_CHECKING:
    from anytime_ar.sampling.model import AnytimeModel
    from anytime_ar.sampling.sampler import Sampler

STATE_FORMAT_VERSION = 3
"""Version of the file format of states. States without fixed codes are written as version 2."""
_METADATA_KEY = "anytime_ar_state"
_CONDITION = "condition."
"""Prefix of the names of conditions among the tensors of a state."""


@dataclass(frozen=True, repr=False)
class Preview:
    """The samples of a call so far, decoded from the codes so far."""

    codes: Tensor
    """Codes so far, int64 [n, k]."""
    data: Tensor
    """Decoded samples, float32 [n, *sample_shape] in [-1, 1]."""
    elapsed_s: float
    """Seconds since the call began."""
    state: SamplingState
    """State to refine the samples from, now or later."""

    @property
    def codes_drawn(self) -> int:
        """Number of codes per sample so far, k."""
        return self.codes.shape[1]

    @property
    def stopped_by(self) -> str | None:
        """Version 0.1's name of `stop_reason`, None before the end."""
        warn_renamed("result.stopped_by", "result.stop_reason")
        return getattr(self, "stop_reason", None)

    def __repr__(self) -> str:
        """Return sizes and elapsed seconds."""
        return f"{type(self).__name__}({self._summary()})"

    def _summary(self) -> str:
        length = self.state._sampler.decoder.code_length
        return (
            f"{self.codes_drawn} of {length} codes, data=float32 {list(self.data.shape)}, "
            f"elapsed_s={self.elapsed_s:.4g}"
        )

    def _repr_png_(self) -> bytes | None:
        return image_grid_png(self.data, self.state._sampler.model.sample_rate)

    def _repr_html_(self) -> str | None:
        return audio_players_html(self.data, self.state._sampler.model.sample_rate)


@dataclass(frozen=True, repr=False)
class SampleResult(Preview):
    """The samples of a call that ended: the last item of a stream, or what `generate` returns."""

    stop_reason: StopReason
    """Why sampling ended."""
    deadline_s: float | None = None
    """Deadline of the call in seconds; None: it had none."""

    @property
    def late_s(self) -> float | None:
        """Seconds by which the call missed its deadline, 0 if it was met; None without one."""
        return None if self.deadline_s is None else max(0.0, self.elapsed_s - self.deadline_s)

    def _summary(self) -> str:
        return f"{super()._summary()}, stop_reason={self.stop_reason!r}"


class SamplingState:
    """Samples that can be refined. A state does not change: refining returns a new one.

    Args:
        sampler: sampler of the model that drew the codes.
        plan: what the codes depend on.
        codes: int64 [n, k], drawn so far.
        batch: batch that drew the codes, and the IDs of its rows, if it still exists.
    """

    def __init__(
        self,
        sampler: Sampler,
        plan: Plan,
        codes: Tensor,
        batch: tuple[DecodeBatch, list[int]] | None = None,
    ) -> None:
        """Store the codes and what the next ones depend on."""
        self._sampler, self._plan, self.codes = sampler, plan, codes
        self._batch = [] if batch is None else [batch]

    def __repr__(self) -> str:
        """Return the number of codes, the number of samples and the seed."""
        rows, drawn = self.codes.shape
        length, plan = self._sampler.decoder.code_length, self._plan
        return (
            f"SamplingState({drawn} of {length} codes of {rows} samples, seed={plan.seed}, "
            f"first={plan.first})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the batch; a copy continues from its codes."""
        return vars(self) | {"_batch": []}

    @property
    def codes_drawn(self) -> int:
        """Number of codes per sample so far, k."""
        return self.codes.shape[1]

    def plan_for(self, model: AnytimeModel) -> Plan:
        """Return the plan of the samples, for a model that is to vary them.

        Raises:
            InputError: another model drew them.
        """
        own = self._sampler.model
        if own is not model and own.fingerprint != model.fingerprint:
            raise InputError(
                f"these samples are of another model, {self._sampler.model_name!r}; vary them with "
                "it, or pass their data"
            )
        return self._plan

    def take_batch(self) -> tuple[DecodeBatch, list[int]] | None:
        """Return the batch that drew the codes and its row IDs at the first call, None later.

        The first caller continues the batch; others continue from the codes.
        """
        return self._batch.pop() if self._batch else None

    def refine(self, **limits: Unpack[BudgetKwargs]) -> SampleResult:
        """Draw more codes within a budget of its own; without one, up to all L codes.

        Args:
            limits: see `BudgetKwargs`. `codes` and `min_codes` count from the first code of the
                sample, `deadline_s` from this call.

        Raises:
            InputError: the state has more codes than the budget allows, or a number is out of
                range.
            TypeError: an option of that name does not exist.
        """
        begin = self._sampler.clock()
        budget = self._budget(limits)
        return self._sampler.run_to_end(self._plan, budget, started_at=begin, state=self)

    def extend(self, **limits: Unpack[BudgetKwargs]) -> SampleResult:
        """Call `refine` by its name of version 0.1."""
        warn_renamed("state.extend", "state.refine")
        return self.refine(**limits)

    def stream(
        self,
        *,
        previews: Sequence[int] | None = None,
        previews_per_s: float | None = None,
        **limits: Unpack[BudgetKwargs],
    ) -> Iterator[Preview]:
        """Draw more codes as `refine` does, and yield previews and the `SampleResult`.

        Args:
            previews: numbers of codes at which to yield one; None: after every code.
            previews_per_s: yield at this maximum rate instead, in previews per second.
            limits: see `refine`.

        Raises:
            InputError: as for `refine`, raised by the call itself.
            TypeError: as for `refine`, raised by the call itself.
        """
        begin = self._sampler.clock()
        length = self._sampler.decoder.code_length
        policy = preview_policy_from(previews, previews_per_s, length)
        budget = self._budget(limits)
        return self._sampler.run(self._plan, budget, started_at=begin, previews=policy, state=self)

    def _budget(self, limits: BudgetKwargs) -> Budget:
        """Return the budget of a refinement, or raise an error if the state is beyond it."""
        self._sampler.model.check_weights()
        check_option_names(limits, BudgetKwargs)
        budget = budget_from(limits)
        most = self._sampler.resolve_budget(budget).max_codes
        if most < self.codes_drawn:
            raise InputError(
                f"this state has {self.codes_drawn} codes, and {most} were asked for; pass more, "
                f"or decode its first {most}"
            )
        return budget

    @default_torch_modes()
    def save(self, path: Path | str) -> None:
        """Write the state to a file, atomically; `AnytimeModel.load_state` reads it.

        Args:
            path: file to write, in the safetensors format.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {"codes": self.codes.cpu()}
        if self._plan.labels is not None:
            tensors["labels"] = self._plan.labels
        if self._plan.fixed_codes is not None:
            tensors["fixed_codes"] = self._plan.fixed_codes.contiguous()
        for name, rows in (self._plan.conditions or {}).items():
            tensors[_CONDITION + name] = rows.contiguous()
        header = _StateHeader(
            format_version=2 if tensors.keys() <= {"codes", "labels"} else STATE_FORMAT_VERSION,
            sha256=_sha256(tensors),
            model=self._sampler.model_name,
            fingerprint=self._sampler.fingerprint(),
            precision=self._sampler.decoder.precision,
            seed=self._plan.seed,
            first=self._plan.first,
            sampling_params=self._plan.sampling_params,
        )
        data = save(tensors, metadata={_METADATA_KEY: header.model_dump_json()})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path | str, sampler: Sampler) -> SamplingState:
        """Read a state that `save` wrote, in order to refine it with the same model.

        Args:
            path: file of the state.
            sampler: sampler of the model that drew the codes.

        Raises:
            InputError: the file is missing, damaged, not a state, or of another model.
        """
        header, tensors = _read_state(Path(path))
        own = sampler.fingerprint(), sampler.decoder.precision
        if (header.fingerprint, header.precision) != own:
            raise InputError(
                f"{path} belongs to another model: {header.model!r} in {header.precision} with "
                f"fingerprint {header.fingerprint[:12]}, not {sampler.model_name!r} in {own[1]} "
                f"with {own[0][:12]}; load the model that drew it"
            )
        codes, length = tensors["codes"], sampler.decoder.code_length
        check_codes(codes, code_length=length, vocabulary=sampler.decoder.vocabulary)
        _check_rows(path, codes, tensors.get("labels"), sampler.decoder.no_label)
        fixed = resolve_fixed_codes(
            tensors.get("fixed_codes"), len(codes), length, sampler.decoder.vocabulary
        )
        _check_fixed_codes(path, codes, fixed)
        noise = uniform_noise(
            header.seed, range(header.first, header.first + len(codes)), 1 + length
        )
        plan = Plan(
            header.seed,
            header.first,
            tensors.get("labels"),
            header.sampling_params,
            noise[:, 1:],
            fixed,
            _conditions(path, tensors, sampler) or None,
        )
        return cls(sampler, plan, codes)


class _StateHeader(Config):
    """The JSON header in a state's file."""

    format_version: int
    """Version of the file format, `STATE_FORMAT_VERSION`."""
    sha256: str
    """SHA-256 of all tensors, because safetensors does not notice a flipped bit."""
    model: str
    """Name of the model, for messages only."""
    fingerprint: str
    """SHA-256 of the model's weights."""
    precision: Precision
    """Precision of the matrix products; another one rounds differently and would draw other
    codes."""
    seed: int = Field(ge=0, lt=2**64)
    """Random seed of the samples, 0..2**64-1."""
    first: int = Field(ge=0, lt=2**63)
    """Index of the first sample within the seed."""
    sampling_params: SamplingParams
    """Temperature, top-k, top-p and guidance of the samples."""


def _read_state(path: Path) -> tuple[_StateHeader, dict[str, Tensor]]:
    hint = "write one with `anytime sample --save-state`"
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {hint}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no saved state, or is cut short; {hint}") from error
    own = {name for name in tensors if not name.startswith(_CONDITION)}
    if text is None or not {"codes"} <= own <= {"codes", "labels", "fixed_codes"}:
        raise InputError(f"{path} is no saved state; {hint}")
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no saved state: its header is no JSON; {hint}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no saved state: its header is no object; {hint}")
    if values.get("format_version") not in (1, 2, STATE_FORMAT_VERSION):
        raise InputError(
            f"{path} has state format version {values.get('format_version')!r}, and this "
            f"anytime-ar reads {STATE_FORMAT_VERSION}; read it with the version that wrote it"
        )
    header = _StateHeader.parse(values, origin=f"{path}, header")
    if header.sha256 != _sha256(tensors):
        raise InputError(f"{path} was altered: its SHA-256 is another; {hint}")
    return header, tensors


def _check_rows(path: Path | str, codes: Tensor, labels: Tensor | None, no_label: int) -> None:
    """Raise an error for a state that this model cannot have written."""
    if not 1 <= len(codes) <= MAX_ROWS:
        raise InputError(
            f"{path} has {len(codes)} samples, and states have 1 to {MAX_ROWS}; draw as many"
        )
    if labels is None:
        return
    fits = labels.dtype == torch.int64 and labels.shape == codes.shape[:1]
    if not fits or not ((labels >= 0) & (labels < no_label)).all():
        raise InputError(
            f"{path} has labels that are not int64 [{len(codes)}] in 0..{no_label - 1}; write it "
            "again with `anytime sample --save-state`"
        )


def _conditions(
    path: Path | str, tensors: dict[str, Tensor], sampler: Sampler
) -> dict[str, Tensor]:
    """Return the conditions of a state.

    Raises:
        InputError: they are not those of the model.
    """
    known = sampler.decoder.conditions
    stored = {
        name.removeprefix(_CONDITION): rows
        for name, rows in tensors.items()
        if name.startswith(_CONDITION)
    }
    n = len(tensors["codes"])
    if stored.keys() != known.keys() or not all(
        len(rows) == n and known[name].is_valid(rows) for name, rows in stored.items()
    ):
        raise InputError(
            f"{path} has conditions that are not those of the model "
            f"({', '.join(known) or 'none'}); write it again with `anytime sample --save-state`"
        )
    return stored


def _check_fixed_codes(path: Path | str, codes: Tensor, fixed_codes: Tensor | None) -> None:
    """Raise an error for fixed codes, int64 [n, L], that the codes of a state contradict."""
    given = codes if fixed_codes is None else fixed_codes[:, : codes.shape[1]]
    if not torch.equal(given.where(given >= 0, codes), codes):
        raise InputError(
            f"{path} contradicts itself: its codes are not those that it fixes; write it again "
            "with `anytime sample --save-state`"
        )


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
