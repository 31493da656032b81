"""Upload models to the Hugging Face Hub, each with a card of its measurements and figures.

The model card is a README.md with front matter for the Hub and a text for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from torch import nn

from anytime_ar.autoencoder import OrderedAutoencoder
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve, CurvePoint
from anytime_ar.bundle.format import (
    BUNDLE_FILES,
    Bundle,
    find_bundle,
    load_bundle,
    refer,
    save_bundle,
)
from anytime_ar.bundle.references import PartName, WeightsReference
from anytime_ar.codes import as_vocabulary, bits
from anytime_ar.errors import InputError, plural, require_extras
from anytime_ar.evaluation import plot_curve
from anytime_ar.evaluation.metrics.reconstruction import metrics_in
from anytime_ar.evaluation.report import format_distance, markdown_table
from anytime_ar.media.sheets import contact_sheet, evenly_spaced_budgets, write_contact_sheet
from anytime_ar.prior import Prior
from anytime_ar.runtime.files import write_bytes
from anytime_ar.runtime.hub import parse_hub_ref, upload_files
from anytime_ar.sampling import AnytimeModel, SampleKwargs
from anytime_ar.sampling.budget import quality_at_codes

NUM_SHOWN_SAMPLES = 10
"""Number of samples in the figure."""
_GENERATED_FILES = {"README.md", "curve.png", "samples.png"}
"""Names of the files that a push adds to a bundle."""


def push(
    name: str | Path,
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
    license: str | None = None,
    references: Mapping[PartName, Path | str] | None = None,
) -> str:
    """Upload a model to the Hugging Face Hub in one commit: bundle, model card and figures.

    The repository is created if it does not exist. The push replaces its model card, and the bundle
    and figures of an earlier push; other files stay.

    Args:
        name: name of a shipped bundle, folder or Hub ID, as `load` takes it.
        repository: Hub ID of the repository, `"owner/name"`.
        private: whether a new repository is private.
        message: commit message; None: the name of the model.
        revision: branch to push to, created if it does not exist; None: the main branch.
        license: licence of the model by its identifier on the Hub (`"apache-2.0"`); None: the card
            names none.
        references: where the weights of a tokenizer or prior of another package are stored already,
            so that they are not uploaded, as `AnytimeModel.save` takes it; None: the same as the
            bundle.

    Returns:
        The Hub ID of exactly this revision, `"owner/name@commit"`, as `load` takes it.

    Raises:
        BundleError: the model does not exist, or is damaged.
        InputError: the name of the repository is invalid, the Hub refuses or cannot be reached, or
            weights are referenced in a local folder, which others do not have.
        MissingExtraError: the extra `hub` is not installed.
    """
    ref = parse_hub_ref(repository)
    if ref is None or ref.revision is not None:
        raise InputError(f"{repository!r} is no repository of the Hub; pass OWNER/NAME")
    require_extras("a push to the Hub", "hub")  # fail before figures are made
    folder = find_bundle(name)
    bundle = load_bundle(folder)
    if references is not None:
        bundle = refer(bundle, references)
    for part, reference in bundle.card.references.items():
        if reference.folder is not None:
            raise InputError(
                f"cannot push to {ref}: the weights of the {part} are referenced in {reference}, "
                f"which others do not have; upload it, and pass its Hub ID with --references."
                f"{part} OWNER/NAME, or push the weights with --references {{}}"
            )
    with TemporaryDirectory() as temporary:
        generated = Path(temporary) / "generated"
        generated.mkdir()
        if references is not None:
            folder = Path(temporary) / "bundle"
            save_bundle(bundle, folder)
        figures = _write_figures(bundle, generated)
        text = model_card(bundle, repository, figures=figures, license=license)
        write_bytes(generated / "README.md", text.encode())
        files = {path.name: path for path in sorted(folder.iterdir()) if path.name in BUNDLE_FILES}
        files |= {path.name: path for path in sorted(generated.iterdir())}
        state = upload_files(
            ref._replace(revision=revision),
            files,
            managed_names=BUNDLE_FILES | _GENERATED_FILES,
            private=private,
            message=message or f"Model {bundle.card.name}",
        )
    return str(state)


def _write_figures(bundle: Bundle, folder: Path) -> Sequence[str]:
    """Write samples.png and curve.png, as far as the model has them, and return the names."""
    written = []
    model = AnytimeModel(bundle, device="cpu")
    if model.can_sample:
        options = SampleKwargs(seed=0)
        if model.labels is not None:
            options["label"] = [i % len(model.labels) for i in range(NUM_SHOWN_SAMPLES)]
        codes = model.sample_codes(NUM_SHOWN_SAMPLES, **options)
        measured = [point.codes for point in bundle.curve.points] if bundle.curve else None
        budgets = evenly_spaced_budgets(measured or range(1, model.code_length + 1))
        sheet = contact_sheet(model, codes, budgets, sample_rate=model.sample_rate)
        write_contact_sheet(sheet, budgets, folder / "samples.png")
        written.append("samples.png")
    if bundle.curve is not None:
        write_bytes(folder / "curve.png", plot_curve(bundle.curve))
        written.append("curve.png")
    return written


PAPER = "https://arxiv.org/abs/2102.11495"
"""Address of the paper (Xu et al. 2021)."""
_MISSING = "-"
_MAX_LISTED_LABELS = 10
"""Maximum number of label names that the card lists."""


def model_card(
    bundle: Bundle, repository: str, *, figures: Sequence[str], license: str | None
) -> str:
    """Return the README.md of a model in a repository of the Hub.

    Args:
        bundle: model that the card describes.
        repository: Hub ID of the repository, `"owner/name"`.
        figures: names of image files in the repository, of `samples.png` and `curve.png`.
        license: identifier of the licence on the Hub; None: the card names none.
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
    length = network.code_length
    vocabulary = as_vocabulary(network.vocabulary, length)
    values = str(vocabulary)
    if not isinstance(vocabulary, int):
        values = f"{min(vocabulary)} to {max(vocabulary)}, by position"
    tokenizer = _part_name(network, "ordered autoencoder")
    what = f"The tokenizer {tokenizer}" if tokenizer.startswith("`") else f"An {tokenizer}"
    if bundle.prior is None:
        does = "a sample becomes codes of which any prefix decodes to a complete sample"
    else:
        prior = _part_name(bundle.prior, "Transformer")
        what += f" and a {prior} prior over its codes"
        does = "samples are drawn code by code, and any prefix of codes decodes to a complete one"
    shape = ", ".join(map(str, card.data.sample_shape))
    samples = f"shape ({shape}), in [-1, 1]"
    if card.data.channel_ranges is not None:
        samples += ", for the range of each channel in the training split"
    if card.data.sample_rate is not None:
        seconds = card.data.sample_shape[-1] / card.data.sample_rate
        samples += f", {seconds:.3g} s at {card.data.sample_rate} Hz"
    lines = [
        f"- samples: {samples}",
        f"- code length L: {length}",
        f"- vocabulary V: {values}",
        f"- bits: {bits(length, vocabulary):.0f}",
        f"- labels: {_format_labels(card.data.labels)}",
        f"- parameters: {_count_parameters(network)} (tokenizer)",
    ]
    if bundle.prior is not None:
        lines[-1] += f", {_count_parameters(bundle.prior)} (prior)"
    lines += [
        f"- weights of the {part}: {_format_reference(reference)}"
        for part, reference in card.references.items()
    ]
    return (
        f"{what}, for [anytime generation]({PAPER}): {does}. More codes bring more quality, and "
        "one model serves every budget.\n\n" + "\n".join(lines)
    )


