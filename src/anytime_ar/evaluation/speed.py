"""How fast codes are drawn, beside other ways of drawing them, in one run.

Everything that is compared takes turns: one round runs each contender once, so that a machine that
slows down slows all of them. Ratios are formed within rounds. The floor is the bare matrix products
of the same weights for the same rows: what no way of drawing with these weights can undercut.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anytime_ar.errors import InputError, MissingExtraError, install_command
from anytime_ar.evaluation.plots import to_png
from anytime_ar.evaluation.protocols import ProgressCallback, no_progress
from anytime_ar.sampling import AnytimeModel

FLOOR_SUFFIX = "products only"
"""What the name of a floor ends with."""


@dataclass(frozen=True)
class BenchmarkCase:
    """A way of drawing the codes of n samples."""

    name: str
    run: Callable[[int], object]
    """Draws all codes of n samples and returns when they are there."""


@dataclass(frozen=True)
class BenchmarkTiming:
    """What one contender took for one number of rows."""

    name: str
    batch_size: int
    seconds: tuple[float, ...]
    """One number per round."""

    @property
    def median_s(self) -> float:
        """The round in the middle."""
        return statistics.median(self.seconds)

    def to_json(self, codes: int) -> dict[str, Any]:
        """Figures by name, with codes a second from slowest to fastest round."""
        rates = sorted(self.batch_size * codes / seconds for seconds in self.seconds)
        return {
            "name": self.name,
            "rows": self.batch_size,
            "seconds": [round(seconds, 6) for seconds in self.seconds],
            "codes_per_s": [round(rate, 1) for rate in (rates[0], self.rate(codes), rates[-1])],
        }

    def rate(self, codes: int) -> float:
        """Codes a second in the middle round."""
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
    """Time contenders at every number of rows, in rounds; a first round, not counted, warms up.

    Args:
        cases: what to time.
        batch_sizes: numbers of rows.
        rounds: how often each has its turn, or more often,
        min_time_s: until so much time has passed at each number of rows.
        clock: gives seconds.
        progress: told after every round.

    Raises:
        InputError: no rounds.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} times nothing; pass at least 1")
    timings = []
    for done, rows in enumerate(batch_sizes):
        seconds: dict[str, list[float]] = {contender.name: [] for contender in cases}
        turn, started = 0, clock()
        while turn <= rounds or clock() - started < min_time_s:
            for contender in cases:
                begin = clock()
                contender.run(rows)
                if turn > 0:
                    seconds[contender.name].append(clock() - begin)
            turn += 1
            now = done * (rounds + 1) + min(turn, rounds + 1)
            progress(now, len(batch_sizes) * (rounds + 1), f"{rows} rows")
        timings += [BenchmarkTiming(name, rows, tuple(times)) for name, times in seconds.items()]
    return timings


def sample_codes_case(model: AnytimeModel) -> BenchmarkCase:
    """Drawing as the library does, without decoding."""
    return BenchmarkCase(_name(model), lambda n: model.sample_codes(n, seed=0))


def matmul_floor_case(model: AnytimeModel) -> BenchmarkCase:
    """The matrix products of a complete draw, and nothing else."""
    return BenchmarkCase(
        f"{_name(model)} {FLOOR_SUFFIX}", lambda n: model.sampler.decoder.matmul_only(n)
    )


def _name(model: AnytimeModel) -> str:
    return f"{model.precision} {model.backend}"


def hf_generate_case(model: AnytimeModel, precision: str, attention: str) -> BenchmarkCase:
    """`hf_generate_case` of Hugging Face transformers on a Llama of the same size, with its KV cache.

    The same layers, width, heads, entries and length; its three feed-forward matrices have as many
    weights as our two.

    Args:
        model: whose prior to match.
        precision: of weights, `float32` or `bfloat16`.
        attention: `sdpa` or `eager`.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"transformers is not here to compare with; install it: {install_command('bench')}"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    size = model.bundle.card.prior
    assert size is not None
    start = model.vocabulary  # one entry more, to begin with
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
        drawn.cpu()  # waits for the device

    return BenchmarkCase(f"generate {precision} {attention}", run)


def prefix_case(model: AnytimeModel, codes: int) -> BenchmarkCase:
    """Drawing that many codes instead of all."""
    return BenchmarkCase(f"{codes} codes", lambda n: model.sample_codes(n, codes=codes, seed=0))


def time_ratios(over: BenchmarkTiming, under: BenchmarkTiming) -> tuple[float, float, float]:
    """Least, middle and greatest ratio of two contenders' times, by round."""
    by_round = sorted(a / b for a, b in zip(over.seconds, under.seconds, strict=True))
    return by_round[0], statistics.median(by_round), by_round[-1]


def plot_times(timings: Sequence[BenchmarkTiming]) -> bytes:
    """PNG: time of drawing k codes (as `prefix_case` names them), one line for each number of rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = list(dict.fromkeys(timing.batch_size for timing in timings))
    figure = Figure(figsize=(5 * len(numbers), 4), layout="constrained")
    FigureCanvasAgg(figure)
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
