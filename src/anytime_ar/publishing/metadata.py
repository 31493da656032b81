"""The front matter of a model card: what the Hub sorts, filters and shows models by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from anytime_ar.bundle import Bundle
from anytime_ar.card import Card
from anytime_ar.curve import CurvePoint
from anytime_ar.evaluation.measures import ALL_METRICS
from anytime_ar.hub import parse_hub_ref

_SIGNIFICANT_DIGITS = 4
"""Significant ones of a figure."""


class _HubTask(NamedTuple):
    """How the Hub calls what a model does."""

    generation: str
    """Its task, with a prior."""
    reconstruction: str
    """Its task, without one."""
    tag: str


_HUB_TASKS = {
    3: _HubTask("unconditional-image-generation", "image-to-image", "image-generation"),
    # The Hub has no task for sounds without a text; this is where they are looked for.
    2: _HubTask("text-to-audio", "audio-to-audio", "audio-generation"),
}
"""By the number of dimensions of a sample."""


def model_card_metadata(bundle: Bundle, license: str | None) -> dict[str, Any]:
    """Front matter; what is not known is left out.

    Args:
        license: as the Hub calls it; None: not told.
    """
    card = bundle.card
    kind = _HUB_TASKS[len(card.data.sample_shape)]
    task = kind.reconstruction if card.prior is None else kind.generation
    data = _dataset_id(card)
    values: dict[str, Any] = {
        "library_name": "anytime-ar",
        "license": license,
        "pipeline_tag": task,
        "tags": ["anytime-generation", "ordered-codes", kind.tag],
        "datasets": [data] if data is not None else None,
    }
    if bundle.curve is not None:
        name = Path(card.data.name).name
        values["model-index"] = [
            {
                "name": card.name,
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"name": name, "type": data or name, "split": "test"},
                        "metrics": _metric_results(bundle.curve.points[-1]),
                    }
                ],
            }
        ]
    return {key: value for key, value in values.items() if value is not None}


def _dataset_id(card: Card) -> str | None:
    """The Hub id of the training data; None if it was read from somewhere else."""
    path = Path(card.data.name).expanduser()
    place = parse_hub_ref(card.data.name)
    here = path.exists() or path.parent.is_dir()
    return None if place is None or place.revision is not None or here else place.repository


def _metric_results(point: CurvePoint) -> list[dict[str, Any]]:
    """The figures of one number of codes, in the Hub's form."""
    found: list[tuple[str, str, float | None]] = [
        ("fd", "Fréchet distance of samples", point.fd_sample),
        ("fd-reconstruction", "Fréchet distance of reconstructions", point.fd_reconstruction),
        ("mse", "MSE of reconstructions", point.mse),
        ("psnr", "PSNR of reconstructions, dB", point.psnr),
    ]
    if point.samples is not None:
        found += [
            ("precision", "Precision of samples", point.samples.precision),
            ("recall", "Recall of samples", point.samples.recall),
        ]
    for measure in ALL_METRICS:
        title = f"{measure.title} of reconstructions"
        found.append((measure.name, title, point.measures.get(measure.name)))
    found.append(("accuracy", "Labels read in samples", point.agreement))
    codes = f"{point.codes} codes" if point.codes > 1 else "1 code"
    return [
        {
            "type": kind,
            "name": f"{name} ({codes})",
            "value": float(f"{value:.{_SIGNIFICANT_DIGITS}g}"),
        }
        for kind, name, value in found
        if value is not None
    ]