def _part_name(part: nn.Module, ours: str) -> str:
    """Return what the card calls a part: `ours`, or the class of a part of another package."""
    if isinstance(part, OrderedAutoencoder | Prior):
        return ours
    return f"`{type(getattr(part, 'model', part)).__name__}`"  # a wrapped model of transformers


def _format_reference(reference: WeightsReference) -> str:
    """Return where the weights of a part are, as the card says it."""
    total = sum(file.size for file in reference.files.values())
    size = f"{plural(len(reference.files), 'file')}, {total / 1e6:.3g} MB"
    if reference.repo_id is None:
        return f"in the folder `{reference.folder}` ({size}), not in this repository"
    return (
        f"[`{reference.repo_id}`](https://huggingface.co/{reference.repo_id}/tree/"
        f"{reference.revision}) at commit `{reference.revision}` ({size}), not in this "
        "repository; each file is checked against its SHA-256 in `config.json`"
    )


def _count_parameters(part: nn.Module) -> str:
    return f"{sum(weight.numel() for weight in part.parameters()):,}"


def _format_labels(labels: Sequence[str] | None) -> str:
    if labels is None:
        return "none"
    more = f", ... ({len(labels)} in all)" if len(labels) > _MAX_LISTED_LABELS else ""
    return ", ".join(" ".join(label.split()) for label in labels[:_MAX_LISTED_LABELS]) + more


