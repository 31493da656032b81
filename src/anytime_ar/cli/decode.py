"""Turn codes, or any prefix of them, into pictures: from a codes file, or from numbers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor

from anytime_ar.cli.options import add_device, add_json, show
from anytime_ar.cli.parser import Parser
from anytime_ar.codes import load_codes
from anytime_ar.data import image_grid, write_image
from anytime_ar.errors import InputError
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("source", nargs="+", help="a codes file (.npz), or codes as numbers")
    parser.add_argument("--codes", type=int | None, help="keep only so many of each row's codes")
    parser.add_argument("--out", type=Path, default=Path("decoded.png"), help="picture to write")
    parser.add_argument("--columns", type=int | None, help="pictures in a row; default: a square")
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    codes = _read(arguments.source)  # [B, k]
    if arguments.codes is not None:
        if not 1 <= arguments.codes <= codes.shape[1]:
            raise InputError(
                f"--codes {arguments.codes} is outside 1..{codes.shape[1]}, the codes given"
            )
        codes = codes[:, : arguments.codes]
    model = load(arguments.model, device=arguments.device)
    pictures = model.decode(codes).cpu()
    columns = arguments.columns or math.ceil(math.sqrt(len(pictures)))
    write_image(arguments.out, image_grid(pictures, columns))
    kept = codes.shape[1]
    show(
        arguments,
        f"{arguments.out}: {len(pictures)} pictures from {kept} of {model.code_length} codes",
        out=str(arguments.out),
        pictures=len(pictures),
        codes=kept,
        code_length=model.code_length,
    )


def _read(source: list[str]) -> Tensor:
    """Codes int64 [B, k] of a file, or of one row of numbers."""
    numbers = " ".join(source).replace(",", " ").split()
    if all(number.lstrip("-").isdigit() for number in numbers):
        return torch.tensor([[int(number) for number in numbers]])
    if len(source) > 1:
        raise InputError(f"expected one codes file or numbers only, got {' '.join(source)!r}")
    return load_codes(source[0]).codes
