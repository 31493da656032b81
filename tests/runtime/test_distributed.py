"""Two processes share work, and all of them learn what the first one found or that it failed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from anytime_ar.errors import InputError, ReportedByRankZeroError
from anytime_ar.runtime.distributed import DistributedContext


def fail() -> None:
    raise InputError("the disk is full")


def share_work(rank: int, store: str, done: Path) -> None:
    """What each of two processes checks."""
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    context = DistributedContext()
    assert context.run_on_rank_zero(lambda: {"rank": context.rank}) == {"rank": 0}
    assert context.run_on_rank_zero(lambda: None) is None
    with pytest.raises(ReportedByRankZeroError if rank else InputError):
        context.run_on_rank_zero(fail)
    squares = list(context.map_in_order(range(37), lambda n: (n * n, context.rank)))
    assert squares == [(n * n, n % 2) for n in range(37)]
    (done / str(rank)).touch()
    context.shut_down()


def test_two_processes_share_results_and_failures(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    multiprocessing.spawn(share_work, (f"file://{tmp_path / 'store'}", done), nprocs=2)
    assert sorted(path.name for path in done.iterdir()) == ["0", "1"]


def test_one_process_alone_needs_no_exchange() -> None:
    context = DistributedContext()
    assert context.run_on_rank_zero(lambda: 3) == 3
    assert list(context.map_in_order("ab", str.upper)) == ["A", "B"]
    with pytest.raises(InputError, match="the disk is full"):
        context.run_on_rank_zero(fail)
