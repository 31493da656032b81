"""Train an ordered autoencoder and its prior; the model ends up in OUT/bundle."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.experiment import Experiment
from anytime_ar.cli.options import add_device
from anytime_ar.cli.parser import Parser, read_config
from anytime_ar.training import train


def add_arguments(parser: Parser) -> None:
    parser.add_config(Experiment)
    parser.add_argument("--out", type=Path | None, help="folder of the run; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    add_device(parser)


def run(arguments: Namespace) -> None:
    config = read_config(Experiment, arguments)
    folder = arguments.out or Path("runs") / config.name
    train(config, folder, resume=arguments.resume, device=arguments.device)
    print(f"{folder / 'bundle'}: trained; judge it with `anytime evaluate {folder}`")
