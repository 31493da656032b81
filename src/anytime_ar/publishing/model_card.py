"""The model card: a README.md whose front matter the Hub reads, and whose text people read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import yaml

from anytime_ar.bundle import Bundle
from anytime_ar.card import Card
from anytime_ar.curve import Curve, CurvePoint
from anytime_ar.evaluation import evenly_spaced_budgets
from anytime_ar.evaluation.measures import ALL_METRICS
from anytime_ar.evaluation.report import format_distance, markdown_table
from anytime_ar.publishing.metadata import model_card_metadata
from anytime_ar.sampling.budget import quality_at_codes

PAPER = "https://arxiv.org/abs/2102.11495"
_MISSING = "-"
_MAX_LISTED_LABELS = 10
"""Names of labels that are listed, at most."""


def model_card(
    bundle: Bundle, repository: str, *, figures: Sequence[str], license: str | None
) -> str:
    """The README.md of a model in a repository of the Hub.

    Args:
        figures: names of files beside it, of `samples.png` and `curve.png`.
        license: as the Hub calls it; None: not told.
    """
    front = yaml.safe_dump(
        model_card_metadata(bundle, license), sort_keys=False, allow_unicode=True
    )
    parts = [f"---\n{front}---", f"# {bundle.card.name}", _summary(bundle)]
    if "samples.png" in figures:
        parts += ["![Samples at rising numbers of codes](samples.png)"]
        parts += ["*Each row is one sample, each column stops after k codes.*"]
    parts += ["## Use", _usage(bundle, repository)]
    if bundle.curve is not None:
        parts += ["## Measured", _curve_table(bundle.curve), _measurement_notes(bundle.curve)]
    if "curve.png" in figures:
        parts += ["![Quality against the number of codes](curve.png)"]
    if bundle.card.training:
        parts += ["## Training", _training(bundle.card)]
    return "\n\n".join(parts) + "\n"


def _summary(bundle: Bundle) -> str:
    card, network = bundle.card, bundle.autoencoder
    length, vocabulary = network.code_length, network.vocabulary
    if card.prior is None:
        what = "An ordered autoencoder"
        does = "a sample becomes codes of which any prefix decodes to a complete sample"
    else:
        what = "An ordered autoencoder and a Transformer prior over its codes"
        does = "samples are drawn code by code, and any prefix of codes decodes to a complete one"
    shape = ", ".join(map(str, card.data.sample_shape))
    samples = f"shape ({shape}), in [-1, 1]"
    if card.data.sample_rate is not None:
        seconds = card.data.sample_shape[-1] / card.data.sample_rate
        samples += f", {seconds:.3g} s at {card.data.sample_rate} Hz"
    lines = [
        f"- samples: {samples}",
        f"- code length L: {length}",
        f"- vocabulary V: {vocabulary}",
        f"- bits: {length * math.log2(vocabulary):.0f}",
        f"- labels: {_format_labels(card.data.labels)}",
    ]
    return (
        f"{what}, for [anytime generation]({PAPER}): {does}. More codes bring more quality, and "
        "one model serves every budget.\n\n" + "\n".join(lines)
    )


def _format_labels(labels: Sequence[str] | None) -> str:
    if labels is None:
        return "none"
    more = f", ... ({len(labels)} in all)" if len(labels) > _MAX_LISTED_LABELS else ""
    return ", ".join(" ".join(label.split()) for label in labels[:_MAX_LISTED_LABELS]) + more


def _usage(bundle: Bundle, repository: str) -> str:
    length = bundle.autoencoder.code_length
    kept = max(1, length // 2)
    shape = ", ".join(map(str, bundle.card.data.sample_shape))
    lines = ["import anytime_ar as aar", ""]
    loads = f'model = aar.load("{repository}")'
    calls = [(loads, "...@COMMIT for exactly that state")]
    if bundle.card.prior is not None:
        calls += [
            ("x = model.sample(16, seed=0)", f"float32 [16, {shape}] in [-1, 1]"),
            (
                f"x = model.sample(16, codes={kept}, seed=0)",
                f"stops after {kept} of {length} codes",
            ),
            ("x = model.sample(16, deadline_s=1.0)", "as many codes as fit into a second"),
        ]
        if quality_at_codes(length, bundle.curve) is not None:
            calls += [("x = model.sample(16, quality=0.9)", "by the measured curve")]
    else:
        calls += [(f"x = torch.zeros(1, {shape})", "your samples, in [-1, 1]")]
        lines = ["import torch", "", *lines]
    calls += [
        ("codes = model.encode(x)", f"int64 [n, {length}], coarse to fine"),
        (f"x_hat = model.decode(codes[:, :{kept}])", "any prefix decodes"),
    ]
    width = max(len(call) for call, _ in calls)
    lines += [f"{call:<{width}}  # {what}" for call, what in calls]
    code = "\n".join(lines)
    install = "pip install '.[hub]'  # in a clone of anytime-ar"
    return f"```bash\n{install}\n```\n\n```python\n{code}\n```"


def _curve_table(curve: Curve) -> str:
    """The curve as a Markdown table, of at most 12 numbers of codes."""
    shown = evenly_spaced_budgets([point.codes for point in curve.points])
    points = [point for point in curve.points if point.codes in shown]
    measures = [some for some in ALL_METRICS if any(some.name in p.measures for p in points)]
    heads = ["codes", "bits", "MSE", *[some.title for some in measures]]
    heads += ["FD, reconstructions", "FD, samples", "quality", "ms"]
    rows = [heads]
    for point in points:
        told = [(point.measures.get(some.name), some.digits) for some in measures]
        rows.append(
            [
                f"{point.codes}",
                f"{point.bits:.0f}",
                f"{point.mse:.4f}",
                *[_MISSING if value is None else f"{value:.{digits}f}" for value, digits in told],
                format_distance(point.fd_reconstruction),
                _format_fd_sample(point),
                _format_percent(quality_at_codes(point.codes, curve)),
                _MISSING if point.ms is None else f"{point.ms:.1f}",
            ]
        )
    return markdown_table(rows).rstrip()


def _format_fd_sample(point: CurvePoint) -> str:
    error = point.samples.fd_error if point.samples is not None else None
    return format_distance(point.fd_sample) + ("" if error is None else f" ± {error:.2g}")


def _format_percent(quality: float | None) -> str:
    return _MISSING if quality is None else f"{100 * quality:.0f} %"


def _measurement_notes(curve: Curve) -> str:
    """What the figures are, and how many samples stand behind them."""
    told = [f"MSE is on [-1, 1], of reconstructions of {curve.test_samples:,} test samples."]
    if curve.floor is not None:
        told += [
            "FD is the Fréchet distance to these in the features of a classifier, of their "
            f"reconstructions and of {curve.samples:,} new samples; {curve.floor_samples:,} "
            f"training samples stand at {format_distance(curve.floor)}, the floor. Distances in other "
            "features, or to another data set, do not compare."
        ]
    if any(point.samples is not None for point in curve.points):
        told += ["Behind ± stands the standard error."]
    loss = "MSE" if any(point.fd_sample is None for point in curve.points) else "FD of samples"
    told += [f"Quality is the {loss} with all codes over that with so many."]
    if curve.choice:
        chosen = ", ".join(f"{name} {value}" for name, value in curve.choice.items())
        told += [f"Samples were drawn with {chosen}."]
    told += ["`ms` is the median time of one sample on the machine that measured."]
    told += [f"Seed {curve.seed}. More figures are in `curve.json`."]
    return " ".join(told)


def _training(card: Card) -> str:
    settings = yaml.safe_dump(card.training, sort_keys=False, allow_unicode=True)
    return (
        "By anytime-ar, with this configuration:\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{settings}```\n\n</details>"
    )
