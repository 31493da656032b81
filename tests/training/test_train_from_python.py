"""Training on what a program holds, with tokenizers and priors of others."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_fakes import tiny
from transformers import EncodecConfig, EncodecModel

import anytime_ar as aar
from anytime_ar.autoencoder.neural_codecs import CodecTokenizer
from anytime_ar.bundle.format import load_bundle
from anytime_ar.cli import main
from anytime_ar.data import DataConfig, DataSplits
from anytime_ar.data.loading import load_objects
from anytime_ar.errors import InputError
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.training import TrainConfig
from anytime_ar.training.run import _check_same_on_all_ranks
from anytime_ar.training.stages.autoencoder import codebook_init_samples

N = 40
X = torch.linspace(-1, 1, N * 64).view(N, 1, 8, 8)
PIXELS = ((X + 1) * 127.5).round().byte()
LABELS = [index % 3 for index in range(N)]


class Items:
    """A data set as torchvision has them."""

    def __init__(self, samples: Any, labels: Any = None, **attributes: Any) -> None:
        self.samples, self.labels = samples, labels
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return getattr(self, "length", len(self.samples))

    def __getitem__(self, index: int) -> Any:
        sample = self.samples[index]
        return sample if self.labels is None else (sample, self.labels[index])


def images() -> list[Image.Image]:
    return [Image.fromarray(pixels[0].numpy()) for pixels in PIXELS]


def hub_set() -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    return datasets.Dataset.from_dict({"image": images(), "label": LABELS}, features=features)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (X, None),
        (X.double().numpy(), None),
        (X.bfloat16(), None),
        (PIXELS, None),
        ((X, torch.tensor(LABELS)), ("0", "1", "2")),
        ((PIXELS.numpy(), ["xyz"[label] for label in LABELS]), ("x", "y", "z")),
        ((X, np.array(LABELS) * 100 + 2024), ("2024", "2124", "2224")),
        ((X, [-1] * N), None),
        (Items(X), None),
        (Items(X, LABELS), ("0", "1", "2")),
        (Items(X, torch.tensor(LABELS)), ("0", "1", "2")),
        (Items(images(), LABELS, classes=["a", "b", "c"]), ("a", "b", "c")),
        (Items(X, targets=torch.tensor(LABELS), classes=["a", "b", "c"]), ("a", "b", "c")),
        (Items(X, LABELS, targets=[7] * N, target_transform=abs, classes="abc"), ("0", "1", "2")),
        (torch.utils.data.TensorDataset(X, torch.tensor(LABELS)), ("0", "1", "2")),
        (hub_set(), ("a", "b", "c")),
        (datasets.DatasetDict(train=hub_set(), test=hub_set()), ("a", "b", "c")),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_samples_that_a_program_holds(given: Any, names: Any, streaming: bool) -> None:
    config = DataConfig(validation_fraction=0.2, streaming=streaming)
    loaded = load_objects(given, config)
    assert (loaded.sample_shape, loaded.label_names) == ((1, 8, 8), names)
    splits = [loaded.train, loaded.validation, loaded.test]
    batches = [batch for split in splits for batch in split.batches(7)]
    x = torch.cat([batch.data for batch in batches])
    assert x.dtype == torch.float32
    assert len(x) == N or isinstance(given, datasets.DatasetDict)
    if len(x) == N:
        means = x.mean((1, 2, 3)).sort()
        assert torch.allclose(means.values, X.mean((1, 2, 3)), atol=1 / 64)
        if names is not None:
            found = torch.cat([batch.labels for batch in batches if batch.labels is not None])
            assert found[means.indices].tolist() == LABELS
    again = load_objects(given, config)
    assert torch.equal(
        next(loaded.train.shuffled(8, 0)).data, next(again.train.shuffled(8, 0)).data
    )


def test_splits_that_a_program_holds() -> None:
    loaded = load_objects({"train": X, "val": X[:4], "test": X[:2]}, DataConfig())
    assert [split.size for split in (loaded.train, loaded.validation, loaded.test)] == [N, 4, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X * 2, r"sample 0: has values from -2 to -1.9\d+; scale them to \[-1, 1\]"),
        (X / 0, "sample 0: has values from -inf to -inf; scale them"),
        (X * torch.nan, "sample 0: has values from nan to nan; scale them"),
        (X.long(), r"sample 0: is int64 of shape \[1, 8, 8\]; pass images \[C, H, W\] as uint8"),
        (X[:, 0].byte(), r"sample 0: is uint8 of shape \[8, 8\]; pass images \[C, H, W\] as uint8"),
        (X[:, 0].bool(), r"sample 0: is bool of shape \[8, 8\]; pass series \[C, T\] of numbers"),
        ((X, LABELS[:-1]), "has 40 samples and 39 labels; pass one for each sample"),
        ((X, [*LABELS[:-1], None]), "sample 39: has no label, and python-object train sample 0"),
        ((X, [0.5] * N), "sample 0: label 0.5 is no whole number"),
        (Items([*X[:-1], X[0, :, :4]]), r"python-object train sample 39: 8 x 4, but .* is 8 x 8"),
        ({"train": X, "dev": X}, "data has a split 'dev'; name them train, validation and test"),
        ({"test": X}, "data has the splits test; pass one as train"),
        (Items(X, [torch.zeros(2)] * N), r"sample 0 has failed \(RuntimeError"),
        (Items([]), "no samples, of 0 before train was split"),
        (Items([{"image": X[0]}] * N), "sample 0: is a dict; return a tensor, an array or a PIL"),
        (
            Items(X[:30], length=N),
            r"train sample 30 has failed \(IndexError",
        ),
        (
            torch.zeros(N, 8, 8, 3, dtype=torch.uint8),
            "with channels last; pass",
        ),
        (iter(X), "is a .*iterator; pass a tensor, an array"),
        (X[:1], "no samples, of 1 before train was split"),
        ("no/such/path", "'no/such/path' does not exist"),
    ],
)
def test_samples_that_cannot_be_used(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_objects(given, DataConfig())


def test_a_range_from_zero_to_one_is_told() -> None:
    with pytest.warns(UserWarning, match="no value of the first .* samples is below 0; .* 2 \\* x"):
        load_objects((X + 1) / 2, DataConfig())


def test_a_model_from_tensors() -> None:
    """The run leaves no files where no folder is given, and calls back with its log."""
    seen: list[dict[str, Any]] = []
    settings = tiny().model_dump(mode="json", exclude={"data", "decoder_gan"})
    model = aar.train(
        settings, data=(X, LABELS), device="cpu", show_progress=False, callbacks=[seen.append]
    )
    assert model.labels == ("0", "1", "2")
    assert model.sample(2, seed=0).shape == (2, 1, 8, 8)
    assert {line["stage"] for line in seen if "loss" in line} == {"autoencoder", "prior"}
    assert any("validation_loss" in line for line in seen)


def test_a_run_on_tensors_goes_on_with_the_same_ones_only(tmp_path: Path) -> None:
    def stop(line: dict[str, Any]) -> None:
        if line.get("stage") == "autoencoder" and line.get("step", 0) >= 4:
            raise KeyboardInterrupt

    config = tiny().model_copy(update={"data": DataConfig(), "log_every": 2})
    options: dict[str, Any] = {"device": "cpu", "show_progress": False}
    whole = aar.train(config, tmp_path / "whole", data=X, **options)
    with pytest.raises(KeyboardInterrupt):
        aar.train(config, tmp_path / "run", data=X, callbacks=[stop], **options)
    with pytest.raises(InputError, match="has changed since"):
        aar.train(config, tmp_path / "run", data=-X, resume=True, **options)
    resumed = aar.train(config, tmp_path / "run", data=X, resume=True, **options)
    assert torch.equal(resumed.sample_codes(4, seed=0), whole.sample_codes(4, seed=0))


def test_a_run_with_a_passed_tokenizer_goes_on_with_the_same_one_only(
    uninterrupted: Path, data: DataSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(line: dict[str, Any]) -> None:
        if line.get("stage") == "prior" and line.get("step", 0) >= 4:
            raise KeyboardInterrupt

    tokenizer = aar.load(uninterrupted, device="cpu").autoencoder
    config, run = tiny(decoder_gan=None, log_every=2), tmp_path / "run"
    options: dict[str, Any] = {"data": data, "device": "cpu", "show_progress": False}
    whole = aar.train(config, tmp_path / "whole", tokenizer=tokenizer, **options)
    with pytest.raises(KeyboardInterrupt):
        aar.train(config, run, tokenizer=tokenizer, callbacks=[stop], **options)
    with pytest.raises(InputError, match=r"holds a run already; go on with it by `train` with the"):
        aar.train(config, run, tokenizer=tokenizer, **options)
    with pytest.raises(InputError, match="was begun with other settings"):
        aar.train(config, run, resume=True, **options)
    other = deepcopy(tokenizer)
    next(other.parameters()).data.add_(1)
    with pytest.raises(InputError, match=r"tokenizer.config.sha256 was"):
        aar.train(config, run, tokenizer=other, resume=True, **options)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(run), "--device", "cpu"])
    assert "a tokenizer that was passed to `train`; pass it again" in capsys.readouterr().err
    resumed = aar.train(config, run, tokenizer=tokenizer, resume=True, **options)
    assert torch.equal(resumed.sample_codes(4, seed=0), whole.sample_codes(4, seed=0))
    for changes, message in (
        ({"decoder_gan": {}}, "so only a prior is trained; drop decoder_gan"),
        ({"prior": None}, "so only a prior is trained"),
        ({"tokenizer": "mnist"}, "tokenizer is passed, and 'mnist' configured; drop one"),
    ):
        settings = config.model_dump(mode="json") | changes
        with pytest.raises(InputError, match=message):
            aar.train(settings, tmp_path / "x", tokenizer=tokenizer, **options)
    assert not (tmp_path / "x").exists()


def test_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: DataSplits) -> None:
    logged: list[dict[str, Any]] = []

    class Run:
        log = staticmethod(logged.append)

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: object) -> None:
            logged.append({"finished": True})

    def init(**options: Any) -> Run:
        assert (options["name"], options["dir"]) == ("tiny", str(tmp_path / "run"))
        return Run()

    wandb = types.ModuleType("wandb")
    wandb.init = init  # type: ignore[attr-defined]
    wandb.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = tiny(precision="auto", loggers=("tensorboard", "wandb"))
    aar.train(config, tmp_path / "run", data=data, device="cpu", show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("stage") == "prior" and "loss" in line]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("prior/loss")] == pytest.approx(losses)
    assert [line["prior/loss"] for line in logged if "prior/loss" in line] == losses
    assert logged[-1] == {"finished": True}


LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2}


@pytest.mark.parametrize("model", [LLAMA, GPT2])
@pytest.mark.parametrize("tokens", ["shared", "per_position"])
def test_a_causal_model_learns_the_codes_of_a_model(
    model: dict[str, Any], tokens: str, uninterrupted: Path, data: DataSplits, tmp_path: Path
) -> None:
    prior = {"kind": "huggingface_prior", "config": {"model": model, "tokens": tokens}}
    changes = {"tokenizer": str(uninterrupted), "prior": prior, "decoder_gan": None}
    settings = tiny().model_dump(mode="json") | changes
    made = aar.train(settings, tmp_path / "run", data=data, device="cpu", show_progress=False)
    first = aar.load(uninterrupted, device="cpu")
    loaded = aar.load(tmp_path / "run", device="cpu")
    x = next(data.test.batches(8)).data
    assert torch.equal(loaded.encode(x), first.encode(x))
    assert loaded.labels == first.labels
    assert torch.equal(loaded.sample_codes(3, seed=0), made.sample_codes(3, seed=0))
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in steps if line.get("stage") == "prior" and "loss" in line]
    assert losses[-1] < losses[0]


def test_a_prior_of_the_codes_of_a_codec(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = EncodecConfig(
        sampling_rate=8000,
        num_filters=2,
        hidden_size=8,
        codebook_dim=8,
        codebook_size=16,
        upsampling_ratios=[8, 5, 4, 2],
        num_lstm_layers=1,
    )
    tokenizer = CodecTokenizer(EncodecModel(small), samples=1600, levels=2)
    sounds = torch.rand(30, 1, 1600, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = tiny(decoder_gan=None).model_dump(mode="json", exclude={"data", "augmentation"})
    config["prior_training"]["augmentation"] = {}
    options: dict[str, Any] = {"device": "cpu", "show_progress": False, "tokenizer": tokenizer}
    wrong, right = (config | {"data": {"audio": {"sample_rate": rate}}} for rate in (4000, 8000))
    with pytest.raises(InputError, match=r"takes sounds at 8000 Hz, and those of .* have 4000"):
        aar.train(wrong, tmp_path / "run", data=sounds, **options)
    with pytest.raises(InputError, match=r"takes samples of shape \[1, 1600\], and those .* 800"):
        aar.train(right, tmp_path / "run", data=sounds[..., :800], **options)
    model = aar.train(right, tmp_path / "run", data=sounds, **options)
    assert model.sample_rate == 8000
    loaded = aar.load(tmp_path / "run", device="cpu")
    assert torch.equal(loaded.sample(2, seed=0), model.sample(2, seed=0))

    tokenizer.model.save_pretrained(tmp_path / "codec")
    settings = {"name": str(tmp_path / "codec"), "samples": 1600, "levels": 2}
    named = right | {"tokenizer": {"kind": "neural_codec", "config": settings}}
    del options["tokenizer"]
    again = aar.train(named, tmp_path / "again", data=sounds, **options)
    assert torch.equal(again.sample(2, seed=0), model.sample(2, seed=0))
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        first, second = (tmp_path / run / "bundle" / name for run in ("run", "again"))
        assert first.read_bytes() == second.read_bytes()
    referring = named | {"tokenizer_reference": str(tmp_path / "codec")}
    aar.train(referring, tmp_path / "referring", data=sounds, **options)
    assert not (tmp_path / "referring" / "bundle" / "autoencoder.safetensors").exists()
    loaded = aar.load(tmp_path / "referring", device="cpu")
    assert loaded.fingerprint == again.fingerprint
    assert loaded.bundle.card.references["tokenizer"].folder == str(tmp_path / "codec")
    for settings, message in (
        (right | {"tokenizer_reference": "x/y"}, "is 'x/y', and no tokenizer is given; give it"),
        (named | {"tokenizer_reference": "a/b/c"}, "which is neither a folder nor a Hub ID; pass"),
    ):
        with pytest.raises(InputError, match=message):
            aar.train(settings, tmp_path / "wrong", data=sounds, **options)
        assert not (tmp_path / "wrong").exists()
    for wrong_settings, message in (
        ({"name": str(tmp_path)}, "from_pretrained: samples is missing"),
        ({"name": str(tmp_path), "samples": 1600}, "is no model that transformers can load"),
        ({"samples": 1600}, "a neural codec has the settings samples; give name, samples"),
    ):
        wrong = right | {"tokenizer": {"kind": "neural_codec", "config": wrong_settings}}
        with pytest.raises(InputError, match=message):
            aar.train(wrong, tmp_path / "wrong", data=sounds, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": {"kind": "nothing"}}, "the prior is of kind 'nothing', which is not installed"),
        (
            {"prior": {"kind": "huggingface_prior", "config": {"model": LLAMA, "vocabulary": 3}}},
            "prior.config.vocabulary is 3, and the codes have",
        ),
        ({"prior": {"kind": "huggingface_prior", "config": {"model": 3}}}, "model is 3; give the"),
        ({"prior": {"kind": "huggingface_prior"}}, "the prior is no causal model: its config"),
        ({"tokenizer": "mnist"}, r"takes samples of shape \[1, 28, 28\], and those of digits have"),
        ({"tokenizer": "nothing"}, "no model 'nothing'"),
        ({"tokenizer": "mnist", "prior": None}, "tokenizer is given and prior is null"),
        ({"tokenizer": "mnist", "decoder_gan": {}}, "decoder_gan trains an autoencoder, and"),
    ],
)
def test_parts_that_cannot_be_trained(
    changes: dict[str, Any], message: str, data: DataSplits, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        aar.train(
            tiny(decoder_gan=None).model_dump(mode="json") | changes,
            tmp_path / "run",
            data=data,
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_the_configuration_of_a_run_may_be_of_either_kind() -> None:
    prior = {"kind": "huggingface_prior", "config": {"model": LLAMA}}
    config = TrainConfig.parse({"prior": prior, "tokenizer": "mnist"}, origin="test")
    assert TrainConfig.parse(config.model_dump(mode="json"), origin="test") == config


@pytest.mark.parametrize("stage", ["autoencoder_training", "prior_training"])
def test_a_batch_that_cannot_fit_is_refused_at_once(stage: str, tmp_path: Path) -> None:
    settings = tiny(decoder_gan=None).model_dump(mode="json", exclude={"data"})
    settings[stage]["batch_size"] = 10**13
    with pytest.raises(InputError, match=rf"{stage}.batch_size=10000000000000 takes at least"):
        aar.train(settings, tmp_path / "run", data=X, device="cpu", show_progress=False)
    assert not (tmp_path / "run").exists()


def test_codebooks_are_initialised_by_no_more_samples_than_there_are() -> None:
    data = load_objects(X, DataConfig())
    config = tiny()
    for asked, wanted in ((64, 64), (10**12, 4096)):
        options = config.autoencoder_training.model_copy(update={"codebook_init_samples": asked})
        changed = config.model_copy(update={"autoencoder_training": options})
        assert codebook_init_samples(changed, data) == wanted


def function(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"model_type": "encodec"}, r"tokenizer: has no kind, but model_type; set kind and config"),
        ({}, "tokenizer: has no kind, but nothing; set kind and config"),
        (function, r"tokenizer: is a function; settings hold the name of a model, or kind and"),
        ({"kind": "neural_codec"}, "a neural codec has the settings none; give name, samples"),
        (
            {"kind": "neural_codec", "config": {"model": "x", "samples": 8}},
            "its configuration is 'x'; give the configuration of a model of transformers, with its",
        ),
    ],
)
def test_settings_of_a_tokenizer_that_lack_something(tokenizer: Any, message: str) -> None:
    settings = tiny(decoder_gan=None).model_dump(mode="json", exclude={"data"})
    with pytest.raises(InputError, match=message):
        aar.train(settings | {"tokenizer": tokenizer}, data=X, device="cpu", show_progress=False)


def test_objects_that_are_no_tokenizers_and_priors() -> None:
    for other, name in (
        (function, "a function"),
        (torch.nn.Linear(1, 1), "a Linear"),
        (Items, "I"),
    ):
        with pytest.raises(InputError, match=f"the tokenizer is {name}.*; pass an object of a cl"):
            aar.train(tiny(decoder_gan=None), data=X, tokenizer=other, device="cpu")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"the tokenizer is {name}"):
            aar.AnytimeModel.from_parts(other)  # type: ignore[arg-type]
    tokenizer = aar.load("mnist", device="cpu").autoencoder
    with pytest.raises(InputError, match="the prior is a Linear; pass a Prior, or"):
        aar.AnytimeModel.from_parts(tokenizer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]


class Another(DistributedContext):
    """The second of two processes; the first has made something else, or the same."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.world_size, self.change = 2, change

    def run_on_rank_zero(self, work: Any) -> Any:
        return work() | self.change

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        return flags


def test_processes_that_make_other_data_or_weights_are_refused(
    uninterrupted: Path, data: DataSplits
) -> None:
    bundle = load_bundle(uninterrupted / "bundle")
    _check_same_on_all_ranks(Another({}), tiny(), data, bundle)
    with pytest.raises(InputError, match=r"the data and initial weights differ between the 2 proc"):
        _check_same_on_all_ranks(Another({"data": "", "initial weights": ""}), tiny(), data, bundle)


def test_a_program_that_is_no_file_is_not_started_again() -> None:
    program = (
        "import anytime_ar as aar, torch\nfrom anytime_ar.training import DistributedConfig\n"
        "try:\n aar.train({}, data=torch.zeros(20, 1, 8, 8), device='cpu',"
        " distributed_config=DistributedConfig(devices=2))\n"
        "except aar.InputError as error:\n print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("devices is 2, which starts this program again for each device")
