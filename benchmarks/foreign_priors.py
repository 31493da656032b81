"""Compare the decode loop with the bare model of transformers, for priors that are not ours.

    python benchmarks/foreign_priors.py --out runs/foreign_priors.json

The bare step is a forward pass of one token with a cache of transformers, and takes the most likely
token. Ours also maps codes to tokens, keeps a position for each row, and samples. They take turns
at each step; a round draws all codes of a batch, and gives one ratio. Times are processor time,
which other processes disturb less.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    Cache,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
)

from anytime_ar.kernel.instruction_sets import cpu_name
from anytime_ar.prior import DecodeState
from anytime_ar.prior.decoders.causal import CausalPriorDecoder
from anytime_ar.prior.huggingface import HuggingFacePrior
from anytime_ar.prior.sampling_params import RowSamplingParams, SamplingParams
from anytime_ar.runtime.files import write_json

LENGTH, VOCABULARY = 64, 256
SIZES = ((4, 192), (6, 512))
"""Layers and width."""


def main() -> None:
    """Measure each model and batch size, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/foreign_priors.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for layers, width in SIZES:
        for model in (_llama(layers, width), _gpt2(layers, width)):
            prior = HuggingFacePrior(model, LENGTH, VOCABULARY)
            for batch in options.batches:
                one = {"model": type(model).__name__, "layers": layers, "width": width}
                found.append(one | measure(prior, batch, options.rounds))
                print(_line(found[-1]), flush=True)
    machine = {
        "processor": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    write_json(options.out, {"machine": machine, "code_length": LENGTH, "results": found})


@torch.no_grad()
def measure(prior: HuggingFacePrior, batch: int, rounds: int) -> dict[str, Any]:
    """Time the loops by turns, in milliseconds a step; ratios are ours to the bare model's.

    Args:
        prior: prior of which the model is run alone as well.
        batch: number of rows.
        rounds: number of timed draws of each; a first one is left out.
    """
    decoder = CausalPriorDecoder(prior)
    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        gc.collect()
        state = _new_state(decoder, batch)
        config = prior.model.config
        steps: dict[str, Callable[[], object]] = {
            "ours": partial(decoder.step, state, batch),
            "dynamic": _bare_step(prior, DynamicCache(config=config), batch),
            "static": _bare_step(prior, StaticCache(config=config, max_cache_len=LENGTH), batch),
        }
        seconds = dict.fromkeys(steps, 0.0)
        for _ in range(LENGTH):
            for name, step in steps.items():
                begin = time.process_time()
                step()
                seconds[name] += time.process_time() - begin
        decoder.release(state)
        for name, spent in seconds.items():
            times.setdefault(name, []).append(1000 * spent / LENGTH)
    times = {name: values[1:] for name, values in times.items()}
    result: dict[str, Any] = {"batch": batch, "rounds": rounds}
    for name, values in times.items():
        result[f"{name}_ms"] = statistics.median(values)
    for cache in ("dynamic", "static"):
        ratios = [ours / bare for ours, bare in zip(times["ours"], times[cache], strict=True)]
        lower, median, upper = statistics.quantiles(ratios, n=4)
        result[f"ratio_{cache}"] = median
        result[f"ratio_{cache}_quartiles"] = [lower, upper]
    return result


def _new_state(decoder: CausalPriorDecoder, batch: int) -> DecodeState[Any]:
    """Return the state of a batch without codes."""
    state = decoder.allocate(batch)
    state.noise.uniform_()
    for slot in range(batch):
        state.positions[slot] = 0
        state.sampling_params[slot] = RowSamplingParams.of(SamplingParams())
    return state


def _bare_step(prior: HuggingFacePrior, cache: Cache, batch: int) -> Callable[[], object]:
    """Return a function that runs the model alone for one token, and takes the next one."""
    tokens = torch.full((batch, 1), VOCABULARY)

    def step() -> None:
        out = prior.model(input_ids=tokens, use_cache=True, **{prior.cache_argument: cache})
        tokens.copy_(out.logits[:, -1].argmax(-1, keepdim=True))

    return step


def _llama(layers: int, width: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=LENGTH,
    )
    return LlamaForCausalLM(config)


def _gpt2(layers: int, width: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY + 1,
        n_embd=width,
        n_layer=layers,
        n_head=width // 32,
        n_positions=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def _line(one: dict[str, Any]) -> str:
    """Return the line of a model and batch size."""
    ratios = ", ".join(
        "{:.3f} ({:.3f} to {:.3f}) {}".format(
            one[f"ratio_{cache}"], *one[f"ratio_{cache}_quartiles"], cache
        )
        for cache in ("dynamic", "static")
    )
    size = f"{one['model']} {one['layers']}x{one['width']}, batch {one['batch']}"
    return f"{size}: {one['ours_ms']:.2f} ms a step; ratio to the cache: {ratios}"


if __name__ == "__main__":
    main()