def _usage(bundle: Bundle, repository: str) -> str:
    length = bundle.autoencoder.code_length
    num_kept = max(1, length // 2)
    shape = ", ".join(map(str, bundle.card.data.sample_shape))
    lines = ["import anytime_ar as aar", ""]
    loads = f'model = aar.load("{repository}")'
    calls = [(loads, "...@COMMIT for exactly that state")]
    if bundle.card.prior is not None:
        calls += [
            ("x = model.sample(16, seed=0)", f"float32 [16, {shape}] in [-1, 1]"),
            (
                f"x = model.sample(16, codes={num_kept}, seed=0)",
                f"stops after {num_kept} of {length} codes",
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
        (f"x_hat = model.decode(codes[:, :{num_kept}])", "any prefix decodes"),
    ]
    width = max(len(call) for call, _ in calls)
    lines += [f"{call:<{width}}  # {what}" for call, what in calls]
    code = "\n".join(lines)
    install = "pip install '.[hub]'  # in a clone of anytime-ar"
    return f"```bash\n{install}\n```\n\n```python\n{code}\n```"


def _curve_table(curve: Curve) -> str:
    """Return the curve as a Markdown table of at most 12 numbers of codes."""
    shown = evenly_spaced_budgets([point.codes for point in curve.points])
    points = [point for point in curve.points if point.codes in shown]
    metrics = metrics_in(points)
    heads = ["codes", "bits", "MSE", *[metric.title for metric in metrics]]
    heads += ["FD, reconstructions", "FD, samples", "quality", "ms"]
    rows = [heads]
    for point in points:
        values = [(point.metrics.get(metric.name), metric.digits) for metric in metrics]
        rows.append(
            [
                f"{point.codes}",
                f"{point.bits:.0f}",
                f"{point.mse:.4f}",
                *[_MISSING if value is None else f"{value:.{digits}f}" for value, digits in values],
                format_distance(point.fd_reconstruction),
                _format_fd_sample(point),
                _format_percent(quality_at_codes(point.codes, curve)),
                _MISSING if point.ms is None else f"{point.ms:.1f}",
            ]
        )
    return markdown_table(rows).rstrip()


def _format_fd_sample(point: CurvePoint) -> str:
    error = point.sample_metrics.fd_stderr if point.sample_metrics is not None else None
    return format_distance(point.fd_sample) + ("" if error is None else f" ± {error:.2g}")


def _format_percent(quality: float | None) -> str:
    return _MISSING if quality is None else f"{100 * quality:.0f} %"


def _measurement_notes(curve: Curve) -> str:
    """Return notes on the metrics and the numbers of samples behind them."""
    notes = [f"MSE is on [-1, 1], of reconstructions of {curve.num_test_samples:,} test samples."]
    if curve.fd_train is not None:
        notes += [
            "FD is the Fréchet distance to these in the features of a classifier, of their "
            f"reconstructions and of {curve.num_samples:,} new samples; "
            f"{curve.num_train_samples:,} training samples stand at "
            f"{format_distance(curve.fd_train)}, the floor. Distances in other "
            "features, or to another data set, do not compare."
        ]
    if any(point.sample_metrics is not None for point in curve.points):
        notes += ["Behind ± stands the standard error."]
    loss = "MSE" if any(point.fd_sample is None for point in curve.points) else "FD of samples"
    notes += [f"Quality is the {loss} with all codes over that with so many."]
    if curve.sampling_params:
        chosen = ", ".join(f"{name} {value}" for name, value in curve.sampling_params.items())
        notes += [f"Samples were drawn with {chosen}."]
    notes += ["`ms` is the median time of one sample on the machine that measured."]
    notes += [f"Seed {curve.seed}. More figures are in `curve.json`."]
    return " ".join(notes)


def _training(card: Card) -> str:
    settings = yaml.safe_dump(card.training, sort_keys=False, allow_unicode=True)
    return (
        "By anytime-ar, with this configuration:\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{settings}```\n\n</details>"
    )


_SIGNIFICANT_DIGITS = 4
"""Number of significant digits of a metric."""


class _HubTask(NamedTuple):
    """The names of a model's task on the Hub."""

    generation: str
    """Task of a model with a prior."""
    reconstruction: str
    """Task of a model without a prior."""
    tag: str
    """Tag of the model's repository."""


_HUB_TASKS = {
    3: _HubTask("unconditional-image-generation", "image-to-image", "image-generation"),
    # The Hub has no task for audio without a text; people look for it under this one.
    2: _HubTask("text-to-audio", "audio-to-audio", "audio-generation"),
}
"""Tasks by the number of dimensions of a sample; series have one of their own."""
_SERIES_TASK = _HubTask("time-series-forecasting", "time-series-forecasting", "time-series")
"""Task of series: the Hub has no other for them."""


def model_card_metadata(bundle: Bundle, license: str | None) -> dict[str, Any]:
    """Return the front matter, without the keys whose values are unknown.

    Args:
        bundle: model that the card describes.
        license: identifier of the licence on the Hub; None: the card names none.
    """
    card = bundle.card
    kind = _HUB_TASKS[len(card.data.sample_shape)]
    if card.data.sample_rate is None and len(card.data.sample_shape) == 2:
        kind = _SERIES_TASK
    task = kind.reconstruction if card.prior is None else kind.generation
    data = _dataset_id(card)
    base_models = [found.repo_id for found in card.references.values() if found.repo_id is not None]
    values: dict[str, Any] = {
        "library_name": "anytime-ar",
        "license": license,
        "base_model": base_models or None,
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
    """Return the Hub ID of the training data; None if the data came from elsewhere."""
    path = Path(card.data.name).expanduser()
    ref = parse_hub_ref(card.data.name)
    here = path.exists() or path.parent.is_dir()
    return None if ref is None or ref.revision is not None or here else ref.repo_id


def _metric_results(point: CurvePoint) -> list[dict[str, Any]]:
    """Return the metrics at one number of codes, in the format of the Hub."""
    found: list[tuple[str, str, float | None]] = [
        ("fd", "Fréchet distance of samples", point.fd_sample),
        ("fd-reconstruction", "Fréchet distance of reconstructions", point.fd_reconstruction),
        ("mse", "MSE of reconstructions", point.mse),
        ("psnr", "PSNR of reconstructions, dB", point.psnr),
    ]
    if point.sample_metrics is not None:
        found += [
            ("precision", "Precision of samples", point.sample_metrics.precision),
            ("recall", "Recall of samples", point.sample_metrics.recall),
        ]
    for metric in metrics_in([point]):
        title = f"{metric.title} of reconstructions"
        found.append((metric.name, title, point.metrics.get(metric.name)))
    found.append(("accuracy", "Labels read in samples", point.label_accuracy_sample))
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
