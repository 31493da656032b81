"""A process that was forked off computes, whatever threads its parent had."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORK = """
import os, sys, torch
import anytime_ar as aar
from anytime_ar.runtime.torch_modes import default_torch_modes
torch.set_num_threads(2)
model = aar.load("mnist", device="cpu", backend=sys.argv[1])
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
@pytest.mark.parametrize("backend", ["native", "portable"])
def test_a_fork_of_a_process_with_threads(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, backend],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["5"], done.stderr
