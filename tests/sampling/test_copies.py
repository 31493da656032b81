"""Models, their results and their parts are copied and sent to other processes, used or not."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import PROCESS_KINDS, L, V, sample_shape, tiny_bundle
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anytime_ar.bundle.format import save_bundle
from anytime_ar.prior import Backend
from anytime_ar.sampling import AnytimeModel, SamplingState

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
copies = pytest.mark.parametrize("way", COPIES)


def fresh(backend: Backend = "portable") -> AnytimeModel:
    return AnytimeModel(tiny_bundle(), device="cpu", backend=backend)


def used(model: AnytimeModel) -> AnytimeModel:
    """Everything that is made on first use is made."""
    model.decode(model.sample_codes(2, seed=9))
    model.encode(torch.zeros(1, *sample_shape()))
    model.min_deadline_s()
    return model


def assert_works(model: AnytimeModel, like: AnytimeModel) -> None:
    codes = torch.arange(2 * L).view(2, L) % V
    assert torch.equal(model.sample(3, seed=1), like.sample(3, seed=1))
    assert torch.equal(model.decode(codes), like.decode(codes))
    assert torch.equal(model.encode(like.decode(codes)), like.encode(like.decode(codes)))
    assert torch.equal(model.nll(codes), like.nll(codes))
    assert (model.backend, model.precision) == (like.backend, like.precision)


@copies
@pytest.mark.parametrize("before", [lambda model: model, used], ids=["new", "used"])
def test_models(way: str, backend: Backend, before: Callable[[Any], AnytimeModel]) -> None:
    model = before(fresh(backend))
    assert_works(COPIES[way](model), model)


@copies
def test_results_and_states(way: str) -> None:
    model = fresh()
    wanted = model.sample(2, seed=3)
    preview = model.generate(2, seed=3, codes=2)
    for state in (COPIES[way](preview).state, COPIES[way](preview.state)):
        assert isinstance(state, SamplingState)
        assert torch.equal(state.refine().data, wanted)
    assert torch.equal(COPIES[way](preview).data, preview.data)
    assert torch.equal(preview.state.refine().data, wanted)


@copies
def test_parts(way: str) -> None:
    bundle = used(fresh()).bundle
    codes = torch.arange(2 * L).view(2, L) % V
    found = COPIES[way](bundle)
    assert found.card == bundle.card
    assert torch.equal(found.autoencoder.decode(codes), bundle.autoencoder.decode(codes))
    assert torch.equal(found.prior.nll(codes), bundle.prior.nll(codes))


def test_a_copy_is_one_model_with_its_results() -> None:
    model = fresh()
    first, state = pickle.loads(pickle.dumps((model, model.generate(1, codes=1).state)))
    assert state._sampler is first.sampler


class Decoded(Dataset[Tensor]):
    """As users write them: the model is an attribute."""

    def __init__(self, model: AnytimeModel) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> Tensor:
        return self.model.sample(1, seed=7, first=row)[0]


@PROCESS_KINDS
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_a_loader(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {way}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    model = used(fresh())
    loader = DataLoader(Decoded(model), batch_size=2, num_workers=1, multiprocessing_context=way)
    torch.testing.assert_close(torch.cat(list(loader)), model.sample(4, seed=7))


@PROCESS_KINDS
def test_another_process_goes_on_with_a_state(tmp_path: Path) -> None:
    save_bundle(tiny_bundle(), tmp_path / "bundle")
    script = (
        "import sys, anytime_ar as aar\n"
        "model = aar.load(sys.argv[1], device='cpu')\n"
        "model.load_state(sys.argv[2]).refine(codes=5).state.save(sys.argv[3])\n"
    )
    model = AnytimeModel(tiny_bundle(), device="cpu")
    part, more = tmp_path / "part.safetensors", tmp_path / "more.safetensors"
    model.generate(4, seed=5, codes=2, label="cat").state.save(part)
    command = [sys.executable, "-c", script, str(tmp_path / "bundle"), str(part), str(more)]
    subprocess.run(command, check=True, timeout=600)
    assert torch.equal(
        model.load_state(more).codes, model.sample_codes(4, seed=5, codes=5, label="cat")
    )


def test_a_file_of_costs_is_kept(tmp_path: Path) -> None:
    model = AnytimeModel(tiny_bundle(), device="cpu", cost_model_path=tmp_path / "costs.json")
    copied = pickle.loads(pickle.dumps(model))
    copied.warm_up()
    assert (tmp_path / "costs.json").exists()
