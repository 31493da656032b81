"""What all tests need of the process that they run in."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

# A shell that starts the tests in the background, and nohup, have them ignore signals that some of
# them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A command that a test runs sets the threads of PyTorch, which the next one must not find."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
