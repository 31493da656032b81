"""Benchmarks of the speed of sampling codes, against other implementations in the same run.

The cases alternate: one round runs each case once, so that a slower machine slows all of them.
Ratios are formed within rounds. The floor is the bare matrix products of the same weights for the
same rows. No implementation with these weights can be faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anytime_ar.errors import InputError, require_extras
from anytime_ar.evaluation.plots import new_figure, to_png
from anytime_ar.runtime.progress import ProgressCallback, no_progress
from anytime_ar.sampling import AnytimeModel

FLOOR_SUFFIX = "products only"
"""Suffix of the name of a floor."""


@dataclass(frozen=True)
class BenchmarkCase:
    """An implementation that draws the codes of n samples."""

    name: str
    """Name of the case in reports."""
    run: Callable[[int], object]
    """Draws all codes of n samples and returns when they are there."""


@dataclass(frozen=True)
class BenchmarkTiming:
    """The times of one case at one batch size."""

    name: str
    """Name of the case in reports."""
    batch_size: int
    """Number of samples per run."""
    seconds: tuple[float, ...]
    """Seconds of each round, in order."""

    @property
    def median_s(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)

    def to_json(self, codes: int) -> dict[str, Any]:
        """Return the results as a JSON object, with codes per second.

        Args:
            codes: number of codes per sample.
        """
        rates = sorted(self.batch_size * codes / seconds for seconds in self.seconds)
        return {
            "name": self.name,
            "batch_size": self.batch_size,
            "seconds": [round(seconds, 6) for seconds in self.seconds],
            "codes_per_s": [round(rate, 1) for rate in (rates[0], self.rate(codes), rates[-1])],
        }

    def rate(self, codes: int) -> float:
        """Return the codes per second of the median round.

        Args:
            codes: number of codes per sample.
        """
        return self.batch_size * codes / self.median_s


def time_interleaved(
    cases: Sequence[BenchmarkCase],
    batch_sizes: Sequence[int],
    *,
    rounds: int,
    min_time_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: ProgressCallback = no_progress,
) -> list[BenchmarkTiming]:
    """Time cases at every batch size, in rounds that alternate between the cases.

    A first round warms up and does not count.

    Args:
        cases: cases to time.
        batch_sizes: numbers of samples per run.
        rounds: minimum number of rounds, at least 1.
        min_time_s: minimum seconds at each batch size; more rounds run until then.
        clock: returns the time in seconds.
        progress: called after every round.

    Raises:
        InputError: `rounds` is below 1.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} times nothing; pass at least 1")
    timings = []
    for done, rows in enumerate(batch_sizes):
        seconds: dict[str, list[float]] = {case.name: [] for case in cases}
        turn, started = 0, clock()
        while turn <= rounds or clock() - started < min_time_s:
            for case in cases:
                begin = clock()
                case.run(rows)
                if turn > 0:
                    seconds[case.name].append(clock() - begin)
            turn += 1
            now = done * (rounds + 1) + min(turn, rounds + 1)
            progress(now, len(batch_sizes) * (rounds + 1), f"{rows} rows")
        timings += [BenchmarkTiming(name, rows, tuple(times)) for name, times in seconds.items()]
    return timings


def sample_codes_case(model: AnytimeModel) -> BenchmarkCase:
    """Return the case of the library's own sampling, without decoding."""
    return BenchmarkCase(_name(model), lambda n: model.sample_codes(n, seed=0))


def matmul_floor_case(model: AnytimeModel) -> BenchmarkCase:
    """Return the floor: the matrix products of sampling all codes, and nothing else."""
    return BenchmarkCase(
        f"{_name(model)} {FLOOR_SUFFIX}", lambda n: model.sampler.decoder.matmul_only(n)
    )


def _name(model: AnytimeModel) -> str:
    return f"{model.precision} {model.backend}"


def hf_generate_case(model: AnytimeModel, precision: str, attention: str) -> BenchmarkCase:
    """Return the case of `generate` of Hugging Face transformers, with its KV cache.

    The network is a Llama with the same layers, width, heads, vocabulary and length. Its three
    feed-forward matrices have as many weights as our two.

    Args:
        model: model whose prior gives the sizes.
        precision: number format of the weights, `float32` or `bfloat16`.
        attention: implementation of attention, `sdpa` or `eager`.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    require_extras("a comparison with `generate`", "bench", module="transformers")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    size = model.bundle.card.prior
    assert size is not None
    start = model.vocabulary  # one more token, as the first one
    config = transformers.LlamaConfig(
        vocab_size=model.vocabulary + 1,
        hidden_size=size.width,
        intermediate_size=round(size.width * size.mlp_ratio * 2 / 3),
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=model.code_length + 1,
        tie_word_embeddings=False,
        attn_implementation=attention,
        bos_token_id=start,
        pad_token_id=start,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llama = transformers.LlamaForCausalLM(config).eval()
    llama = llama.to(model.device, getattr(torch, precision))
    settings = transformers.GenerationConfig(
        max_new_tokens=model.code_length,
        min_new_tokens=model.code_length,
        do_sample=True,
        top_k=0,
        use_cache=True,
        pad_token_id=start,
        eos_token_id=None,
    )

    def run(n: int) -> None:
        first = torch.full((n, 1), start, device=model.device)
        with torch.random.fork_rng(), torch.inference_mode():
            drawn = llama.generate(
                first, attention_mask=torch.ones_like(first), generation_config=settings
            )
        assert drawn.shape == (n, 1 + model.code_length)
        drawn.cpu()  # synchronise with the device

    return BenchmarkCase(f"generate {precision} {attention}", run)


def prefix_case(model: AnytimeModel, codes: int) -> BenchmarkCase:
    """Return the case of sampling the first `codes` codes only."""
    return BenchmarkCase(f"{codes} codes", lambda n: model.sample_codes(n, codes=codes, seed=0))


def time_ratios(over: BenchmarkTiming, under: BenchmarkTiming) -> tuple[float, float, float]:
    """Return the least, median and greatest ratio of two cases' times, by round."""
    by_round = sorted(a / b for a, b in zip(over.seconds, under.seconds, strict=True))
    return by_round[0], statistics.median(by_round), by_round[-1]


def plot_times(timings: Sequence[BenchmarkTiming]) -> bytes:
    """Return a PNG of the time of k codes, with one plot per batch size.

    Args:
        timings: timings of `prefix_case` cases, whose names give k.
    """
    numbers = list(dict.fromkeys(timing.batch_size for timing in timings))
    figure = new_figure(5 * len(numbers), 4)
    for axes, rows in zip(figure.subplots(1, len(numbers), squeeze=False)[0], numbers, strict=True):
        here = [timing for timing in timings if timing.batch_size == rows]
        codes = [int(timing.name.split()[0]) for timing in here]
        middle = [1000 * timing.median_s for timing in here]
        spread = [
            [1000 * (timing.median_s - min(timing.seconds)) for timing in here],
            [1000 * (max(timing.seconds) - timing.median_s) for timing in here],
        ]
        axes.errorbar(codes, middle, spread, fmt="o", color="#0072B2", capsize=3)
        axes.plot([0, codes[-1]], [0, middle[-1]], "--", color="#555555", label="proportional")
        axes.set_title(f"{rows} row{'' if rows == 1 else 's'}", fontsize=13)
        axes.set_xlabel("number of codes k", fontsize=11)
        axes.set_ylabel("milliseconds", fontsize=11)
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return to_png(figure)
