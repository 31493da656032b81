"""Modes that callers set for themselves change no result, and break nothing that comes after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import L, V, sample_shape, tiny_bundle
from torch import Tensor

from anytime_ar.bundle.format import Bundle, fingerprint, load_bundle, save_bundle
from anytime_ar.media.windows import OverlappingWindows, decode_windows, encode_windows
from anytime_ar.prior import Backend, SamplingParams
from anytime_ar.runtime.torch_modes import default_torch_modes, yield_under_default_modes
from anytime_ar.sampling import AnytimeModel, DecodeBatch, uniform_noise
from modes import MODES


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind) / "bundle"
    save_bundle(tiny_bundle(), folder)
    return folder


def numbers(count: int, *shape: int) -> Tensor:
    """The same in every mode."""
    values = torch.arange(count * torch.Size(shape).numel(), dtype=torch.float32, device="cpu")
    return (values * 0.7).sin().view(count, *shape)


def given_codes() -> Tensor:
    return torch.arange(3 * L, dtype=torch.int64, device="cpu").view(3, L) % V


def batch(model: AnytimeModel) -> list[Tensor]:
    rows = DecodeBatch(model.sampler.decoder, 3)
    labels = torch.tensor([0, 1], dtype=torch.int64, device="cpu")
    ids = rows.add(uniform_noise(5, range(2), L), labels, SamplingParams())
    for _ in range(L):
        rows.step()
    return [rows.codes(ids)]


def windows(model: AnytimeModel) -> list[Tensor]:
    if model.sample_rate is None:
        return []
    sound = numbers(1, 150).flatten()
    cut = OverlappingWindows.for_codec(model)
    with default_torch_modes():
        codes = torch.cat(list(encode_windows(model, cut, [sound])))
    return [codes, *decode_windows(model, cut, codes, len(sound))]


def state(model: AnytimeModel) -> list[Tensor]:
    begun = model.generate(2, seed=3, codes=2).state
    ended = begun.refine()
    return [begun.codes, ended.codes, ended.data]


OPERATIONS: dict[str, Callable[[AnytimeModel], list[Tensor]]] = {
    "load": lambda model: list(model.bundle.autoencoder.state_dict().values()),
    "sample": lambda model: [model.sample(5, seed=1)],
    "sample with guidance": lambda model: [model.sample(2, seed=1, label=1, guidance=3.0)],
    "sample codes": lambda model: [model.sample_codes(2, seed=1, top_p=0.8, temperature=0.7)],
    "stream": lambda model: [preview.data for preview in model.stream(2, seed=2)],
    "draw and extend": state,
    "encode": lambda model: [model.encode(numbers(4, *sample_shape()))],
    "decode": lambda model: [model.decode(given_codes()[:, :k]) for k in range(1, L + 1)],
    "nll": lambda model: [model.nll(given_codes()), model.nll(given_codes(), label="dog")],
    "batch": batch,
    "windows": windows,
}


@cache
def loaded(folder: Path, mode: str | None = None) -> Bundle:
    """In a mode; models of one bundle share nothing that their first use makes."""
    with MODES[mode]() if mode else nullcontext():
        return load_bundle(folder)


@cache
def result(folder: Path, operation: str, backend: Backend) -> list[Tensor]:
    """In no mode."""
    return OPERATIONS[operation](AnytimeModel(loaded(folder), device="cpu", backend=backend))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_modes_change_nothing(folder: Path, mode: str, operation: str, backend: Backend) -> None:
    run, wanted = OPERATIONS[operation], result(folder, operation, backend)
    bundle = loaded(folder, mode)
    assert {w.device.type for w in bundle.autoencoder.parameters()} == {"cpu"}
    with MODES[mode]():
        model = AnytimeModel(bundle, device="cpu", backend=backend)
        assert_same(run(model), wanted)  # the first use, which allocates
    assert_same(run(model), wanted)
    with MODES[mode]():
        assert_same(run(model), wanted)


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert not one.is_inference()
        assert torch.equal(one, other)


def test_modes_of_the_process_reach_no_thread(folder: Path) -> None:
    """The default dtype belongs to all threads."""
    model = AnytimeModel(load_bundle(folder), device="cpu")
    wanted, found = model.sample(3, seed=1), []
    with MODES["default dtype bfloat16"]():
        thread = threading.Thread(target=lambda: found.append(model.sample(3, seed=1)))
        thread.start()
        thread.join()
        assert torch.get_default_dtype() == torch.bfloat16
    assert torch.equal(found[0], wanted)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_threads_change_no_code_and_samples_by_rounding(
    folder: Path, operation: str, backend: Backend
) -> None:
    """PyTorch adds up in another order with another number of threads."""
    model = AnytimeModel(loaded(folder), device="cpu", backend=backend)
    wanted, before = result(folder, operation, backend), torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        found = OPERATIONS[operation](model)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)  # exact where both are whole


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_the_same(folder: Path, tmp_path: Path, mode: str) -> None:
    wanted = fingerprint(tiny_bundle())
    with MODES[mode]():
        bundle = load_bundle(folder)
        assert fingerprint(bundle) == wanted
        save_bundle(bundle, tmp_path / "copy")
    for path in folder.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_state_comes_back(folder: Path, tmp_path: Path, mode: str) -> None:
    model = AnytimeModel(load_bundle(folder), device="cpu", cost_model_path=tmp_path / "costs.json")
    wanted = model.sample(2, seed=4)
    with MODES[mode]():
        model.generate(2, seed=4, codes=2).state.save(tmp_path / "two.state")
        state = model.load_state(tmp_path / "two.state")
        assert torch.equal(state.refine().data, wanted)
        assert model.min_deadline_s() > 0


def test_a_generator_has_its_callers_modes_between_items() -> None:
    seen: list[Any] = []

    @yield_under_default_modes
    def items() -> Any:
        try:
            for _ in range(2):
                seen.append((torch.zeros(1).dtype, torch.is_grad_enabled()))
                yield None
        finally:
            seen.append((torch.zeros(1).dtype, torch.is_grad_enabled()))

    with MODES["default dtype float64"]():
        for _ in items():
            assert torch.zeros(1).dtype == torch.float64
            assert torch.is_grad_enabled()
            break
    assert seen == 2 * [(torch.float32, False)]
    seen.clear()
    with MODES["default dtype float64"]():
        assert len(list(items())) == 2
    assert seen == 3 * [(torch.float32, False)]


def test_what_is_stated_stays() -> None:
    with MODES["default dtype float64"](), default_torch_modes():
        assert torch.zeros(1, dtype=torch.int64).dtype == torch.int64
        assert torch.zeros(1, device="meta").device.type == "meta"
        assert torch.tensor([1, 2]).dtype == torch.int64
        assert torch.tensor([1.0]).dtype == torch.float32
        assert torch.as_tensor(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
        assert torch.arange(3).dtype == torch.int64
        assert torch.arange(0.0, 1.0, 0.5).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
