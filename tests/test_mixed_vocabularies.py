"""A tokenizer whose positions have vocabularies of their own, end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import anytime_ar as aar
from anytime_ar.bulk import ShardingConfig, run, sample_job
from anytime_ar.bundle.format import file_digests
from anytime_ar.codes import (
    as_vocabulary,
    bits,
    check_codes,
    load_codes,
    random_codes,
    save_codes,
)
from anytime_ar.errors import BundleError, InputError
from anytime_ar.evaluation.evaluator import code_usage
from anytime_ar.kernel import BuildError, kernel_library
from anytime_ar.prior import (
    Backend,
    CausalPrior,
    Prior,
    PriorConfig,
    RowSamplingParams,
    SamplingParams,
    TensorCache,
    link_rows,
    make_prior_decoder,
)
from anytime_ar.prior.huggingface import HuggingFacePrior
from anytime_ar.runtime.files import write_json
from anytime_ar.training.stages.prior import PriorObjective
from mixed_models import SIZES, L, Mixed, own_prior

try:
    kernel_library()
    NO_KERNEL = None
except BuildError as error:
    NO_KERNEL = str(error)
needs_kernel = pytest.mark.skipif(NO_KERNEL is not None, reason=str(NO_KERNEL))
BACKENDS = [pytest.param("native", marks=needs_kernel), "portable"]


def llama(tokens: Any, labels: int = 0) -> HuggingFacePrior:
    count = (sum(SIZES) if tokens == "per_position" else max(SIZES)) + labels + 1
    config = LlamaConfig(
        vocab_size=count,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=L,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HuggingFacePrior(LlamaForCausalLM(config), L, SIZES, labels, tokens=tokens)


class Flat(CausalPrior):
    """A prior that makes the values that most codes cannot have by far the most likely ones."""

    def __init__(self, labels: int = 0) -> None:
        super().__init__(L, SIZES, labels)

    def new_cache(self, capacity: int) -> TensorCache:
        return TensorCache(capacity, [(1,)])

    def next_logits(self, inputs: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return torch.arange(max(SIZES)).float().expand(*inputs.shape, -1)


def shared_llama(labels: int = 0) -> HuggingFacePrior:
    return llama("shared", labels)


def per_position_llama(labels: int = 0) -> HuggingFacePrior:
    return llama("per_position", labels)


PRIORS = [own_prior, shared_llama, per_position_llama, Flat]


def in_range(codes: Tensor) -> bool:
    check_codes(codes, code_length=L, vocabulary=SIZES)
    return True


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [(7, 7), ([7] * 3, 7), ((7, 2, 7), (7, 2, 7)), (torch.Size([4, 5, 6]), (4, 5, 6))],
)
def test_a_vocabulary_is_one_number_or_several(vocabulary: Any, expected: Any) -> None:
    assert as_vocabulary(vocabulary, 3) == expected


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ((7, 2), "2 vocabularies were given for 3 codes; give one number for all positions, or"),
        ((), "0 vocabularies were given for 3 codes"),
        ((7, 0, 7), r"vocabulary \(7, 0, 7\) is not the number of values of a code; give an"),
        (0, "vocabulary 0 is not the number of values of a code"),
        (2.5, "vocabulary 2.5 is not the number of values of a code"),
        ((2, "3", 4), "is not the number of values of a code"),
    ],
)
def test_what_is_no_vocabulary(vocabulary: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_vocabulary(vocabulary, 3)
    with pytest.raises(InputError, match=message):
        Prior(PriorConfig(layers=1, width=8, heads=2), 3, vocabulary)


def test_codes_are_checked_at_their_position(tmp_path: Path) -> None:
    codes = random_codes(SIZES, (500, 5), torch.Generator().manual_seed(0))
    assert codes.amax(0).tolist() == [size - 1 for size in SIZES[:5]]
    assert codes.amin(0).tolist() == [0] * 5
    check_codes(codes, code_length=L, vocabulary=SIZES)
    codes[3, 4] = 3
    with pytest.raises(
        InputError, match=r"code 3 at row 3, position 4 is out of range; .* codes are 0..2 here"
    ):
        check_codes(codes, code_length=L, vocabulary=SIZES)
    assert bits(3, SIZES) == pytest.approx(math.log2(40 * 5 * 5))
    assert bits(3, 8) == 9
    codes[3, 4] = 2
    path = tmp_path / "codes.npz"
    save_codes(path, codes, model="mixed", code_length=L, vocabulary=SIZES)
    read = load_codes(path)
    assert torch.equal(read.codes, codes)
    assert read.vocabulary == SIZES
    save_codes(path, codes, model="mixed", code_length=L, vocabulary=(41,) * L)
    assert load_codes(path).vocabulary == 41


def test_each_table_has_the_rows_of_its_vocabulary() -> None:
    prior = own_prior(positions_per_table=1)
    assert prior.code_embedding.weight.shape == (sum(SIZES), 16)
    assert prior.output_bias.shape == (sum(SIZES),)
    codes = random_codes(SIZES, (3, L), torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = prior(codes)
        assert torch.equal(prior(codes[:, :4]), logits[:, :4])
        chances = logits.softmax(-1)
        expected = -chances.gather(2, codes[..., None])[..., 0].log()
        torch.testing.assert_close(prior.nll(codes), expected)
    possible = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    assert torch.equal(logits > -torch.inf, possible.expand_as(logits))

    # Equal vocabularies are one, with the names and shapes of weights that they always had.
    config = PriorConfig(layers=1, width=8, heads=2)
    assert Prior(config, 3, [7, 7, 7]).output_bias.shape == (3, 7)
    assert Prior(config, 3, (7, 7, 7)).vocabulary == 7


def test_tables_are_shared_by_positions_of_one_vocabulary() -> None:
    config = PriorConfig(layers=1, width=8, heads=2, positions_per_table=2)
    prior = Prior(config, 4, (9, 9, 4, 4))
    assert prior.first_row.tolist() == [0, 0, 9, 9]
    assert prior.code_embedding.weight.shape == (13, 8)
    codes = random_codes((9, 9, 4, 4), (2, 4), torch.Generator().manual_seed(0))
    assert prior(codes).shape == (2, 4, 9)
    with pytest.raises(
        InputError,
        match=r"positions 2 and 3 have vocabularies 9 and 4, and share an embedding table; set "
        r"prior.positions_per_table to 1 instead of 2",
    ):
        Prior(config, 4, (9, 9, 9, 4))
    features = PriorConfig(width=8, heads=2, embedding_width=4, codebook_features=4)
    with pytest.raises(InputError, match="codebook_features is 4, and the vocabularies of pos"):
        Prior(features, 4, (9, 9, 4, 4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_decoders_compute_what_the_prior_does(backend: Backend, precision: Any) -> None:
    prior = own_prior(2)
    decoder = make_prior_decoder(prior, precision, backend)
    codes = random_codes(SIZES, (4, L), torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2])
    with torch.no_grad():
        whole = prior(codes, labels)
    rows = decoder.allocate(4)
    decoder.set_conditions(rows, 0, labels, None)
    rows.codes[:] = codes
    tolerance = 1e-4 if precision == "float32" else 0.3
    own = []
    for position in range(L):
        rows.positions[:4] = [position] * 4
        found = decoder.logits(rows, 4)[:, : SIZES[position]]
        own.append(found)
        expected = whole[:, position, : SIZES[position]]
        torch.testing.assert_close(found, expected, atol=tolerance * float(expected.std()), rtol=0)
    rows.positions[:4] = [0, 2, 3, 4]
    mixed = decoder.logits(rows, 4)
    for row, position in enumerate([0, 2, 3, 4]):
        assert torch.equal(mixed[row, : SIZES[position]], own[position][row])
    decoder.matmul_only(2)


def draw_beside_others(prior: Any, backend: Backend) -> Tensor:
    """Draw rows at positions of their own, two of them guided and with top-k over a vocabulary."""
    decoder = make_prior_decoder(prior, backend=backend)
    rows = decoder.allocate(8)
    rows.codes[:] = random_codes(SIZES, (8, L), torch.Generator().manual_seed(0))
    decoder.set_conditions(rows, 0, torch.arange(8) % 2, None)
    rows.noise[:] = torch.rand(8, L, dtype=torch.float64, generator=torch.Generator())
    rows.noise[0] = 1 - 2.0**-53
    kinds = [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=100.0, top_k=30),
        SamplingParams(top_k=4, top_p=0.8),
        SamplingParams(guidance=3.0, temperature=2.0),
        SamplingParams(guidance=0.0, top_k=20),
    ]
    for slot, params in enumerate(kinds):
        rows.sampling_params[slot] = RowSamplingParams.of(params)
        if params.guided:
            other = slot + 2
            rows.sampling_params[other] = RowSamplingParams.of(params, float(params.guidance))
            link_rows(rows.sampling_params, [slot, other])
            rows.codes[other] = rows.codes[slot]
            decoder.set_conditions(rows, other, torch.tensor([prior.no_label]), None)
    for first, position in enumerate([0, 1, 2, 3, 1, 2, 1, 2]):
        rows.positions[first] = position
        if position:
            decoder.prefill(rows, first, 1)
    for _ in range(3):
        decoder.step(rows, 8)
    assert rows.positions[:] == [3, 4, 5, 6, 4, 5, 4, 5]
    return rows.codes.clone()


@needs_kernel
def test_both_backends_draw_the_same_codes() -> None:
    prior = own_prior(2)
    native, portable = (draw_beside_others(prior, each) for each in ("native", "portable"))
    assert torch.equal(native, portable)


@pytest.mark.parametrize("make", PRIORS)
def test_no_code_leaves_its_vocabulary(make: Any) -> None:
    assert in_range(draw_beside_others(make(2), "auto" if make is own_prior else "portable"))


@pytest.mark.parametrize("make", PRIORS)
def test_models_draw_refine_save_and_load(make: Any, tmp_path: Path) -> None:
    labels = ("cat", "dog")
    model = aar.AnytimeModel.from_parts(Mixed(), make(2), name="m", labels=labels, device="cpu")
    assert model.vocabulary == SIZES
    assert "vocabulary=(40, 5, 5, 17, 3, 40)" in repr(model)
    options: dict[str, Any] = {"label": "dog", "guidance": 2.0, "top_k": 16, "seed": 0}
    codes = model.sample_codes(16, **options)
    assert in_range(codes)
    assert len(codes.unique(dim=0)) > 8
    few = model.generate(16, codes=2, **options)
    few.state.save(tmp_path / "state")
    assert torch.equal(few.state.refine().codes, codes)
    assert torch.equal(model.encode(model.decode(codes)), codes)
    assert model.nll(codes).isfinite().all()
    if make is Flat:
        return
    model.save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.vocabulary == SIZES
    assert torch.equal(loaded.sample_codes(16, **options), codes)
    assert torch.equal(loaded.load_state(tmp_path / "state").refine().codes, codes)
    codes[0, 4] = 3
    for refuse in (model.decode, model.nll):
        with pytest.raises(InputError, match=r"position 4 is out of range; .* 0..2 here"):
            refuse(codes)


@pytest.mark.parametrize(
    ("sizes", "prior", "message"),
    [
        (SIZES[:5], None, "5 vocabularies were given for 6 codes"),
        ((40, 5, 2, 17, 3, 40), None, r"returns codes in 2..2 at position 2; return codes in 0..1"),
        (
            (40, 5, 6, 17, 3, 40),
            own_prior(),
            r"the prior's vocabulary is \(40, 5, 5, 17, 3, 40\), and the tokenizer has "
            r"\(40, 5, 6, 17, 3, 40\); give it",
        ),
        (
            (40,) * L,
            own_prior(),
            r"vocabulary is \(40, 5, 5, 17, 3, 40\), and the tokenizer has 40",
        ),
    ],
)
def test_tokenizers_that_are_refused(sizes: Any, prior: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aar.AnytimeModel.from_parts(Mixed(sizes), prior, device="cpu")


def test_too_few_tokens_are_counted_by_position() -> None:
    model = llama("per_position").model
    with pytest.raises(InputError, match=f"has {sum(SIZES) + 1} tokens, and {sum(SIZES) + 3} are"):
        HuggingFacePrior(model, L, SIZES, 2, tokens="per_position")
    settings = HuggingFacePrior.complete_config({"tokens": "per_position"}, L, SIZES, 2)
    assert settings["model"]["vocab_size"] == sum(SIZES) + 3
    assert HuggingFacePrior.complete_config(settings, L, SIZES, 2) == settings
    assert json.loads(json.dumps(settings)) == settings


def test_a_bundle_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    aar.AnytimeModel.from_parts(Mixed(), own_prior(), device="cpu").save(folder)
    values = json.loads((folder / "config.json").read_text())
    values["autoencoder"]["config"]["sizes"] = [40, 5, 5, 17, 3]
    write_json(folder / "config.json", values)
    write_json(folder / "manifest.json", file_digests(folder))
    with pytest.raises(BundleError, match="5 vocabularies were given for 6 codes"):
        aar.load(folder)


def test_a_prior_learns_codes_of_each_vocabulary() -> None:
    """With random codes in place of some inputs, which stay in their vocabulary as well."""
    prior, generator = own_prior().train(), torch.Generator().manual_seed(0)
    codes = random_codes(SIZES, (32, L), generator)
    objective = PriorObjective(prior, code_noise=0.2)
    optimizer = torch.optim.Adam(prior.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(codes, None, generator=generator)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(
        weight.grad.isfinite().all() for weight in prior.parameters() if weight.grad is not None
    )


def test_usage_is_a_share_of_the_vocabulary_of_a_position() -> None:
    codes = random_codes(SIZES, (2000, L), torch.Generator().manual_seed(0))
    usage = code_usage([codes], SIZES, None)
    assert [point.used_fraction for point in usage] == [1.0] * L
    for point, size in zip(usage, SIZES, strict=True):
        assert point.entropy == pytest.approx(math.log2(size), abs=0.05)


def test_training_evaluation_and_bulk_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = Mixed().decode(random_codes(SIZES, (64, L), generator))
    settings = {
        "name": "mixed",
        "prior": {"layers": 1, "width": 16, "heads": 2},
        "prior_training": {"steps": 6, "batch_size": 16, "code_noise": 0.1},
    }
    model = aar.train(settings, data=images, tokenizer=Mixed(), device="cpu", show_progress=False)
    assert in_range(model.sample_codes(50, seed=0))
    model.save(tmp_path / "model")

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.setenv("ANYTIME_PLUGINS", "mixed_models")
    sharding = ShardingConfig(shard_size=12, batch_size=5)
    job = sample_job(tmp_path / "model", model, 30, seed=3, sharding=sharding)
    run(job, str(tmp_path / "out"))
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "out").glob("data/*"))]
    codes = [row for table in tables for row in table["codes"].to_pylist()]
    assert codes == model.sample_codes(30, seed=3).tolist()
