"""`AnytimeModel`: the public face of a bundle. Sample, stream, encode, decode."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from anytime_ar.bundle import Bundle, load_bundle, resolve
from anytime_ar.codes import check_codes
from anytime_ar.curve import Curve
from anytime_ar.errors import InputError
from anytime_ar.prior import Prior
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.choice import ChoiceConfig
from anytime_ar.sampling.draw import draw
from anytime_ar.sampling.noise import row_noise

Label = int | str

ROWS_AT_ONCE = 1024
"""Rows drawn or decoded together; larger calls go in chunks, so that memory stays bounded."""


class DrawOptions(TypedDict, total=False):
    """Keyword arguments of `AnytimeModel.sample`, `sample_codes` and `stream`."""

    codes: int | None
    """k, codes per sample, 1..L, to which the cost is proportional; None: all of them."""
    label: Label | Sequence[Label] | None
    """One class or n of them, by number or name; None: drawn from the training distribution."""
    seed: int | None
    """Sample i of a seed is the same whatever n, and a prefix whatever `codes`; None: a fresh
    seed."""
    temperature: float
    """Above 1 more varied, below 1 more typical; 0 takes the most likely code. Default 1."""
    top_k: int | None
    """Only the k most likely entries of each code."""
    top_p: float
    """Only the most likely entries that together hold this probability, (0, 1]. Default 1."""
    guidance: float
    """Classifier-free guidance: above 1 follows the label more strongly. Default 1."""


@dataclass(frozen=True)
class Preview:
    """What a draw looks like after some of its codes."""

    codes: Tensor
    """int64 [n, k]."""
    data: Tensor
    """float32 [n, *sample_shape] in [-1, 1]."""
    elapsed_s: float
    """Seconds since the draw began."""

    @property
    def codes_drawn(self) -> int:
        """k."""
        return self.codes.shape[1]


def choose_device(name: str | torch.device) -> torch.device:
    """The device of that name; `auto` is the best there is.

    Raises:
        InputError: there is no such device on this machine.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(name)!r} is not there; pass cpu or auto") from error


def load(name: str | Path, *, device: str | torch.device = "auto") -> AnytimeModel:
    """Load a model: a shipped bundle (`"mnist"`), a folder, or a Hub id (`"owner/name"`).

    Args:
        name: see above.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.

    Raises:
        BundleError: nothing is found under that name, or what is found is refused.
    """
    return AnytimeModel(load_bundle(resolve(name)), device=device)


