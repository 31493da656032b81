"""Tensors that move to shared memory, and weights that change, never mislead compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import copy, gc, io, os, pickle, sys, threading
from multiprocessing.reduction import ForkingPickler
import torch
import anytime_ar as aar
from anytime_ar.errors import InputError

def load():
    return aar.load("mnist", device="cpu", backend=sys.argv[1], precision=sys.argv[2])

def results(model, state):
    codes = model.sample_codes(3, seed=0)
    return [model.sample(3, seed=0), model.decode(codes), state.refine().data,
            model.sample(2, seed=1, guidance=2.0)]

def churn():
    "Reuse memory that was freed."
    gc.collect()
    return [torch.full((size,), 1e30) for size in range(1, 4000, 3)]

model = load()
preview = model.generate(3, seed=5, codes=4)
before = results(model, model.generate(3, seed=5, codes=4).state)
"""
SHARE = """
for share in (
    lambda: ForkingPickler.dumps(model),
    lambda: ForkingPickler.dumps(model.bundle),
    lambda: ForkingPickler.dumps(preview.state),
    lambda: ForkingPickler.dumps(preview),
    lambda: model.bundle.prior.share_memory(),
    lambda: model.bundle.autoencoder.share_memory(),
    lambda: model.prior.to("cpu"),
    lambda: ForkingPickler.dumps(model.generate(2, seed=3)),
):
    share()
    held = churn()
    for now, then in zip(results(model, preview.state), before, strict=True):
        assert torch.equal(now, then)
print("same")
"""
MOVE_STATE = """
from anytime_ar.sampling import DecodeBatch
decoder = model.sampler.decoder
def draw(move):
    batch = DecodeBatch(decoder, 4)
    plan, _ = model.plan(4, seed=0)
    rows = batch.add(plan.noise, plan.labels, plan.sampling_params)
    for _ in range(decoder.code_length):
        if move:
            state = batch._rows
            memory = getattr(state.cache, "memory", None)
            for tensor in (state.codes, state.noise, state.labels, memory):
                if tensor is not None:
                    tensor.share_memory_()
            held = churn()
        batch.step()
    return batch.codes(rows)
assert torch.equal(draw(False), draw(True))
batch = DecodeBatch(decoder, 4)
for bound in (decoder, batch, batch._rows, getattr(decoder, "_weights", decoder)):
    for way in (ForkingPickler.dumps, pickle.dumps, copy.deepcopy, copy.copy):
        try:
            way(bound)
        except TypeError as error:
            assert "holds memory of this process" in str(error), error
        else:
            raise AssertionError(bound)
assert torch.equal(model.sample(3, seed=0), before[0])
print("same")
"""
CHANGE = """
def refused(model, change):
    used = model.generate(1, seed=0, codes=2)
    model.encode(used.data), model.nll(used.codes)
    change(model)
    for call in (
        lambda: model.sample(1, seed=0), lambda: model.sample_codes(1), lambda: model.generate(1),
        lambda: model.stream(1), lambda: model.decode(used.codes), lambda: model.nll(used.codes),
        lambda: model.encode(used.data), lambda: used.state.refine(),
        lambda: used.state.stream(),
    ):
        try:
            call()
        except InputError as error:
            assert "have changed since it was first used; make a new model" in str(error), error
        else:
            raise AssertionError(change)
    return model

def scale(model):
    with torch.no_grad():
        model.prior.norm.weight.mul_(3)

for change in (
    scale,
    lambda model: model.prior.load_state_dict(model.prior.state_dict()),
    lambda model: model.prior.load_state_dict(load().prior.state_dict(), assign=True),
    lambda model: model.autoencoder.half(),
    lambda model: model.prior.double(),
    lambda model: model.autoencoder.to("meta"),
):
    refused(load(), change)
# Weights may change before the first use, and a new model reads those of now.
early = load()
scale(early)
late = aar.AnytimeModel(refused(load(), scale).bundle, device="cpu", backend=sys.argv[1],
                        precision=sys.argv[2])
assert torch.equal(early.sample(3, seed=0), late.sample(3, seed=0))
assert not torch.equal(early.sample(3, seed=0), before[0])
print("same")
"""
WORKERS = """
import multiprocessing
from torch.utils.data import DataLoader, Dataset

class Drawn(Dataset):
    def __init__(self, model):
        self.model = model
    def __len__(self):
        return 3
    def __getitem__(self, row):
        return self.model.sample(1, seed=0, first=row)[0]

def draw(model, state, queue):
    queue.put((model.sample(3, seed=0).tolist(), state.refine().data.tolist()))

if __name__ == "__main__":
    for way in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(way)
        loader = DataLoader(Drawn(model), num_workers=2, multiprocessing_context=way)
        drawn = torch.cat(list(loader))
        torch.testing.assert_close(drawn, before[0])
        queue = context.SimpleQueue()
        child = context.Process(target=draw, args=(model, preview.state, queue))
        child.start()
        for found, wanted in zip(queue.get(), (before[0], before[2]), strict=True):
            torch.testing.assert_close(torch.tensor(found), wanted)
        child.join()
        held = churn()
        assert child.exitcode == 0
        for now, then in zip(results(model, preview.state), before, strict=True):
            assert torch.equal(now, then)
    print("same")
"""
THREADS = """
from concurrent.futures import ThreadPoolExecutor
from torch.multiprocessing import reductions
torch.set_num_threads(2)
fresh = load()  # all threads are the first
def work(number):
    start.wait()
    for _ in range(3):
        for now, then in zip(results(fresh, preview.state), before, strict=True):
            assert torch.equal(now, then)
        ForkingPickler.dumps(preview)
start = threading.Barrier(8)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(8)))
print("same")
"""
FORK = """
torch.set_num_threads(2)
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert torch.equal(model.sample(3, seed=0), before[0])
thread = threading.Thread(target=busy)
thread.start()
for _ in range(6):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = all(map(torch.equal, results(model, preview.state), before))
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
print("same")
"""
SCRIPTS = {
    "share": SHARE,
    "move the state": MOVE_STATE,
    "change": CHANGE,
    "workers": WORKERS,
    "threads": THREADS,
    "fork": FORK,
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("kind", ["native float32", "native int8", "portable float32"])
def test_results_stay_right(kind: str, name: str, tmp_path: Path) -> None:
    if name in ("workers", "fork") and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    if kind == "native int8" and name in ("workers", "fork"):
        kind = "native bfloat16"
    script = tmp_path / "script.py"  # a file, which spawned processes import
    script.write_text(BEGIN + SCRIPTS[name])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *kind.split()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr[-3000:]
