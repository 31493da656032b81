"""What all tests need of the process that they run in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
FAST = (
    "autoencoder/test_layouts_networks.py",
    "autoencoder/test_quantizers.py",
    "autoencoder/test_residual_vq.py",
    "autoencoder/test_segments.py",
    "autoencoder/test_truncation.py",
    "bundle/test_bundle_files.py",
    "bundle/test_bundle_names.py",
    "bundle/test_shipped_models.py",
    "client",
    "data",
    "media",
    "prior/test_prior.py",
    "prior/test_sampling_params.py",
    "publishing/test_model_card.py",
    "runtime/test_json_store.py",
    "runtime/test_size_limits.py",
    "runtime/test_timing.py",
    "sampling/test_arguments.py",
    "sampling/test_budgets.py",
    "sampling/test_repr.py",
    "sampling/test_results.py",
    "sampling/test_rng.py",
    "sampling/test_sampling.py",
    "sampling/test_sampling_options.py",
    "serving/test_batch_cost_model.py",
    "serving/test_fairness.py",
    "serving/test_negotiation.py",
    "serving/test_scheduler.py",
    "test_codes.py",
    "test_config.py",
    "test_documents.py",
    "test_layering.py",
    "test_public_api.py",
    "test_results_page.py",
)
"""Folders and files whose tests need no Ray, browser or compiler, and end soon: `fast`."""

# A shell that starts the tests in the background, and nohup, have them ignore signals that some of
# them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `FAST`, which `make test-fast` runs."""
    fast = [FOLDER / name for name in FAST]
    for item in items:
        if any(item.path.is_relative_to(one) for one in fast):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A command that a test runs sets the threads of PyTorch, which the next one must not find."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
