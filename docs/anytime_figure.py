"""Draws docs/anytime.png: draws with deadlines, an interrupted draw, and its refinement.

    python docs/anytime_figure.py

The same ten samples in every column, one row each.
"""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from matplotlib.figure import Figure

import anytime_ar as aar
from anytime_ar.sampling import AnytimeModel, Preview

LABELS = list(range(10))


def columns(model: AnytimeModel) -> list[tuple[str, Preview]]:
    """Title and result of each column."""
    model.warm_up(len(LABELS))
    least_s = model.least_deadline_s(len(LABELS))
    whole = model.generate(len(LABELS), label=LABELS, seed=3)
    found = []
    for share in (0.0, 0.15, 0.4, 1.0):
        deadline_s = least_s + share * 1.3 * whole.elapsed_s
        result = model.generate(len(LABELS), label=LABELS, seed=3, deadline_s=deadline_s)
        found.append((f"deadline\n{1000 * deadline_s:.1f} ms\n", result))
    flag = threading.Event()
    for preview in model.stream(len(LABELS), label=LABELS, seed=3, cancel=flag):
        if preview.codes_drawn == 6:
            flag.set()
    found.append(("interrupted\n\n", preview))
    refined = preview.state.refine(codes=14)
    found.append(("refined\n\n", refined))
    found.append(("refined\nagain\n", refined.state.refine()))
    return found


def main() -> None:
    torch.set_num_threads(1)
    found = columns(aar.load("mnist", device="cpu"))
    figure = Figure(figsize=(7.6, 9.2))
    axes = figure.subplots(len(LABELS), len(found))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.9, wspace=0.04, hspace=0.04)
    for column, (title, result) in enumerate(found):
        codes = f"{result.codes_drawn} code{'' if result.codes_drawn == 1 else 's'}"
        axes[0, column].set_title(title + codes, fontsize=10)
        for row in range(len(LABELS)):
            axes[row, column].imshow(result.data[row, 0], cmap="gray", vmin=-1, vmax=1)
            axes[row, column].axis("off")
    figure.savefig(Path(__file__).with_name("anytime.png"), dpi=72)


if __name__ == "__main__":
    main()
