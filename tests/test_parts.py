"""Models made of tokenizers and priors that are not ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import anytime_ar as aar
from anytime_ar.autoencoder import Tokenizer
from anytime_ar.bundle.format import file_digests
from anytime_ar.errors import BundleError, InputError
from anytime_ar.plugins import PartConfig, build_part, register
from anytime_ar.prior import Prior, PriorConfig
from anytime_ar.prior.huggingface import HuggingFacePrior
from anytime_ar.runtime.files import write_json

L, V = 4, 16


@register("test_means")
class Means(Tokenizer):
    """The mean of each quarter of 4 x 4 grey images, in 16 levels."""

    def __init__(self, code_length: int = L) -> None:
        super().__init__()
        self.code_length, self.vocabulary, self.sample_shape = code_length, V, (1, 4, 4)
        self.levels = nn.Parameter(torch.linspace(-1, 1, V))

    def encode(self, x: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(x, 2).flatten(1)
        return (means[..., None] - self.levels).abs().argmin(-1)[:, : self.code_length]

    def decode(self, codes: Tensor) -> Tensor:
        quarters = torch.zeros(len(codes), 4)
        quarters[:, : codes.shape[1]] = self.levels[codes].detach()
        return quarters.view(-1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)


def own_prior(code_length: int = L, vocabulary: int = V, labels: int = 0) -> Prior:
    torch.manual_seed(0)
    config = PriorConfig(layers=1, width=8, heads=2)
    return Prior(config, code_length, vocabulary, labels).eval()


def llama(labels: int = 0) -> HuggingFacePrior:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "max_position_embeddings": L}
    tokens = {"vocab_size": V + labels + 1, "bos_token_id": None, "eos_token_id": None}
    return HuggingFacePrior(LlamaForCausalLM(LlamaConfig(**sizes, **heads, **tokens)), L, V, labels)


def gpt2(labels: int = 0) -> HuggingFacePrior:
    """Its weights are tied."""
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": L}
    tokens = {"vocab_size": L * V + labels + 1, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **tokens))
    return HuggingFacePrior(model, L, V, labels, tokens="per_position")


@pytest.mark.parametrize("prior", [own_prior, llama, gpt2])
@pytest.mark.parametrize("labels", [None, ("cat", "dog")])
def test_a_model_of_parts_does_what_ours_does(
    prior: Any, labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    made = prior(labels=len(labels or ()))
    model = aar.AnytimeModel.from_parts(Means(), made, name="means", labels=labels, device="cpu")
    options: dict[str, Any] = {} if labels is None else {"label": "dog", "guidance": 2.0}
    x = model.sample(3, seed=0, **options)
    assert x.shape == (3, 1, 4, 4)
    assert torch.equal(model.decode(model.encode(x)), x)
    assert model.sample(2, deadline_s=1.0, **options).shape == (2, 1, 4, 4)
    drawn = model.generate(3, seed=0, codes=1, **options)
    assert torch.equal(drawn.state.refine().data, x)
    drawn.state.save(tmp_path / "state")
    assert len(list(model.stream(2, seed=0))) == L

    model.save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.sample(3, seed=0, **options), x)
    assert torch.equal(loaded.load_state(tmp_path / "state").refine().data, x)
    assert (loaded.labels, loaded.fingerprint) == (labels, model.fingerprint)
    loaded.save(tmp_path / "again")
    files = [sorted((tmp_path / name).iterdir()) for name in ("model", "again")]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_prior_in_another_number_format_draws_and_is_not_saved(tmp_path: Path) -> None:
    """Saving would change its samples."""
    prior = llama().bfloat16()
    model = aar.AnytimeModel.from_parts(Means(), prior, device="cpu")
    assert model.sample(2, deadline_s=1.0, seed=0).shape == (2, 1, 4, 4)
    model.generate(2, codes=2).state.save(tmp_path / "state")
    with pytest.raises(InputError, match=r"weights in torch.bfloat16, .* convert it with .float"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_registered_prior_that_cannot_be_saved_says_so() -> None:
    @register("test_unsaved")
    class Unsaved(HuggingFacePrior):
        get_config = aar.CausalPrior.get_config

    with pytest.raises(
        InputError,
        match=r"more than JSON values \(model is a LlamaForCausalLM\); implement",
    ):
        aar.AnytimeModel.from_parts(Means(), Unsaved(llama().model, L, V), device="cpu")


def test_a_tokenizer_alone_encodes_and_decodes() -> None:
    model = aar.AnytimeModel.from_parts(Means(), device="cpu")
    assert model.decode(model.encode(torch.zeros(2, 1, 4, 4))).shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match="has no prior to sample from"):
        model.sample()


class NoPrefixes(Means):
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes.view(-1, L))


class OutOfRange(Means):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + V


class Growing(Means):
    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes)[..., : codes.shape[1]]


class Halves(Means):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x)[:, :2]


@pytest.mark.parametrize(
    ("tokenizer", "prior", "options", "message"),
    [
        (
            NoPrefixes,
            None,
            {},
            r"NoPrefixes.decode does not decode 1 of 4 codes .*every prefix has",
        ),
        (OutOfRange, None, {}, r"returns codes in 23..23 at position 0; return codes in 0..15"),
        (Growing, None, {}, r"decode returns torch.float32 \[2, 1, 4, 1\] for 1 of 4 codes of 2"),
        (Halves, None, {}, r"encode returns torch.int64 \[2, 2\] for 2 samples; return .*\[2, 4\]"),
        (Means, own_prior(5), {}, "the prior's code_length is 5, and the tokenizer has 4; give it"),
        (Means, own_prior(4, 9), {}, "the prior's vocabulary is 9, and the tokenizer has 16; give"),
        (Means, own_prior(), {"labels": ["a"]}, "label_count is 0, and the model has labels 1;"),
        (Means, own_prior(labels=1), {}, "label_count is 1, and the model has labels 0; give it 0"),
        (Means, None, {"sample_rate": 8000}, r"shape \(1, 4, 4\) do not go with sample_rate 8000"),
    ],
)
def test_parts_that_do_not_fit(tokenizer: Any, prior: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aar.AnytimeModel.from_parts(tokenizer(), prior, device="cpu", **options)


def test_classes_that_bundles_cannot_hold(tmp_path: Path) -> None:
    model = aar.AnytimeModel.from_parts(NoPrefixes.__bases__[0](), device="cpu")
    model.save(tmp_path / "model")

    class Other(Means):
        """Not registered."""

    with pytest.raises(
        InputError, match="Other cannot be saved: no other process could find its class; move"
    ):
        aar.AnytimeModel.from_parts(Other(), device="cpu").save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match="a part 'test_means' is registered already, by Means"):
        register("test_means")(Other)


@register("test_shared_memory")
class Shared(Means):
    """A square weight, and its transpose in the same memory, which is no tied weight."""

    def __init__(self, kind: str = "v1.large") -> None:
        super().__init__()
        self.kind = kind
        self.square = nn.Parameter(torch.arange(4.0).view(2, 2))
        self.register_buffer("turned", self.square.detach().T)


def test_views_of_one_memory_are_stored_as_they_are(tmp_path: Path) -> None:
    """And an argument may have the name and the form of an import path."""
    aar.AnytimeModel.from_parts(Shared(), device="cpu").save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu").autoencoder
    assert torch.equal(loaded.turned, loaded.square.T)
    assert loaded.kind == "v1.large"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("os.system", "the tokenizer is 'os.system', which is no Tokenizer; derive the class"),
        ("antigravity.fly", "'antigravity.fly', and antigravity is not imported: models run no"),
        (
            "os.missing",
            "the class in config.json is 'os.missing', and os has no missing; check the name",
        ),
        ("huggingface_prior", "the tokenizer is of kind 'huggingface_prior', which is not"),
    ],
)
def test_bundles_run_registered_classes_only(kind: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    aar.AnytimeModel.from_parts(Means(), device="cpu").save(folder)
    values = json.loads((folder / "config.json").read_text())
    values["autoencoder"]["kind"] = kind
    write_json(folder / "config.json", values)
    write_json(folder / "manifest.json", file_digests(folder))
    with pytest.raises(BundleError, match=message):
        aar.load(folder)


PLUGIN = """
import torch
from anytime_ar import Tokenizer

