"""What the Hub and people read about a model is what was measured of it."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import Bundle, find_bundle, load_bundle, save_bundle
from anytime_ar.publishing import model_card
from random_models import encodec_config, llama_config, random_bundle


def text_of(bundle: Bundle, *, pictures: tuple[str, ...] = (), license: str | None = None) -> str:
    return model_card(bundle, "owner/tiny", figures=pictures, license=license)


def front(text: str) -> ModelCardData:
    """The front matter as the Hub's own package reads it."""
    data: ModelCardData = ModelCard(text).data
    return data


def rows(text: str) -> list[list[str]]:
    """Cells of the table of the curve, by row."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def run_code(text: str, folder: Path) -> dict[str, Any]:
    """Run the card's Python on a model in a folder; gives its variables."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace('"owner/tiny"', repr(str(folder))), found)
    return found


def with_points(bundle: Bundle, **changes: object) -> Bundle:
    assert bundle.curve is not None
    values = bundle.curve.model_dump(mode="json")
    values["points"][-1] |= changes
    return replace(bundle, curve=Curve.parse(values, origin="test"))


def test_the_front_matter_is_what_the_hub_sorts_by(bundle: Bundle) -> None:
    bundle = with_points(bundle, fd_sample=2.0, label_accuracy_sample=0.87654)
    data = front(text_of(bundle, license="cc-by-4.0"))
    is_sound = bundle.card.data.sample_rate is not None
    task = "text-to-audio" if is_sound else "unconditional-image-generation"
    tag = "audio-generation" if is_sound else "image-generation"
    assert (data.library_name, data.license, data.pipeline_tag) == ("anytime-ar", "cc-by-4.0", task)
    assert data.tags == ["anytime-generation", "ordered-codes", tag]
    assert data.datasets is None, "these are no data of the Hub"
    assert data.eval_results is not None
    told = {result.metric_type: result for result in data.eval_results}
    values = {kind: result.metric_value for kind, result in told.items()}
    expected = {"fd": 2.0, "fd-reconstruction": 1.0, "mse": 0.5, "psnr": 9.0, "accuracy": 0.8765}
    assert values == expected
    assert told["fd"].metric_name == "Fréchet distance of samples (3 codes)"
    assert (told["fd"].task_type, told["fd"].dataset_name) == (task, "digits")


def test_parts_of_other_packages_are_named_with_their_sizes() -> None:
    card = {
        "name": "tiny",
        "data": {"name": "none", "sample_shape": (1, 48), "sample_rate": 8000},
        "autoencoder": encodec_config(48, 4, 3, 8),
        "prior": llama_config(12, 8, 0),
    }
    bundle = random_bundle(Card.parse(card, origin="test"))
    text = text_of(bundle)
    assert "The tokenizer `EncodecModel` and a `LlamaForCausalLM` prior over its codes" in text
    assert bundle.prior is not None
    tokenizer, prior = (
        sum(weight.numel() for weight in part.parameters())
        for part in (bundle.autoencoder, bundle.prior)
    )
    assert f"- parameters: {tokenizer:,} (tokenizer), {prior:,} (prior)" in text
    alone = text_of(
        replace(bundle, card=bundle.card.model_copy(update={"prior": None}), prior=None)
    )
    assert "The tokenizer `EncodecModel`, for [anytime generation]" in alone


def test_what_is_not_known_is_left_out(bundle: Bundle) -> None:
    text = text_of(replace(bundle, curve=None))
    data = front(text)
    assert (data.license, data.eval_results) == (None, None)
    assert "null" not in text.split("---")[1]
    assert "## Measured" not in text
    assert "quality=" not in text
    untold = bundle.card.model_copy(update={"training": {}})
    assert "## Training" not in text_of(replace(bundle, card=untold))


@pytest.mark.parametrize(
    ("name", "datasets"),
    [
        ("ylecun/mnist", ["ylecun/mnist"]),
        ("digits", None),
        ("../shared/data/mnist", None),
        ("/data/mnist", None),
        ("here/mnist", None),
    ],
)
def test_data_of_the_hub_are_linked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: Bundle,
    name: str,
    datasets: list[str] | None,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    data = bundle.card.data.model_copy(update={"name": name})
    named = replace(bundle, card=bundle.card.model_copy(update={"data": data}))
    found = front(text_of(named))
    assert found.datasets == datasets
    assert found.eval_results is not None
    assert found.eval_results[0].dataset_type == (name if datasets else Path(name).name)


def test_the_table_is_the_curve(bundle: Bundle) -> None:
    head, _, full = rows(text_of(with_points(bundle, metrics={"snr": 12.345}, ms=1.23)))
    assert head == [
        *["codes", "bits", "MSE", "SNR dB", "FD, reconstructions", "FD, samples", "quality", "ms"]
    ]
    assert full == ["3", "6", "0.5000", "12.35", "1", "2", "100 %", "1.2"]


def test_a_long_curve_is_told_in_twelve_rows_with_its_errors() -> None:
    bundle = load_bundle(find_bundle("mnist"))
    assert bundle.curve is not None
    text = text_of(bundle)
    table = rows(text)[2:]
    assert [len(table), table[0][0], table[-1][0]] == [12, "1", "16"]
    last = bundle.curve.points[-1]
    assert last.sample_metrics is not None
    assert last.sample_metrics.fd_stderr is not None
    assert table[-1][4] == f"{last.fd_sample:.3g} ± {last.sample_metrics.fd_stderr:.2g}"
    assert "of 10,000 new samples; 10,000 training samples stand at 0.810, the floor" in text
    assert "Behind ± stands the standard error." in text


def test_the_code_runs_as_it_is_written(tmp_path: Path, bundle: Bundle) -> None:
    save_bundle(bundle, tmp_path / "whole")
    found = run_code(text_of(bundle), tmp_path / "whole")
    assert found["x"].shape == (16, *bundle.autoencoder.sample_shape)
    assert found["x_hat"].shape == found["x"].shape
    alone = Bundle(bundle.card.model_copy(update={"prior": None}), bundle.autoencoder)
    save_bundle(alone, tmp_path / "alone")
    found = run_code(text_of(alone), tmp_path / "alone")
    assert found["codes"].shape == (1, 3)
    assert found["x_hat"].shape == found["x"].shape


def test_the_training_is_told_as_a_configuration(bundle: Bundle) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text_of(bundle), re.DOTALL)
    assert yaml.safe_load(block) == bundle.card.training


def test_many_labels_and_odd_names_break_nothing(bundle: Bundle) -> None:
    labels = tuple(f"a\nclass: {i}" for i in range(30))
    data = bundle.card.data.model_copy(
        update={"labels": labels, "label_frequencies": (1 / 30,) * 30}
    )
    card = bundle.card.model_copy(update={"data": data, "name": "tiny: 'the' --- best"})
    text = text_of(replace(bundle, card=card))
    assert "- labels: a class: 0, " in text
    assert "a class: 9, ... (30 in all)\n" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = front(text).eval_results
    assert results is not None
    assert len(results) == 4
