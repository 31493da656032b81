"""Time the sampling of codes against other implementations in the same run: `anytime bench MODEL`.

All precisions and backends, the bare matrix products of the same weights, and `generate` of Hugging
Face transformers on a Llama of the same size run interleaved. Ratios are formed within rounds. The
matrix products are the floor: no implementation with these weights can be faster. The first preview
is timed beside the one step and the one decode that it requires at least.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import progress_bar
from anytime_ar.errors import InputError, MissingExtraError, require_extras
from anytime_ar.evaluation.plots import new_figure, to_png
from anytime_ar.prior import Precision
from anytime_ar.runtime.files import write_bytes
from anytime_ar.runtime.timing import BenchmarkCase, BenchmarkTiming, time_interleaved
from anytime_ar.sampling import AnytimeModel, DecodeBatch, load

_MIN_TIMING_S = 3.0
"""Minimum time per measurement, in seconds: a few rounds of short runs are too noisy."""
_PREVIEW_ROUNDS = 100
"""Number of first previews to time for each batch size."""
FLOOR_SUFFIX = "products only"
"""Suffix of the name of a floor."""
FIRST_PREVIEW = "first preview"
"""Name of the timing of the first preview."""
STEP_AND_DECODE = "one step and one decode"
"""Name of the timing of a step and a decode."""


def run_speed(arguments: Namespace) -> tuple[dict[str, Any], str]:
    """Time a model and return the figures and the text of the report.

    Args:
        arguments: options of `anytime bench`.
    """
    models = list(_models(arguments))
    length = models[0].code_length
    baselines, missing = _baselines(models[0])
    cases = [*map(sample_codes_case, models), *map(matmul_floor_case, models), *baselines]
    with progress_bar("speed") as progress:
        timings = time_interleaved(
            cases, arguments.batch_sizes, rounds=arguments.rounds, progress=progress
        )
    steps = sorted({max(1, round(length * fifth / 5)) for fifth in range(1, 6)})
    with progress_bar("time by codes") as progress:
        by_codes = time_interleaved(
            [prefix_case(models[0], k) for k in steps],
            [n for n in arguments.batch_sizes if n in (arguments.batch_sizes[0], 64)],
            rounds=arguments.rounds,
            min_time_s=_MIN_TIMING_S,
            progress=progress,
        )
    firsts = [
        time_first_preview(models[0], n, rounds=_PREVIEW_ROUNDS) for n in arguments.batch_sizes
    ]
    if arguments.out is not None:
        plot = plot_times(by_codes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.out / "speed.png", plot)
    figures = {
        "code_length": length,
        "timings": [timing_json(timing, length) for timing in timings],
        "by_codes": [
            {"codes": timing.name, "batch_size": timing.batch_size, "seconds": timing.seconds}
            for timing in by_codes
        ],
        "first_previews": [
            {
                "batch_size": first.batch_size,
                "seconds": first.seconds,
                "step_and_decode": bare.seconds,
            }
            for first, bare in firsts
        ],
    }
    lines = [
        speed_table(timings, length),
        "",
        _time_ratio_lines(by_codes),
        *map(_first_preview_line, firsts),
    ]
    return figures, "\n".join([*lines, *missing])


def _models(arguments: Namespace) -> Iterator[AnytimeModel]:
    """Yield the model in every precision on every available backend."""
    for backend in ("native", "portable"):
        for precision in get_args(Precision):
            model = load(
                arguments.model, device=arguments.device, precision=precision, backend=backend
            )
            try:
                model.sampler  # noqa: B018  (created at first use)
            except InputError:  # no compiler, or int8 on a GPU: nothing to time
                continue
            yield model


def _baselines(model: AnytimeModel) -> tuple[list[BenchmarkCase], list[str]]:
    """Return the baselines of Hugging Face, and a line that says why there are none."""
    try:
        return [
            hf_generate_case(model, precision, attention)
            for precision in ("float32", "bfloat16")
            for attention in ("sdpa", "eager")
        ], []
    except MissingExtraError as error:
        return [], [str(error)]


def speed_table(timings: list[BenchmarkTiming], length: int) -> str:
    """Return a table of codes per second with the spread over rounds.

    Args:
        timings: timings of all cases at all batch sizes.
        length: code length, the number of codes per sample.
    """
    lines = [
        f"{'rows':>4}  {'way':<32}{'codes/s':>8}{'slowest..fastest':>18}{'floor':>7}{'generate':>9}"
    ]
    for rows in dict.fromkeys(timing.batch_size for timing in timings):
        here = [timing for timing in timings if timing.batch_size == rows]
        baselines = [timing for timing in here if timing.name.startswith("generate")]
        baseline = min(baselines, key=_median, default=None)
        for timing in here:
            slowest, middle, fastest = timing_json(timing, length)["codes_per_s"]
            share = times = ""
            if timing not in baselines and not timing.name.endswith(FLOOR_SUFFIX):
                precision = timing.name.split()[0]
                floors = [
                    t for t in here if t.name.startswith(precision) and FLOOR_SUFFIX in t.name
                ]
                share = f"{100 * time_ratios(min(floors, key=_median), timing)[1]:.0f} %"
                times = f"{time_ratios(baseline, timing)[1]:.2f}x" if baseline else ""
            spread = f"{slowest:,.0f}..{fastest:,.0f}"
            lines.append(
                f"{rows:>4}  {timing.name:<32}{middle:>8,.0f}{spread:>18}{share:>7}{times:>9}"
            )
    lines.append("floor: time of the bare matrix products, by the faster backend, as a share;")
    lines.append("generate: speed as a multiple of the fastest `generate`")
    return "\n".join(line.rstrip() for line in lines)


def _median(timing: BenchmarkTiming) -> float:
    """Return the median time of a case, in seconds."""
    return timing.median_s


def _time_ratio_lines(by_codes: list[BenchmarkTiming]) -> str:
    """Return how time grows from a fifth of the codes to all: ideally five times."""
    lines = []
    for rows in dict.fromkeys(timing.batch_size for timing in by_codes):
        few, *_, many = [timing for timing in by_codes if timing.batch_size == rows]
        least, middle, most = time_ratios(many, few)
        lines.append(
            f"{rows} rows: {many.name} take {middle:.2f} ({least:.2f}..{most:.2f}) times as long "
            f"as {few.name}"
        )
    return "\n".join(lines)


def _first_preview_line(pair: tuple[BenchmarkTiming, BenchmarkTiming]) -> str:
    """Return the time of the first preview, beside one step and one decode."""
    first, bare = pair
    rows = f"{first.batch_size} row{'' if first.batch_size == 1 else 's'}"
    times = time_ratios(first, bare)[1]
    return (
        f"{rows}: first preview after {1000 * first.median_s:.2f} ms, {times:.2f} times one step "
        "and one decode"
    )


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


def time_first_preview(
    model: AnytimeModel,
    batch_size: int,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BenchmarkTiming, BenchmarkTiming]:
    """Time the first preview of `stream`, and one step with one decode, alternating.

    Args:
        model: model to measure.
        batch_size: number of samples per call.
        rounds: number of timed rounds, at least 1; a warm-up round comes first.
        clock: returns the time in seconds.

    Returns:
        The timings of the first preview, and of the step with the decode.

    Raises:
        InputError: `rounds` is below 1.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} times nothing; pass at least 1")
    first, bare = [], []
    for seed in range(rounds + 1):
        begin = clock()
        stream = model.stream(batch_size, seed=seed)
        next(stream)
        first.append(clock() - begin)
        del stream
        plan, _ = model.plan(batch_size, seed=seed)
        batch = DecodeBatch(model.sampler.decoder, plan.num_slots)
        ids = batch.add(plan.noise, plan.labels, plan.sampling_params)
        begin = clock()
        batch.step()
        model.sampler.decode(batch.codes(ids))
        bare.append(clock() - begin)
    return BenchmarkTiming(FIRST_PREVIEW, batch_size, tuple(first[1:])), BenchmarkTiming(
        STEP_AND_DECODE, batch_size, tuple(bare[1:])
    )


def timing_json(timing: BenchmarkTiming, codes: int) -> dict[str, Any]:
    """Return a timing as a JSON object, with codes per second.

    Args:
        timing: timing of one case at one batch size.
        codes: number of codes per sample.
    """
    rates = sorted(timing.batch_size * codes / seconds for seconds in timing.seconds)
    return {
        "name": timing.name,
        "batch_size": timing.batch_size,
        "seconds": [round(seconds, 6) for seconds in timing.seconds],
        "codes_per_s": [round(rate, 1) for rate in (rates[0], timing.rate(codes), rates[-1])],
    }


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