class AnytimeModel:
    """An ordered autoencoder and its prior, ready to draw samples at any budget.

    Args:
        bundle: weights and what belongs to them.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
    """

    def __init__(self, bundle: Bundle, *, device: str | torch.device = "auto") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.autoencoder = bundle.autoencoder.to(self.device).eval()
        self.prior = None if bundle.prior is None else bundle.prior.to(self.device).eval()

    @property
    def code_length(self) -> int:
        """L, the number of codes of a complete sample."""
        return self.autoencoder.code_length

    @property
    def vocabulary(self) -> int:
        """V, the number of entries that a code chooses from."""
        return self.autoencoder.vocabulary

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.autoencoder.sample_shape

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes of a conditional model, by label; None: unconditional."""
        return self.bundle.card.data.labels

    @property
    def can_sample(self) -> bool:
        """Whether there is a prior; an autoencoder alone encodes and decodes only."""
        return self.prior is not None

    @property
    def curve(self) -> Curve | None:
        """Measured quality against codes; None if the bundle was not evaluated."""
        return self.bundle.curve

    def encode(self, x: Tensor) -> Tensor:
        """Codes of samples: float [B, *sample_shape] in [-1, 1] -> int64 [B, L], coarse to fine.

        Raises:
            InputError: the shape does not fit.
        """
        parts = [self.autoencoder.encode(part.to(self.device)) for part in x.split(ROWS_AT_ONCE)]
        return torch.cat(parts)

    def decode(self, codes: Tensor) -> Tensor:
        """Samples from any prefix of codes: int64 [B, k] -> float32 [B, *sample_shape] in [-1, 1].

        Raises:
            InputError: k is not in 1..L, or a code is outside 0..V-1.
        """
        check_codes(codes, length=self.code_length, vocabulary=self.vocabulary)
        parts = codes.split(ROWS_AT_ONCE)
        return torch.cat([self.autoencoder.decode(part.to(self.device)) for part in parts])

    def sample(self, n: int = 1, **options: Unpack[DrawOptions]) -> Tensor:
        """Draw n samples: float32 [n, *sample_shape] in [-1, 1]. See `DrawOptions`.

        Raises:
            InputError: a number is out of range, or a label is unknown.
            TypeError: an option of that name does not exist.
        """
        return self.decode(self.sample_codes(n, **options))

    def sample_codes(self, n: int = 1, **options: Unpack[DrawOptions]) -> Tensor:
        """Draw the codes of n samples: int64 [n, k]. See `DrawOptions`."""
        plan = self._plan(n, options)
        chunks = []
        for rows in torch.arange(n).split(ROWS_AT_ONCE):
            *_, last = plan.rows(rows).run()
            chunks.append(last)
        return torch.cat(chunks)

    def stream(
        self,
        n: int = 1,
        *,
        clock: Callable[[], float] = time.perf_counter,
        **options: Unpack[DrawOptions],
    ) -> Iterator[Preview]:
        """Draw n samples and give a preview after every code; closing the iterator ends the work.

        The last preview equals `sample` with the same options, of which see `DrawOptions`; `clock`
        gives seconds.
        """
        plan = self._plan(n, options)  # bad options fail here, before the first item is asked for
        return self._previews(plan, clock)

    def _previews(self, plan: _Plan, clock: Callable[[], float]) -> Iterator[Preview]:
        begin = clock()
        for prefix in plan.run():
            data = self.decode(prefix)
            yield Preview(prefix, data, clock() - begin)

    def _plan(self, n: int, options: DrawOptions) -> _Plan:
        """Check the arguments of a draw and settle its randomness."""
        if self.prior is None:
            raise InputError(
                f"model {self.bundle.card.name!r} has no prior to sample from; "
                "train one (the `prior` settings), or use encode and decode only"
            )
        unknown = [name for name in options if name not in DrawOptions.__annotations__]
        if unknown:  # nothing checks the names of **options while the program runs
            raise TypeError(
                f"unknown option {', '.join(unknown)}; "
                f"the options are {', '.join(DrawOptions.__annotations__)}"
            )
        if n < 1:
            raise InputError(f"cannot draw {n} samples; pass n >= 1")
        choice = ChoiceConfig.parse(
            {name: options[name] for name in ChoiceConfig.model_fields if name in options},  # type: ignore[literal-required]
            origin="sample",
        )
        if choice.guidance != 1 and self.labels is None:
            raise InputError(
                f"guidance {choice.guidance} was given, but this model has no labels; drop it"
            )
        budget = Budget.of(options.get("codes"), code_length=self.code_length)
        seed = options.get("seed")
        noise = row_noise(
            secrets.randbits(64) if seed is None else seed, range(n), 1 + self.code_length
        )
        labels = self._labels(n, options.get("label"), noise[:, 0])
        if self.device.type != "mps":  # which has no float64; codes are chosen on the CPU then
            noise = noise.to(self.device)
        return _Plan(self.prior, noise[:, 1:], labels, budget, choice)

    def _labels(
        self, n: int, label: Label | Sequence[Label] | None, noise: Tensor
    ) -> Tensor | None:
        """Labels int64 [n] of a draw, by name or number or from the training distribution."""
        names = self.labels
        if names is None:
            if label is not None:
                raise InputError(
                    f"label {label!r} was given, but this model has no labels; drop it"
                )
            return None
        if label is None:
            assert self.bundle.card.data.label_frequencies is not None
            frequencies = torch.tensor(self.bundle.card.data.label_frequencies, dtype=torch.float64)
            cumulative = frequencies.cumsum(0)
            drawn = torch.searchsorted(cumulative, noise * cumulative[-1], right=True)
            return drawn.to(self.device)
        asked = [label] * n if isinstance(label, int | str) else list(label)
        if len(asked) != n:
            raise InputError(f"{len(asked)} labels were given for {n} samples; pass one, or {n}")
        return torch.tensor([_label_number(one, names) for one in asked], device=self.device)


@dataclass(frozen=True)
class _Plan:
    """A checked draw: everything the decode loop needs."""

    prior: Prior
    noise: Tensor
    labels: Tensor | None
    budget: Budget
    choice: ChoiceConfig

    def rows(self, rows: Tensor) -> _Plan:
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, noise=self.noise[rows], labels=labels)

    def run(self) -> Iterator[Tensor]:
        return draw(
            self.prior, self.noise, budget=self.budget, labels=self.labels, choice=self.choice
        )


def _label_number(label: Label, names: tuple[str, ...]) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise InputError(
        f"label {label!r} is unknown; pass a number in 0..{len(names) - 1}, or one of "
        f"{', '.join(names)}"
    )
