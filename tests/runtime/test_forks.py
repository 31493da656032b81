"""A process that was forked off computes, whatever threads its parent had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import save_bundle
from random_models import encodec_config, llama_config, random_bundle

FORK = """
import os, sys, torch
import anytime_ar as aar
from anytime_ar.runtime.torch_modes import default_torch_modes
torch.set_num_threads(2)
model = aar.load(sys.argv[1], device="cpu", backend=sys.argv[2])
x = model.sample(256, seed=0)  # all with the threads of this process
codes = model.encode(x)
wanted = model.decode(codes)
model.nll(codes)
tasks = [
    lambda: model.sample(256, seed=0),
    lambda: model.decode(codes),
    lambda: model.encode(x),
    lambda: model.nll(codes),
    lambda: model.bundle.autoencoder.decode(codes),
]
for task in tasks:
    child = os.fork()
    if child == 0:
        task()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print(len(tasks))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("model", "backend"), [("mnist", "native"), ("mnist", "portable"), ("foreign", "portable")]
)
def test_a_fork_of_a_process_with_threads(model: str, backend: str, tmp_path: Path) -> None:
    if model == "foreign":
        card = {
            "name": model,
            "data": {"name": "none", "sample_shape": (1, 960), "sample_rate": 8000},
            "autoencoder": encodec_config(960, 12, 2, 8),
            "prior": llama_config(24, 8, 0),
        }
        model = str(tmp_path / "foreign")
        save_bundle(random_bundle(Card.parse(card, origin="test")), model)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, model, backend],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["5"], done.stderr
