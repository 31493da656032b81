"""`p(k)`, and the one function that cuts codes off."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import anytime_ar
from anytime_ar.autoencoder import Truncation, TruncationConfig, kept_mask, truncate
from anytime_ar.errors import InputError


@pytest.mark.parametrize(
    ("truncation", "weights"),
    [
        (Truncation.uniform(5), [1, 1, 1, 1, 1]),
        (Truncation.geometric(4, 0.5), [8, 4, 2, 1]),
        (Truncation.geometric(3, 2.0), [1, 2, 4]),
        (Truncation.powers_of_two(8), [1, 1, 0, 1, 0, 0, 0, 1]),
        (Truncation.powers_of_two(6), [1, 1, 0, 1, 0, 1]),
        (Truncation.powers_of_two(1), [1]),
        (Truncation.full(3), [0, 0, 1]),
        (Truncation.uniform(6).in_multiples_of(2), [0, 1, 0, 1, 0, 1]),
        (Truncation.geometric(4, 0.5).in_multiples_of(2), [0, 4, 0, 1]),
        (Truncation.full(3).in_multiples_of(1), [0, 0, 1]),
        (Truncation.uniform(4).or_full(0.5), [1, 1, 1, 5]),
        (Truncation.uniform(4).or_full(0.0), [1, 1, 1, 1]),
        (Truncation.uniform(4).or_full(1.0), [0, 0, 0, 1]),
    ],
)
def test_pmf_and_frequencies(truncation: Truncation, weights: list[float]) -> None:
    expected = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    torch.testing.assert_close(truncation.pmf, expected, atol=1e-12, rtol=0)
    n = 40_000
    kept = truncation.sample(n, torch.Generator().manual_seed(0))
    assert kept.dtype == torch.int64
    assert kept.shape == (n,)
    counts = torch.bincount(kept, minlength=len(weights) + 1)
    assert counts[0] == 0
    assert len(counts) == len(weights) + 1
    spread = (expected * (1 - expected) / n).sqrt()
    assert ((counts[1:] / n - expected).abs() <= 5 * spread).all()


def test_each_sample_has_its_own_k_and_the_seed_decides() -> None:
    truncation = Truncation.uniform(16)
    first = truncation.sample(64, torch.Generator().manual_seed(3))
    again = truncation.sample(64, torch.Generator().manual_seed(3))
    other = truncation.sample(64, torch.Generator().manual_seed(4))
    assert len(first.unique()) > 8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.empty(0), r"vector of L weights, got shape \(0,\)"),
        (torch.ones(2, 2), r"vector of L weights, got shape \(2, 2\)"),
        (torch.tensor([1.0, -1.0, 2.0]), r"finite weights >= 0 .*got \[1.0, -1.0, 2.0\]"),
        (torch.tensor([1.0, torch.nan]), "finite weights >= 0"),
        (torch.tensor([1.0, torch.inf]), "finite weights >= 0"),
        (torch.zeros(3), "not all zero"),
    ],
)
def test_bad_weights(weights: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Truncation(weights)


def test_bad_parameters() -> None:
    for ratio in (-1, 0):  # 0 would be the distribution of one code alone
        with pytest.raises(InputError, match=rf"geometric p\(k\) must be above 0, got {ratio}"):
            Truncation.geometric(4, ratio)
    with pytest.raises(InputError, match=r"full length must be in 0..1, got 1.5"):
        Truncation.uniform(4).or_full(1.5)
    with pytest.raises(InputError, match=r"here: ratio: .*got 0.*; full_probability: .*got 2"):
        TruncationConfig.parse({"ratio": 0, "full_probability": 2}, origin="here")


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ("uniform", Truncation.uniform(6)),
        ("geometric", Truncation.geometric(6, 0.7)),
        ("powers_of_two", Truncation.powers_of_two(6)),
        ("full", Truncation.full(6)),
    ],
)
@pytest.mark.parametrize("full", [0.0, 0.25])
def test_config_builds(distribution: str, expected: Truncation, full: float) -> None:
    values = {"distribution": distribution, "ratio": 0.7, "full_probability": full}
    built = TruncationConfig.parse(values, origin="test").build(6)
    torch.testing.assert_close(built.pmf, expected.or_full(full).pmf)
    assert built.code_length == 6


def test_keep_leaves_the_prefix_and_puts_the_fill() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 4, 3, generator=generator, requires_grad=True)
    fill = torch.randn(4, 3, generator=generator, requires_grad=True)
    kept = torch.tensor([1, 2, 3, 4, 2])
    out = truncate(vectors, kept, fill)
    for row, k in enumerate(kept.tolist()):
        assert torch.equal(out[row, :k], vectors[row, :k])
        assert torch.equal(out[row, k:], fill[k:])
    out.sum().backward()
    assert vectors.grad is not None
    assert fill.grad is not None
    assert torch.equal(vectors.grad[..., 0].bool(), kept_mask(kept, 4))
    cut = (~kept_mask(kept, 4)).sum(0).float()  # [L], how often each position is cut off
    assert torch.equal(fill.grad, cut[:, None].expand(4, 3))


def test_kept_mask() -> None:
    mask = kept_mask(torch.tensor([1, 3]), 3)
    assert mask.tolist() == [[True, False, False], [True, True, True]]


MASKS = ("kept_mask", "truncate")


def _masks_positions(tree: ast.AST) -> bool:
    """Whether the source compares a range of positions, or defines a mask of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in MASKS:
            return True
        if isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Call) and ast.unparse(side.func).endswith("arange")
            for part in (node.left, *node.comparators)
            for side in ast.walk(part)
        ):
            return True
    return False


def test_nothing_else_masks_positions() -> None:
    root = Path(anytime_ar.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if _masks_positions(ast.parse(path.read_text(encoding="utf-8")))
    }
    # attention hides what lies behind a row in the cache, which is no cut of a code
    caches = {"prior/decoders/torch.py", "prior/huggingface.py"}
    assert found == {"autoencoder/truncation.py", *caches}
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"(?<!textwrap)\.fill\b", path.read_text(encoding="utf-8"))
    }
    # the kernel is handed the fill, and has to give what the model gives
    assert users == {"autoencoder/model.py", "autoencoder/native_decoder.py"}


@pytest.mark.parametrize(
    "source",
    [
        "x[torch.arange(n)[None] >= k] = 0",
        "mask = k[:, None] > torch.arange(n)",
        "def truncate(x, k): ...",
    ],
)
def test_the_search_for_masks_finds_them(source: str) -> None:
    assert _masks_positions(ast.parse(source))


def test_whole_groups_of_codes() -> None:
    config = TruncationConfig(multiple=2, full_probability=0.5)
    expected = Truncation.uniform(6).in_multiples_of(2).or_full(0.5)
    assert torch.equal(config.build(6).pmf, expected.pmf)
    with pytest.raises(InputError, match=r"truncation.multiple is 4, and no number of codes that"):
        TruncationConfig(multiple=4).build(3)
