"""Draws that go on later, in the same process and from a file; test_copies.py has other ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import safe_open, save_file
from sampling_models import ONE_KIND, L, V, tiny_bundle
from timed_models import TimedModel
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import Prior
from anytime_ar.sampling import AnytimeModel, SamplingState
from anytime_ar.sampling.result import _sha256

DRAWS: list[dict[str, Any]] = [
    {},
    {"label": "owl", "guidance": 2.0},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 5},
]


@pytest.mark.parametrize("options", DRAWS)
@pytest.mark.parametrize("k", range(1, L + 1))
def test_extending_equals_the_uninterrupted_draw(
    model: AnytimeModel, tmp_path: Path, k: int, options: dict[str, Any]
) -> None:
    whole = model.generate(5, seed=2, **options)
    part = model.generate(5, seed=2, codes=k, **options)
    assert torch.equal(part.codes, whole.codes[:, :k])
    part.state.save(tmp_path / "draw.safetensors")
    loaded = model.load_state(tmp_path / "draw.safetensors")
    # from the live batch, once more from the codes after it was used up, and from disk
    for state in (part.state, part.state, loaded):
        assert state.codes_drawn == k
        extended = state.refine()
        assert torch.equal(extended.codes, whole.codes)
        torch.testing.assert_close(extended.data, whole.data)
        assert extended.stop_reason == "complete"


def test_extending_bit_by_bit(model: AnytimeModel) -> None:
    whole = model.sample_codes(3, seed=0)
    result = model.generate(3, seed=0, codes=1)
    for k in range(2, L + 1):
        result = result.state.refine(codes=k)
        assert torch.equal(result.codes, whole[:, :k])


def test_extending_the_live_batch_does_nothing_again(tmp_path: Path) -> None:
    timed = TimedModel(tmp_path / "costs.json")
    result = timed.generate(2, seed=0, codes=4)
    assert timed.steps == 4
    result.state.refine()
    assert timed.steps == L


def test_a_state_in_the_middle_of_a_stream(model: AnytimeModel) -> None:
    whole = model.sample_codes(3, seed=0)
    stream = model.stream(3, seed=0)
    first = next(stream)
    assert torch.equal(first.state.refine(codes=4).codes, whole[:, :4])
    assert torch.equal(next(stream).codes, whole[:, :2])  # which went on undisturbed
    *_, last = stream
    assert torch.equal(last.codes, whole)


def test_streams_of_one_state_do_not_disturb_each_other(model: AnytimeModel) -> None:
    whole = model.sample_codes(3, seed=0)
    state = model.generate(3, seed=0, codes=2).state
    for one, two in zip(state.stream(), state.stream(), strict=True):
        assert torch.equal(one.codes, two.codes)
        assert torch.equal(one.codes, whole[:, : one.codes_drawn])


def test_a_state_streams_with_previews(model: AnytimeModel) -> None:
    state = model.generate(2, seed=0, codes=2).state
    assert [p.codes_drawn for p in state.stream()] == [3, 4, 5, 6]
    assert [p.codes_drawn for p in state.stream(previews=[1, 4], codes=5)] == [4, 5]


def test_a_deadline_of_an_extension(tmp_path: Path) -> None:
    timed = TimedModel(tmp_path / "costs.json")
    state = timed.generate(1, seed=0, codes=2).state
    timed.warm_up()
    begin = timed.clock()
    result = state.refine(deadline_s=0.026)
    assert (result.codes_drawn, result.stop_reason) == (4, "deadline")
    assert timed.clock() - begin <= 0.026


def test_fewer_codes_than_there_are(model: AnytimeModel) -> None:
    state = model.generate(2, seed=0, codes=4).state
    with pytest.raises(InputError, match="this state has 4 codes, and 3 were asked for"):
        state.refine(codes=3)
    assert state.refine(codes=4).codes_drawn == 4


def test_a_state_keeps_its_value(model: AnytimeModel) -> None:
    result = model.generate(2, seed=0, codes=3)
    result.codes.fill_(0)
    assert torch.equal(result.state.refine().codes, model.sample_codes(2, seed=0))


def test_seeds_of_a_state_are_those_of_draws(model: AnytimeModel, tmp_path: Path) -> None:
    path, largest = tmp_path / "draw.safetensors", 2**64 - 1
    model.generate(2, seed=largest, codes=2).state.save(path)
    assert torch.equal(model.load_state(path).refine().codes, model.sample_codes(2, seed=largest))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["anytime_ar_state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for seed in (-1, 2**64):
        save_file(tensors, path, metadata={"anytime_ar_state": json.dumps(header | {"seed": seed})})
        with pytest.raises(InputError, match="seed"):
            model.load_state(path)


def test_a_state_of_another_model_is_refused(model: AnytimeModel, tmp_path: Path) -> None:
    path = tmp_path / "draw.safetensors"
    model.generate(2, seed=0, codes=2).state.save(path)
    other = AnytimeModel(tiny_bundle(seed=1), device="cpu")
    with pytest.raises(InputError, match="belongs to another model: 'tiny' in float32"):
        other.load_state(path)
    if not isinstance(model.prior, Prior):
        return
    rounded = AnytimeModel(tiny_bundle(), device="cpu", precision="bfloat16")
    with pytest.raises(InputError, match="not 'tiny' in bfloat16"):
        rounded.load_state(path)


@ONE_KIND
def test_files_that_are_no_states(model: AnytimeModel, tmp_path: Path) -> None:
    path = tmp_path / "draw.safetensors"
    with pytest.raises(InputError, match=r"does not exist; write one with `anytime sample"):
        model.load_state(path)
    model.generate(2, seed=0, codes=2).state.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="is no saved state, or is cut short"):
        model.load_state(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="was altered: its SHA-256 is another"):
        model.load_state(path)
    save_file({"codes": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match="is no saved state; write one"):
        model.load_state(path)


@ONE_KIND
def test_a_state_of_another_version_is_refused(model: AnytimeModel, tmp_path: Path) -> None:
    path = tmp_path / "draw.safetensors"
    model.generate(2, seed=0, codes=2).state.save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["anytime_ar_state"])
        tensors = {name: file.get_tensor(name) for name in ("codes", "labels")}
    header["format_version"] = 4
    save_file(tensors, path, metadata={"anytime_ar_state": json.dumps(header)})
    with pytest.raises(InputError, match="state format version 4, and this anytime-ar reads 3"):
        model.load_state(path)


def forged(path: Path, state: SamplingState, tensors: dict[str, Tensor], **changes: Any) -> Path:
    """A file with a true checksum, of what no draw has made."""
    state.save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["anytime_ar_state"])
        stored = {name: file.get_tensor(name) for name in ("codes", "labels")} | tensors
    header |= {"sha256": _sha256(stored)} | changes
    save_file(stored, path, metadata={"anytime_ar_state": json.dumps(header)})
    return path


@ONE_KIND
@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        ({"labels": torch.tensor([0, 3])}, {}, r"labels that are not int64 \[2\] in 0..2"),
        ({"labels": torch.tensor([-1, 0])}, {}, "labels that are not"),
        ({"labels": torch.tensor([0, 10**12])}, {}, "labels that are not"),
        ({"labels": torch.tensor([0])}, {}, "labels that are not"),
        ({"labels": torch.tensor([0.0, 1.0])}, {}, "labels that are not"),
        ({"codes": torch.tensor([[0, V]])}, {}, f"code {V} at row 0, position 1 is out of range"),
        ({"codes": torch.zeros(2, 0, dtype=torch.int64)}, {}, "prefix 0 holds no code"),
        ({"codes": torch.zeros(0, 1, dtype=torch.int64)}, {}, "0 samples, and states have 1 to"),
        ({"codes": torch.zeros(1025, 1, dtype=torch.int64)}, {}, "1025 samples, and states have"),
        ({}, {"first": 2**63}, "first: input should be less than"),
        ({}, {"seed": 2**64}, "seed: input should be less than"),
    ],
)
def test_forged_states_are_refused(
    model: AnytimeModel,
    tmp_path: Path,
    tensors: dict[str, Tensor],
    changes: dict[str, Any],
    message: str,
) -> None:
    state = model.generate(2, seed=0, codes=2).state
    with pytest.raises(InputError, match=message):
        model.load_state(forged(tmp_path / "forged.safetensors", state, tensors, **changes))


@ONE_KIND
@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 10**5 + "]" * 10**5])
def test_a_header_that_is_something_else(model: AnytimeModel, tmp_path: Path, text: str) -> None:
    path = tmp_path / "draw.safetensors"
    save_file(
        {"codes": torch.zeros(1, 1, dtype=torch.int64)}, path, metadata={"anytime_ar_state": text}
    )
    with pytest.raises(InputError, match="is no saved state"):
        model.load_state(path)
