"""The decode path: equal to the full forward pass, and the same bits for a row whatever is beside
it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from decoders import (
    BACKENDS,
    PRECISIONS,
    build,
    fill,
    needs_kernel,
    put,
    some_codes,
    some_labels,
    step_through,
)
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.kernel import load_kernel
from anytime_ar.prior import (
    Backend,
    Precision,
    RowSamplingParams,
    SamplingParams,
    TorchPriorDecoder,
    link_rows,
    make_prior_decoder,
)
from anytime_ar.prior.decoders.packed_linear import pack_linear

# (layers, width, heads), L, V: several blocks of positions, small, odd and wide heads, a long sum
SIZES = [((2, 16, 2), 70, 5), ((2, 12, 3), 20, 7), ((2, 64, 2), 40, 33), ((1, 512, 8), 20, 40)]
# a first table of 4 positions, then ones of 12; entries narrower than the rest
SHARED: dict[str, Any] = {"positions_per_table": 12, "embedding_width": 5, "codebook_features": 3}


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
    decoder = make_prior_decoder(prior, precision, backend)
    got = step_through(decoder, codes, labels)
    torch.testing.assert_close(got, whole, atol=tolerance * spread, rtol=0)
    # the mutation that must break it: another code on the way
    codes[:, 2] = (codes[:, 2] + 1) % entries
    assert (step_through(decoder, codes, labels) - whole).abs().max() > 5 * tolerance * spread


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1), ("int8", 0.2)]
)
@pytest.mark.parametrize("everywhere", [False, True])
def test_positions_per_table_and_labels_are_drawn_as_they_are_trained(
    precision: Precision, tolerance: float, backend: Backend, everywhere: bool
) -> None:
    prior = build(**SHARED, condition_every_position=everywhere)
    assert prior.table_of_position.tolist() == [0] * 4 + [1] * 12 + [2] * 12 + [3] * 12
    assert prior.code_embedding.weight.shape == (4 * prior.vocabulary, 5)
    codes, labels = some_codes(prior, 4), some_labels(4)
    with torch.no_grad():
        whole = prior(codes, labels)
    spread = whole.std().item()
    decoder = make_prior_decoder(prior, precision, backend)
    got = step_through(decoder, codes, labels)
    torch.testing.assert_close(got, whole, atol=tolerance * spread, rtol=0)
    replayed = step_through(decoder, codes, labels, start=17, replay=True)
    assert torch.equal(replayed, got[:, 17:])
    mixed, standing = decoder.allocate(4), [0, 5, 23, 39]  # each row at a position of its own
    fill(decoder, mixed, labels=labels, codes=codes)
    for position in range(40):
        put(mixed, [min(position, last) for last in standing])
        logits = decoder.logits(mixed, 4)
    for row, last in enumerate(standing):
        assert torch.equal(logits[row], got[row, last])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "length", "entries"), SIZES)
def test_a_row_gets_the_same_bits_in_any_batch(
    size: tuple[int, int, int], length: int, entries: int, precision: Precision, backend: Backend
) -> None:
    prior = build(size, length, entries)
    decoder = make_prior_decoder(prior, precision, backend)
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
    decoder = make_prior_decoder(prior, precision, backend)
    delays = [0, 1, 1, length // 2, length - 1]
    codes, labels = some_codes(prior, len(delays)), some_labels(len(delays))
    expected = step_through(decoder, codes, labels)
    # rows start one after the other; those that are through leave from the front
    logits: list[list[Tensor]] = [[] for _ in delays]
    rows = decoder.allocate(len(delays))
    fill(decoder, rows, labels=labels, codes=codes)
    for time in range(length):
        started = sum(delay <= time for delay in delays)
        put(rows, [time - delay for delay in delays[:started]])
        for row, out in enumerate(decoder.logits(rows, started)):
            logits[row].append(out)
    for row, delay in enumerate(delays):
        assert torch.equal(torch.stack(logits[row]), expected[row, : length - delay]), row


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_replay_equals_the_steps(batch: int, precision: Precision, backend: Backend) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, precision, backend)
    codes, labels = some_codes(prior, batch), some_labels(batch)
    for start in (1, 2, 15, 16, 17, 39):
        expected = step_through(decoder, codes, labels, start=start)
        got = step_through(decoder, codes, labels, start=start, replay=True)
        assert torch.equal(got, expected), start


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replay_leaves_other_rows_alone(backend: Backend) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, backend=backend)
    codes, labels = some_codes(prior, 4), some_labels(4)
    expected = step_through(decoder, codes, labels)
    rows = decoder.allocate(4)
    fill(decoder, rows, labels=labels, codes=codes)
    put(rows, [20, 20, 5, 5])
    decoder.prefill(rows, 0, 2)
    decoder.prefill(rows, 2, 2)
    logits = decoder.logits(rows, 4)
    assert torch.equal(logits[:2], expected[:2, 20])
    assert torch.equal(logits[2:], expected[2:, 5])


@pytest.mark.parametrize("backend", BACKENDS)
def test_interleaved_draws_equal_sequential_ones(backend: Backend) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, backend=backend)
    labels = some_labels(3)
    first, second = some_codes(prior, 3, seed=1), some_codes(prior, 3, seed=2)
    expected = [step_through(decoder, codes, labels) for codes in (first, second)]
    both = [decoder.allocate(3), decoder.allocate(3)]
    for rows, codes in zip(both, (first, second), strict=True):
        fill(decoder, rows, labels=labels, codes=codes)
    for position in range(prior.code_length):
        for rows, logits in zip(both, expected, strict=True):
            put(rows, [position] * 3)
            assert torch.equal(decoder.logits(rows, 3), logits[:, position])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_used_cache_serves_again_once_cleared(backend: Backend) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, backend=backend)
    codes, labels = some_codes(prior, 3), some_labels(3)
    expected = step_through(decoder, codes, labels)
    rows = decoder.allocate(3)
    fill(decoder, rows, labels=labels, codes=codes.flip(0))
    for position in range(prior.code_length):  # an earlier draw, of other codes
        put(rows, [position] * 3)
        decoder.logits(rows, 3)
    rows.cache.clear()
    rows.codes[:] = codes
    for position in range(prior.code_length):
        put(rows, [position] * 3)
        assert torch.equal(decoder.logits(rows, 3), expected[:, position])


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_of_a_finished_draw_serves_the_next_that_fits(backend: Backend) -> None:
    decoder = make_prior_decoder(build(), backend=backend)
    rows = decoder.allocate(3)
    decoder.release(rows)
    assert decoder.allocate(4) is not rows
    decoder.release(rows)
    decoder.release(decoder.allocate(2))
    decoder.release(decoder._new_state(2))  # the larger one is kept
    assert decoder.allocate(3) is rows
    assert decoder.allocate(3) is not rows


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_a_row(backend: Backend) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, backend=backend)
    codes, labels = some_codes(prior, 3), some_labels(3)
    expected = step_through(decoder, codes, labels)
    rows = decoder.allocate(3)
    fill(decoder, rows, labels=labels, codes=codes)
    for position in range(20):
        put(rows, [position] * 3)
        decoder.logits(rows, 3)
    rows.copy_row(2, 0)
    put(rows, [20, 20])
    assert torch.equal(decoder.logits(rows, 2), expected[[2, 1], 20])


@needs_kernel
def test_the_backends_choose_alike() -> None:
    """Rows with settings, positions and numbers of their own, two of them guided."""
    prior = build()
    choices = [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(top_p=0.6),
        SamplingParams(guidance=2.5, top_p=0.9),
        SamplingParams(guidance=0.5, temperature=1.3),
    ]
    count = len(choices) + 2
    drawn = []
    for backend in ("native", "portable"):
        decoder = make_prior_decoder(prior, backend=backend)
        rows = decoder.allocate(count)
        fill(decoder, rows, labels=some_labels(count), codes=some_codes(prior, count))
        rows.noise[:] = torch.rand(
            rows.noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        for slot, choice in enumerate(choices):
            rows.sampling_params[slot] = RowSamplingParams.of(choice)
            if choice.guidance != 1:
                shadow = slot + 2
                rows.sampling_params[shadow] = RowSamplingParams.of(choice, float(choice.guidance))
                link_rows(rows.sampling_params, [slot, shadow])
                rows.codes[shadow] = rows.codes[slot]
                decoder.set_conditions(rows, shadow, torch.tensor([prior.no_label]), None)
        put(rows, [3] * 4)
        decoder.prefill(rows, 0, 4)
        for _ in range(30):
            decoder.step(rows, count)
        assert rows.positions[:] == [33] * 4 + [30] * 4
        assert torch.equal(rows.codes[4:6, :30], rows.codes[6:8, :30])
        drawn.append(rows.codes)
    assert torch.equal(*drawn)
    assert len({tuple(codes[3:30].tolist()) for codes in drawn[0]}) == len(choices)


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
        monkeypatch.setattr(
            "anytime_ar.prior.decoders.packed_linear._has_onednn", lambda _dtype: False
        )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(257, inside, generator=generator)
    weight = torch.randn(outside, inside, generator=generator) / inside**0.5
    bias = torch.randn(outside, generator=generator)
    for gelu in (False, True):
        linear = pack_linear(weight, bias, precision, gelu=gelu)
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
        pack_linear(torch.zeros(2, 2, device="meta"), None, "int8")


@needs_kernel
def test_the_backends_agree() -> None:
    prior = build()
    codes, labels = some_codes(prior, 3), some_labels(3)
    native = step_through(make_prior_decoder(prior, backend="native"), codes, labels)
    portable = step_through(make_prior_decoder(prior, backend="portable"), codes, labels)
    torch.testing.assert_close(native, portable, atol=1e-4, rtol=1e-4)


@needs_kernel
def test_threads_share_rows_and_change_nothing() -> None:
    prior = build((1, 512, 8), 20, 40)
    decoder = make_prior_decoder(prior, backend="native")
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
def test_the_floor_leaves_the_decoder_as_it_was(backend: Backend, precision: Precision) -> None:
    prior = build()
    decoder = make_prior_decoder(prior, precision, backend)
    codes, labels = some_codes(prior, 3), some_labels(3)
    before = step_through(decoder, codes, labels)
    decoder.matmul_only(3)
    assert torch.equal(step_through(decoder, codes, labels), before)


def test_the_kernel_is_for_cpus() -> None:
    prior = build().to("meta")
    with pytest.raises(InputError, match="native cannot draw here: it is for CPUs, not meta"):
        make_prior_decoder(prior, backend="native")


def test_codes_are_sampled_on_the_decoders_device_if_it_has_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = TorchPriorDecoder(build(), "float32")
    cache = decoder._new_cache(2, decoder.device)
    monkeypatch.setattr(decoder, "_new_cache", lambda _capacity, _device: cache)
    for device, expected in (("cpu", "cpu"), ("meta", "meta"), ("mps", "cpu")):
        monkeypatch.setattr(decoder, "device", torch.device(device))
        assert decoder._new_state(2).noise.device.type == expected


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_kernel.cache_clear()
    monkeypatch.setenv("ANYTIME_KERNEL", "compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no kernel was compiled earlier
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    try:
        with pytest.raises(InputError, match=r"no C\+\+ compiler is there; install g\+\+ or clang"):
            make_prior_decoder(build(), backend="native")
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler is there"):
            assert isinstance(make_prior_decoder(build()), TorchPriorDecoder)
        with warnings.catch_warnings(action="error"):  # asked for, so nothing to warn of
            assert isinstance(make_prior_decoder(build(), backend="portable"), TorchPriorDecoder)
        broken = tmp_path / "c++"
        broken.write_text("#!/bin/sh\necho 'step.cpp:1: error: no such thing' >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda _name: str(broken))
        monkeypatch.delenv("CXX", raising=False)
        with pytest.raises(InputError, match=r"failed: step.cpp:1: error: no such thing"):
            make_prior_decoder(build(), backend="native")
        assert list((tmp_path / "anytime-ar" / "native").iterdir()) == []
    finally:
        load_kernel.cache_clear()


@needs_kernel
def test_heads_that_are_too_wide_for_the_kernel() -> None:
    prior = build((1, 144, 1), 4, 5)
    with pytest.raises(InputError, match="heads are 144 wide, over 128"):
        make_prior_decoder(prior, backend="native")
    with pytest.warns(UserWarning, match="heads are 144 wide, over 128"):
        assert isinstance(make_prior_decoder(prior), TorchPriorDecoder)


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX512_CORE"])
def test_int8_products_are_exact_without_integer_instructions(instructions: str) -> None:
    """Without VNNI, oneDNN adds pairs of products in 16 bits, which saturate."""
    script = """
import torch
from anytime_ar.prior.decoders.packed_linear import pack_linear
x = torch.full((3, 192), 1.0)
weight = torch.cat([torch.full((16, 192), 1.0), torch.full((16, 192), -1.0)])
expected = torch.tensor([192.0] * 16 + [-192.0] * 16).expand(3, -1)
torch.testing.assert_close(pack_linear(weight, None, "int8")(x), expected)
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
