"""The decode path: equal to the full forward pass, and the same bits for a row whatever is beside
it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import (
    Backend,
    Decoder,
    PortableDecoder,
    Precision,
    Prior,
    PriorConfig,
    decoder_for,
)
from anytime_ar.prior.linear import lay_out
from anytime_ar.prior.native.build import BuildError, kernel

LABELS = 3
PRECISIONS: list[Precision] = ["float32", "bfloat16", "int8"]
try:
    kernel()
    NO_KERNEL = None
except BuildError as error:
    NO_KERNEL = str(error)
needs_kernel = pytest.mark.skipif(NO_KERNEL is not None, reason=str(NO_KERNEL))
BACKENDS = [pytest.param("native", marks=needs_kernel), "portable"]
# (layers, width, heads), L, V: several blocks of positions, small, odd and wide heads, a long sum
SIZES = [((2, 16, 2), 70, 5), ((2, 12, 3), 20, 7), ((2, 64, 2), 40, 33), ((1, 512, 8), 20, 40)]


def build(size: tuple[int, int, int] = (2, 64, 2), length: int = 40, entries: int = 33) -> Prior:
    layers, width, heads = size
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PriorConfig(layers=layers, width=width, heads=heads)
        prior = Prior(config, length, entries, LABELS).eval()
        with torch.no_grad():  # weights start small; here everything should matter
            for weight in prior.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return prior


def some_codes(prior: Prior, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(prior.vocabulary, (n, prior.code_length), generator=generator)


def some_labels(n: int) -> Tensor:
    return torch.arange(n) % (LABELS + 1)


def inputs_at(decoder: Decoder[Any], codes: Tensor, labels: Tensor, position: int) -> Tensor:
    if position == 0:
        return decoder.first_inputs(labels)
    return decoder.next_inputs(codes[:, position - 1], position)


def step_through(
    decoder: Decoder[Any], codes: Tensor, labels: Tensor, *, start: int = 0, replay: bool = False
) -> Tensor:
    """Logits float [B, L - start, V] of the cached path."""
    cache = decoder.allocate(len(codes))
    if replay:
        decoder.replay(cache, 0, decoder.first_inputs(labels), codes[:, :start])
    else:
        for position in range(start):
            decoder.step(
                cache, inputs_at(decoder, codes, labels, position), [position] * len(codes)
            )
    logits = [
        decoder.step(cache, inputs_at(decoder, codes, labels, position), [position] * len(codes))
        for position in range(start, codes.shape[1])
    ]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1), ("int8", 0.2)]
)
@pytest.mark.parametrize(("size", "length", "entries"), SIZES)
def test_cached_equals_uncached_at_every_position(
    size: tuple[int, int, int],
    length: int,
    entries: int,
    precision: Precision,
    tolerance: float,
    backend: Backend,
) -> None:
    prior = build(size, length, entries)
    codes, labels = some_codes(prior, 4), some_labels(4)
    with torch.no_grad():
        whole = prior(codes, labels)
    spread = whole.std().item()
    assert spread > 0.3
    decoder = decoder_for(prior, precision, backend)
    got = step_through(decoder, codes, labels)
    torch.testing.assert_close(got, whole, atol=tolerance * spread, rtol=0)
    # the mutation that must break it: another code on the way
    codes[:, 2] = (codes[:, 2] + 1) % entries
    assert (step_through(decoder, codes, labels) - whole).abs().max() > 5 * tolerance * spread


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "length", "entries"), SIZES)
def test_a_row_gets_the_same_bits_in_any_batch(
    size: tuple[int, int, int], length: int, entries: int, precision: Precision, backend: Backend
) -> None:
    prior = build(size, length, entries)
    decoder = decoder_for(prior, precision, backend)
    codes, labels = some_codes(prior, 33), some_labels(33)
    whole = step_through(decoder, codes, labels)
    for n in (1, 2, 3, 4, 7, 16):
        assert torch.equal(step_through(decoder, codes[:n], labels[:n]), whole[:n]), n


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "length", "entries"), SIZES)
def test_a_row_gets_the_same_bits_beside_rows_at_other_positions(
    size: tuple[int, int, int], length: int, entries: int, precision: Precision, backend: Backend
) -> None:
    prior = build(size, length, entries)
    decoder = decoder_for(prior, precision, backend)
    delays = [0, 1, 1, length // 2, length - 1]
    codes, labels = some_codes(prior, len(delays)), some_labels(len(delays))
    expected = step_through(decoder, codes, labels)
    # rows start one after the other; those that are through leave from the front
    cache = decoder.allocate(len(delays))
    logits: list[list[Tensor]] = [[] for _ in delays]

    def step(rows: Sequence[int], time: int) -> None:
        positions = [time - delays[row] for row in rows]
        x = torch.cat(
            [
                inputs_at(decoder, codes[row : row + 1], labels[row : row + 1], position)
                for row, position in zip(rows, positions, strict=True)
            ]
        )
        for row, out in zip(rows, decoder.step(cache, x, positions), strict=True):
            logits[row].append(out)

    for time in range(length):
        step([row for row, delay in enumerate(delays) if delay <= time], time)
    for row, delay in enumerate(delays):
        assert torch.equal(torch.stack(logits[row]), expected[row, : length - delay]), row


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_replay_equals_the_steps(batch: int, precision: Precision, backend: Backend) -> None:
    prior = build()
    decoder = decoder_for(prior, precision, backend)
    codes, labels = some_codes(prior, batch), some_labels(batch)
    for start in (1, 2, 15, 16, 17, 39):
        expected = step_through(decoder, codes, labels, start=start)
        got = step_through(decoder, codes, labels, start=start, replay=True)
        assert torch.equal(got, expected), start


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replay_leaves_other_rows_alone(backend: Backend) -> None:
    prior = build()
    decoder = decoder_for(prior, backend=backend)
    codes, labels = some_codes(prior, 4), some_labels(4)
    expected = step_through(decoder, codes, labels)
    cache = decoder.allocate(4)
    first = decoder.first_inputs(labels)
    decoder.replay(cache, 0, first[:2], codes[:2, :20])
    decoder.replay(cache, 2, first[2:], codes[2:, :5])
    inputs = torch.cat(
        [
            decoder.next_inputs(codes[:2, 19], 20),
            decoder.next_inputs(codes[2:, 4], 5),
        ]
    )
    logits = decoder.step(cache, inputs, [20, 20, 5, 5])
    assert torch.equal(logits[:2], expected[:2, 20])
    assert torch.equal(logits[2:], expected[2:, 5])


@pytest.mark.parametrize("backend", BACKENDS)
def test_interleaved_draws_equal_sequential_ones(backend: Backend) -> None:
    prior = build()
    decoder = decoder_for(prior, backend=backend)
    labels = some_labels(3)
    first, second = some_codes(prior, 3, seed=1), some_codes(prior, 3, seed=2)
    expected = [step_through(decoder, codes, labels) for codes in (first, second)]
    caches = [decoder.allocate(3), decoder.allocate(3)]
    for position in range(prior.code_length):
        for cache, codes, logits in zip(caches, (first, second), expected, strict=True):
            x = inputs_at(decoder, codes, labels, position)
            assert torch.equal(decoder.step(cache, x, [position] * 3), logits[:, position])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_used_cache_serves_again_once_cleared(backend: Backend) -> None:
    prior = build()
    decoder = decoder_for(prior, backend=backend)
    codes, labels = some_codes(prior, 3), some_labels(3)
    expected = step_through(decoder, codes, labels)
    cache = decoder.allocate(3)
    for position in range(prior.code_length):  # an earlier draw, of other codes
        x = inputs_at(decoder, codes.flip(0), labels, position)
        decoder.step(cache, x, [position] * 3)
    cache.clear()
    for position in range(prior.code_length):
        x = inputs_at(decoder, codes, labels, position)
        assert torch.equal(decoder.step(cache, x, [position] * 3), expected[:, position])


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_of_a_finished_draw_serves_the_next_of_its_size(backend: Backend) -> None:
    decoder = decoder_for(build(), backend=backend)
    cache = decoder.allocate(3)
    decoder.release(cache)
    assert decoder.allocate(4) is not cache
    decoder.release(cache)
    assert decoder.allocate(3) is cache
    assert decoder.allocate(3) is not cache


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_a_row(backend: Backend) -> None:
    prior = build()
    decoder = decoder_for(prior, backend=backend)
    codes, labels = some_codes(prior, 3), some_labels(3)
    expected = step_through(decoder, codes, labels)
    cache = decoder.allocate(3)
    for position in range(20):
        decoder.step(cache, inputs_at(decoder, codes, labels, position), [position] * 3)
    cache.move(2, 0)
    x = inputs_at(decoder, codes[[2, 1]], labels[[2, 1]], 20)
    assert torch.equal(decoder.step(cache, x, [20, 20]), expected[[2, 1], 20])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("inside", "outside"), [(192, 576), (192, 32), (768, 192), (2048, 512)])
def test_linear_maps_round_alike_for_any_number_of_rows(
    inside: int,
    outside: int,
    onednn: bool,
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if not onednn:
        before = torch.get_num_threads()
        request.addfinalizer(lambda: torch.set_num_threads(before))
        torch.set_num_threads(1)
        monkeypatch.setattr("anytime_ar.prior.linear._onednn_is_there", lambda _dtype: False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(257, inside, generator=generator)
    weight = torch.randn(outside, inside, generator=generator) / inside**0.5
    bias = torch.randn(outside, generator=generator)
    for gelu in (False, True):
        linear = lay_out(weight, bias, precision, gelu=gelu)
        rounded = x.to(linear.dtype)
        whole = linear(rounded)
        expected = torch.nn.functional.linear(x, weight, bias)
        expected = torch.nn.functional.gelu(expected) if gelu else expected
        tolerance = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06}[precision]
        torch.testing.assert_close(whole.float(), expected, atol=tolerance, rtol=tolerance)
        for rows in (1, 2, 3, 4, 5, 16, 17, 64, 100):
            assert torch.equal(linear(rounded[:rows]), whole[:rows]), rows


def test_int8_is_for_cpus() -> None:
    with pytest.raises(InputError, match="precision int8 is for CPUs, not meta; pass bfloat16"):
        lay_out(torch.zeros(2, 2, device="meta"), None, "int8")


@needs_kernel
def test_the_backends_agree() -> None:
    prior = build()
    codes, labels = some_codes(prior, 3), some_labels(3)
    native = step_through(decoder_for(prior, backend="native"), codes, labels)
    portable = step_through(decoder_for(prior, backend="portable"), codes, labels)
    torch.testing.assert_close(native, portable, atol=1e-4, rtol=1e-4)


@needs_kernel
def test_threads_share_rows_and_change_nothing() -> None:
    prior = build((1, 512, 8), 20, 40)
    decoder = decoder_for(prior, backend="native")
    codes, labels = some_codes(prior, 37), some_labels(37)
    before = torch.get_num_threads()
    whole = step_through(decoder, codes, labels)
    try:
        for threads in (1, 2, 3, 64):
            torch.set_num_threads(threads)
            assert torch.equal(step_through(decoder, codes, labels), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_floor_runs(backend: Backend, precision: Precision) -> None:
    decoder_for(build(), precision, backend).multiply_only(3)


def test_the_kernel_is_for_cpus() -> None:
    prior = build().to("meta")
    with pytest.raises(InputError, match="native cannot draw here: it is for CPUs, not meta"):
        decoder_for(prior, backend="native")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    try:
        with pytest.raises(InputError, match=r"no C\+\+ compiler is there; install g\+\+ or clang"):
            decoder_for(build(), backend="native")
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler is there"):
            assert isinstance(decoder_for(build()), PortableDecoder)
        with warnings.catch_warnings(action="error"):  # asked for, so nothing to warn of
            assert isinstance(decoder_for(build(), backend="portable"), PortableDecoder)
        broken = tmp_path / "c++"
        broken.write_text("#!/bin/sh\necho 'step.cpp:1: error: no such thing' >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda _name: str(broken))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with pytest.raises(InputError, match=r"failed: step.cpp:1: error: no such thing"):
            decoder_for(build(), backend="native")
        assert list((tmp_path / "anytime-ar" / "native").iterdir()) == []
    finally:
        kernel.cache_clear()
