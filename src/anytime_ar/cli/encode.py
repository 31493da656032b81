"""Turn pictures into codes, coarse to fine: printed, or written to a file."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import add_device, add_json, show
from anytime_ar.cli.parser import Parser
from anytime_ar.codes import save_codes
from anytime_ar.data import read_image
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("pictures", nargs="+", type=Path, help="image files")
    parser.add_argument("-o", "--out", type=Path | None, help="codes file (.npz) to write")
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    model = load(arguments.model, device=arguments.device)
    channels, side, _ = model.sample_shape
    pictures = [
        read_image(path, channels=1 if channels == 1 else 3, size=side)
        for path in arguments.pictures
    ]
    codes = model.encode(torch.cat(pictures)).cpu()
    if arguments.out is not None:
        save_codes(
            arguments.out,
            codes,
            model=str(arguments.model),
            length=model.code_length,
            vocabulary=model.vocabulary,
        )
    rows = codes.tolist()
    show(arguments, "\n".join(" ".join(map(str, row)) for row in rows), codes=rows)
