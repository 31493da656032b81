"""Python exits with code 0 and without a word while other threads compute."""

from __future__ import annotations

import sys
import time

import pytest

from processes import runs_silently

LARGE = """
import sys, threading, time, torch
import anytime_ar as aar
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import attach_codebook, build_bundle
from anytime_ar.prior.decoders import native
from anytime_ar.sampling import AnytimeModel

torch.set_num_threads(2)
card = Card.parse(
    {
        "name": "large",
        "data": {"name": "none", "sample_shape": (1, 8, 8)},
        "autoencoder": {
            "code_length": 8,
            "code_width": 2,
            "quantizer": {"vocabulary": 16},
            "network": {"patch": 2, "widths": [8, 8], "blocks": 1, "hidden": 8},
        },
        "prior": {"layers": 4, "width": 192, "heads": 4},
    },
    origin="test",
)
bundle = build_bundle(card)
attach_codebook(bundle.autoencoder, bundle.prior)
model = AnytimeModel(bundle, device="cpu", backend=sys.argv[1])
x = model.sample(64, seed=0)
if sys.argv[1] == "native":
    assert model.sampler.decoder._threads(64) == 2
codes = model.encode(x)
begun = threading.Event()
tasks = {
    "sample": lambda: model.sample(64, seed=0),
    "stream": lambda: list(model.stream(8, seed=0)),
    "encode": lambda: model.encode(x),
    "decode": lambda: model.decode(codes),
    "nll": lambda: model.nll(codes),
}
def compute():
    while True:
        tasks[sys.argv[2]]()
        begun.set()
"""
ONE = (
    LARGE
    + """
threading.Thread(target=compute, daemon=True).start()
begun.wait()
time.sleep(float(sys.argv[3]))
"""
)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize(
    ("backend", "task"),
    [
        ("native", "sample"),
        ("native", "stream"),
        ("native", "decode"),
        ("portable", "sample"),
        ("portable", "encode"),
    ],
)
def test_a_daemon_thread_computes(backend: str, task: str, turn: int) -> None:
    runs_silently(ONE, backend, task, str(0.007 * turn))


def test_an_exit_handler_computes_and_waits_for_the_thread() -> None:
    handler = """
import atexit
def handle():
    thread.join(50)
    assert not thread.is_alive() and model.sample(2, seed=0).shape[0] == 2
thread = threading.Thread(target=compute, daemon=True)
thread.start()
begun.wait()
"""
    first = "import atexit\ndef later(): handle()\natexit.register(later)\n"  # so it runs last
    runs_silently(first + LARGE + handler, "native", "sample")


def test_a_fork_forgets_the_threads_of_its_parent() -> None:
    if sys.platform == "win32":
        pytest.skip("this system does not fork")
    forked = (
        ONE
        + """
import os
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    begin = time.monotonic()
    runs_silently(forked, "portable", "sample", "0")
    assert time.monotonic() - begin < 60
