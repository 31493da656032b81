"""A draw to be looked at and to be continued: what it has, and all that its next codes depend on.

On disk a state is one safetensors file: codes, labels, and a JSON header with the seed, the
settings and a fingerprint of the model. The numbers that decide the next codes follow from the
seed, so an extended draw equals one that was never interrupted, code for code, in another process
as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anytime_ar.ambient import defaults
from anytime_ar.codes import check_codes
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.files import write_bytes
from anytime_ar.prior import ChoiceConfig, Precision
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.draw import Pauses, Stop
from anytime_ar.sampling.engine import NEVER, ROWS_AT_ONCE, Engine, Live, Moment
from anytime_ar.sampling.noise import row_noise
from anytime_ar.sampling.notebook import picture, players
from anytime_ar.sampling.options import BudgetOptions, budget_of, check_names, pauses_of
from anytime_ar.sampling.plan import Plan

FORMAT_VERSION = 1
_KEY = "anytime_ar_state"


@dataclass(frozen=True)
class Preview:
    """What a draw has: somewhere on its way, or at its end."""

    codes: Tensor
    """int64 [n, k]."""
    data: Tensor
    """float32 [n, *sample_shape] in [-1, 1]."""
    elapsed_s: float
    """Seconds since the draw began."""
    stopped_by: Stop | None
    """Why the draw ended; None: it goes on."""
    state: DrawState
    """To continue from here, now or later."""

    @property
    def codes_drawn(self) -> int:
        """k."""
        return self.codes.shape[1]

    def __repr__(self) -> str:
        length = self.state._engine.decoder.code_length
        return (
            f"Preview({self.codes_drawn} of {length} codes, data=float32 {list(self.data.shape)}, "
            f"elapsed_s={self.elapsed_s:.4g}, stopped_by={self.stopped_by!r})"
        )

    def _repr_png_(self) -> bytes | None:
        return picture(self.data)

    def _repr_html_(self) -> str | None:
        return players(self.data, self.state._engine.owner.sample_rate)


class DrawState:
    """A draw that may be continued. It keeps its value: extending it makes a new one.

    Args:
        engine: of the model that draws.
        plan: what its codes depend on.
        codes: int64 [n, k], what it has.
        live: the batch that drew them, where it is still there.
    """

    def __init__(self, engine: Engine, plan: Plan, codes: Tensor, live: Live | None = None) -> None:
        self._engine, self._plan, self.codes, self._live = engine, plan, codes, live

    def __repr__(self) -> str:
        rows, drawn = self.codes.shape
        length, plan = self._engine.decoder.code_length, self._plan
        return (
            f"DrawState({drawn} of {length} codes of {rows} samples, seed={plan.seed}, "
            f"first={plan.first})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs, here or in another process: it goes on from its codes."""
        return vars(self) | {"_live": None}

    @property
    def codes_drawn(self) -> int:
        """k."""
        return self.codes.shape[1]

    def extend(self, **limits: Unpack[BudgetOptions]) -> Preview:
        """Continue within a budget of its own, up to all codes where none is given.

        `codes` and `min_codes` count from the very first code, seconds from this call.

        Raises:
            InputError: the state has more codes than asked for, or a number is out of range.
            TypeError: an option of that name does not exist.
        """
        (last,) = self._draw(limits, NEVER)
        return last

    def stream(
        self,
        *,
        previews: Sequence[int] | None = None,
        previews_per_s: float | None = None,
        **limits: Unpack[BudgetOptions],
    ) -> Iterator[Preview]:
        """As `extend`, with previews on the way as `AnytimeModel.stream` gives them."""
        length = self._engine.decoder.code_length
        return self._draw(limits, pauses_of(previews, previews_per_s, length))

    def _draw(self, limits: BudgetOptions, pauses: Pauses) -> Iterator[Preview]:
        begin = self._engine.clock()
        check_names(limits, BudgetOptions)
        budget = budget_of(limits)
        most = self._engine.limit(budget).codes
        if most < self.codes_drawn:
            raise InputError(
                f"this state has {self.codes_drawn} codes, and {most} were asked for; pass more, "
                f"or decode its first {most}"
            )
        return draw_previews(self._engine, self._plan, budget, pauses, begin=begin, state=self)

    @defaults()
    def save(self, path: Path | str) -> None:
        """Write the state to a file, atomically; `AnytimeModel.load_state` reads it.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {"codes": self.codes.cpu()}
        if self._plan.labels is not None:
            tensors["labels"] = self._plan.labels
        header = _Header(
            format_version=FORMAT_VERSION,
            sha256=_sha256(tensors),
            model=self._engine.name,
            fingerprint=self._engine.fingerprint(),
            precision=self._engine.decoder.precision,
            seed=self._plan.seed,
            first=self._plan.first,
            choice=self._plan.choice,
        )
        data = save(tensors, metadata={_KEY: header.model_dump_json()})
        write_bytes(path, data)

    @classmethod
    def load(cls, path: Path | str, engine: Engine) -> DrawState:
        """Read what `save` wrote, to continue it with the same model.

        Raises:
            InputError: the file is missing, damaged or something else, or of another model.
        """
        header, tensors = _read(Path(path))
        own = engine.fingerprint(), engine.decoder.precision
        if (header.fingerprint, header.precision) != own:
            raise InputError(
                f"{path} belongs to another model: {header.model!r} in {header.precision} with "
                f"fingerprint {header.fingerprint[:12]}, not {engine.name!r} in {own[1]} with "
                f"{own[0][:12]}; load the model that drew it"
            )
        codes, length = tensors["codes"], engine.decoder.code_length
        check_codes(codes, length=length, vocabulary=engine.decoder.vocabulary)
        _check_rows(path, codes, tensors.get("labels"), engine.decoder.no_label)
        noise = row_noise(header.seed, range(header.first, header.first + len(codes)), 1 + length)
        plan = Plan(header.seed, header.first, tensors.get("labels"), header.choice, noise[:, 1:])
        return cls(engine, plan, codes)


def draw_previews(
    engine: Engine,
    plan: Plan,
    budget: Budget,
    pauses: Pauses,
    *,
    begin: float,
    state: DrawState | None = None,
) -> Iterator[Preview]:
    """Draw a plan within a budget, from the start or from a state; see `Engine.run`."""
    moments = engine.run(
        plan,
        budget,
        begin=begin,
        pauses=pauses,
        codes=None if state is None else state.codes,
        live=None if state is None else state._live,
    )
    return (_preview(engine, plan, moment) for moment in moments)


@defaults()
def _preview(engine: Engine, plan: Plan, moment: Moment) -> Preview:
    assert moment.data is not None
    state = DrawState(engine, plan, moment.codes.clone(), moment.live)
    return Preview(moment.codes, moment.data, moment.elapsed_s, moment.stopped_by, state)


class _Header(Config):
    """What a state's file says of it beside codes and labels."""

    format_version: int
    sha256: str
    """Of codes and labels, because safetensors does not notice a flipped bit."""
    model: str
    """The model's name, for people."""
    fingerprint: str
    """Of the model's weights."""
    precision: Precision
    """Of its products; another one rounds otherwise, and would draw other codes."""
    seed: int = Field(ge=0, lt=2**64)
    first: int = Field(ge=0, lt=2**63)
    choice: ChoiceConfig


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    hint = "write one with `anytime sample --save_state`"
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {hint}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no saved state, or is cut short; {hint}") from error
    if text is None or not {"codes"} <= tensors.keys() <= {"codes", "labels"}:
        raise InputError(f"{path} is no saved state; {hint}")
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no saved state: its header is no JSON; {hint}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no saved state: its header is no object; {hint}")
    if values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has state format version {values.get('format_version')!r}, and this "
            f"anytime-ar reads {FORMAT_VERSION}; read it with the version that wrote it"
        )
    header = _Header.parse(values, origin=f"{path}, header")
    if header.sha256 != _sha256(tensors):
        raise InputError(f"{path} was altered: its SHA-256 is another; {hint}")
    return header, tensors


def _check_rows(path: Path | str, codes: Tensor, labels: Tensor | None, no_label: int) -> None:
    """Refuse a state that no draw of this model has."""
    if len(codes) > ROWS_AT_ONCE:
        raise InputError(
            f"{path} has {len(codes)} samples, and states have at most {ROWS_AT_ONCE}; draw fewer"
        )
    if labels is None:
        return
    fits = labels.dtype == torch.int64 and labels.shape == codes.shape[:1]
    if not fits or not ((labels >= 0) & (labels < no_label)).all():
        raise InputError(
            f"{path} has labels that are not int64 [{len(codes)}] in 0..{no_label - 1}; write it "
            "again with `anytime sample --save_state`"
        )


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
