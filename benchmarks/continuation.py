"""Measure sounds that are continued: joints, drift, and time.

    python benchmarks/continuation.py fsdd --feature-extractor path/to/features

A sound of many windows is drawn for each class. The table shows, for windows in thirds of the
sound, how often a classifier reads the class, and the level. `joints` is how much samples jump
within 4 samples of where a cross-fade begins or ends, relative to everywhere else; `no fade` is the
same where windows are put one after the other. `real time` is the time of drawing by the length of
the sound, on one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

import anytime_ar as aar
from anytime_ar.evaluation.feature_extractor import load_feature_extractor
from anytime_ar.kernel.instruction_sets import cpu_name
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling.continuation import long_codes, windows_of

NEAR = 4
"""Number of samples on either side of a border."""


@torch.no_grad()
def main() -> None:
    """Draw the sounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--feature-extractor", type=Path, help="classifier of the model's labels")
    parser.add_argument("--windows", type=int, default=21)
    parser.add_argument("--per-class", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/continuation.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = aar.load(options.model, device="cpu")
    assert model.sample_rate is not None
    assert model.labels is not None
    windows, shared = windows_of(model, None)
    samples = windows.overlap + options.windows * windows.hop
    labels = [i for i in range(len(model.labels)) for _ in range(options.per_class)]
    settings = {"seed": 0, "label": labels}
    begin = time.perf_counter()
    seconds = samples / model.sample_rate
    sounds = model.sample_long(seconds, len(labels), **settings)
    several = (time.perf_counter() - begin) / seconds
    begin = time.perf_counter()
    model.sample_long(seconds, 1, seed=0, label=labels[0])
    alone = (time.perf_counter() - begin) / seconds
    codes = [*long_codes(model, len(labels), options.windows, shared, settings)]
    found = {
        "model": options.model,
        "processor": cpu_name(),
        "seconds": seconds,
        "sounds": len(labels),
        "real_time_alone": alone,
        "real_time_together": several,
        "joints": jumps(sounds, windows.hop, windows.overlap),
        "joints_no_fade": jumps(_end_to_end(model, codes, windows.hop), windows.hop, 0),
    }
    by_window = torch.stack([model.decode(one) for one in codes])  # [windows, n, C, T]
    thirds = torch.arange(options.windows) * 3 // options.windows
    levels = by_window.square().mean((2, 3)).sqrt()
    found["level"] = [float(levels[thirds == third].mean()) for third in range(3)]
    if options.feature_extractor:
        network = load_feature_extractor(options.feature_extractor).extractor
        read = torch.stack([network.logits(one).argmax(1) for one in by_window])  # [windows, n]
        hits = (read == torch.tensor(labels)).float()
        found["accuracy"] = [float(hits[thirds == third].mean()) for third in range(3)]
        found["accuracy_first"] = float(hits[0].mean())
    for name, value in found.items():
        print(f"{name}: {value}")
    write_json(options.out, found)


def jumps(sounds: Tensor, hop: int, overlap: int) -> float:
    """Return how much samples jump near the ends of cross-fades, relative to everywhere else.

    Args:
        sounds: float32 [n, C, samples].
        hop: samples from a window to the next.
        overlap: samples of a cross-fade.
    """
    steps = sounds.diff(dim=2).square().mean((0, 1))
    near = torch.zeros_like(steps, dtype=torch.bool)
    for start in range(hop, len(steps), hop):
        for border in {start, start + overlap}:
            near[max(0, border - NEAR) : border + NEAR] = True
    return float((steps[near].mean() / steps[~near].mean()).sqrt())


def _end_to_end(model: aar.AnytimeModel, codes: list[Tensor], hop: int) -> Tensor:
    """Return windows that are drawn, put one after the other without what they share."""
    return torch.cat([model.decode(one)[..., -hop:] for one in codes], dim=2)


if __name__ == "__main__":
    main()