class Constant(Tokenizer):
    def __init__(self, length: int, sides: tuple[int, int] = (4, 4)):
        super().__init__()
        self.code_length, self.vocabulary, self.sample_shape = length, 2, (1, *sides)
    def encode(self, x):
        return torch.zeros(len(x), self.code_length, dtype=torch.int64)
    def decode(self, codes):
        return torch.zeros(len(codes), *self.sample_shape)
"""


def test_a_class_is_found_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that names it runs it only if the user has imported it or asked for it."""
    (tmp_path / "anytime_plugin_for_tests.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ANYTIME_PLUGINS", "anytime_plugin_for_tests")
    kind = "anytime_plugin_for_tests.Constant"
    try:
        tokenizer = build_part(PartConfig(kind=kind, config={"length": 3}), "tokenizer", Tokenizer)
        aar.AnytimeModel.from_parts(tokenizer, device="cpu").save("model")
        for config, message in {
            '{"size": 3}': r"Constant: size is no argument of it; length is missing; it takes len",
            '{"length": "x"}': "Constant: length: input should be a valid integer",
            '{"length": 3, "sides": [4]}': "Constant: sides: 1: field required",
        }.items():
            described = PartConfig(kind=kind, config=json.loads(config))
            with pytest.raises(InputError, match=message):
                build_part(described, "tokenizer", Tokenizer)
        monkeypatch.delenv("ANYTIME_PLUGINS")
        assert aar.load("model").code_length == 3
        del sys.modules["anytime_plugin_for_tests"]
        with pytest.raises(BundleError, match="set ANYTIME_PLUGINS=anytime_plugin_for_tests"):
            aar.load("model")
        monkeypatch.setenv("ANYTIME_PLUGINS", "anytime_plugin_for_tests")
        assert aar.load("model").code_length == 3
        (tmp_path / "anytime_exiting_plugin.py").write_text("import sys; sys.exit(3)")
        monkeypatch.setenv("ANYTIME_PLUGINS", "anytime_exiting_plugin")
        del sys.modules["anytime_plugin_for_tests"]
        with pytest.raises(BundleError, match=r"cannot be imported \(SystemExit: 3\)"):
            aar.load("model")
        monkeypatch.setenv("ANYTIME_PLUGINS", "no_such_module")
        with pytest.raises(BundleError, match="module no_such_module cannot be imported"):
            aar.load("model")
    finally:
        sys.modules.pop("anytime_plugin_for_tests", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 2**16, "intermediate_size": 2**18}, "networks that are much larger than"),
        ({"num_hidden_layers": 10**5}, "networks that are much larger than the"),
        ({"vocab_size": 10**9}, "networks that are much larger than the"),
        ({"attn_implementation": "kernels-community/x"}, "may come from the Hub; choose eager or"),
        ({"_attn_implementation": {"text": "flash_attention_2"}}, "choose eager or sdpa"),
        ({"num_attention_heads": 0}, "no causal model of the installed transformers"),
        ({"hidden_size": "a"}, "no causal model of the installed transformers"),
        ({"model_type": "nothing"}, r"no causal model of the installed transformers \(.{,100}\);"),
        (None, "describes no network: 'model'; get the bundle again"),
    ],
)
def test_configurations_of_other_models(
    changes: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    aar.AnytimeModel.from_parts(Means(), llama(), device="cpu").save(folder)
    values = json.loads((folder / "config.json").read_text())
    if changes is None:
        del values["prior"]["config"]["model"]
    else:
        values["prior"]["config"]["model"] |= changes
    write_json(folder / "config.json", values)
    write_json(folder / "manifest.json", file_digests(folder))
    with pytest.raises(BundleError, match=message):
        aar.load(folder)


class Sized(Means):
    """Its arguments come back from a bundle as they were, or it is refused."""

    def __init__(
        self,
        sizes: tuple[int, ...] = (1, 2),
        shape=(3, 4),
        table: dict[str, float] | None = None,
        other: Any = None,
    ) -> None:
        super().__init__()
        self.given = [sizes, shape, table, other]


class ByPosition(Means):
    def __init__(self, count: int, /) -> None:
        super().__init__()
        self.count = count


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sizes": (5, 6, 7), "shape": (8, 9)},
        {"other": [1, {"a": [2.5, None, "b", True]}]},
        {"table": {"a": np.float32(0.5)}, "other": np.int64(3)},
    ],
)
def test_arguments_come_back(arguments: dict[str, Any], tmp_path: Path) -> None:
    made = Sized(**arguments)
    aar.AnytimeModel.from_parts(made, device="cpu").save(tmp_path / "model")
    tokenizer = aar.load(tmp_path / "model", device="cpu").autoencoder
    assert isinstance(tokenizer, Sized)
    assert tokenizer.given == made.given
    assert [*map(type, tokenizer.given[:2])] == [tuple, tuple]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: Sized(other=float("nan")), "other is nan"),
        (lambda: Sized(other=[float("inf")]), "other is inf"),
        (lambda: Sized(other={1: 2}), "other has keys that are no strings"),
        (lambda: Sized(other=(1, 2)), "other holds a tuple, which comes back as a list unless"),
        (lambda: Sized(other=[(1, 2)]), "other holds a tuple"),
        (lambda: Sized(other=b"12"), "other is a bytes"),
        (lambda: Sized(other=np.zeros(2)), "other is a ndarray"),
        (lambda: ByPosition(3), "count is taken by position only"),
    ],
)
def test_arguments_that_would_not_come_back_are_refused(
    made: Any, reason: str, tmp_path: Path
) -> None:
    model = aar.AnytimeModel.from_parts(made(), device="cpu")
    with pytest.raises(InputError, match=rf"cannot be saved: its constructor .* \({reason}"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Shifted(Means):
    """Has a buffer that is not stored."""

    shift: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        shift = torch.empty(V)
        if kind == "constant":
            nn.init.constant_(shift, 0.25)
        elif kind == "seeded":
            nn.init.normal_(shift, std=0.1, generator=torch.Generator().manual_seed(0))
        else:
            nn.init.uniform_(shift, -0.5, 0.5)
        self.register_buffer("shift", shift, persistent=False)

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes) + self.shift[codes[:, 0], None, None, None]


@pytest.mark.parametrize("kind", ["constant", "seeded"])
def test_buffers_that_are_not_stored_are_built_again(kind: str, tmp_path: Path) -> None:
    model = aar.AnytimeModel.from_parts(Shifted(kind), device="cpu")
    model.save(tmp_path / "model")
    codes = torch.arange(V)[:, None]
    before = torch.get_rng_state()
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(loaded.decode(codes), model.decode(codes))


def test_buffers_that_would_be_others_are_refused(tmp_path: Path) -> None:
    changed = Shifted("constant")
    changed.shift += 1
    for tokenizer in (Shifted("random"), changed):
        model = aar.AnytimeModel.from_parts(tokenizer, device="cpu")
        with pytest.raises(InputError, match="its buffer shift is not among its weights and has"):
            model.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()
