"""Train an ordered autoencoder and its prior; the model ends up in OUT/bundle.

With `--devices 2` two processes share each batch, and the run is the same but for rounding; so does
`torchrun --nproc-per-node 2 -m anytime_ar train ...`.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.experiment import Experiment
from anytime_ar.cli.options import add_device
from anytime_ar.cli.parser import Parser, read_config
from anytime_ar.training import Processes, is_first_process, train


def add_arguments(parser: Parser) -> None:
    parser.add_config(Experiment)
    parser.add_argument("--out", type=Path | None, help="folder of the run; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    add_device(parser)
    parser.add_class_arguments(Processes, as_group=False)


def run(arguments: Namespace) -> None:
    config = read_config(Experiment, arguments)
    folder = arguments.out or Path("runs") / config.name
    train(
        config,
        folder,
        resume=arguments.resume,
        device=arguments.device,
        processes=read_config(Processes, arguments),
    )
    if is_first_process():
        print(f"{folder / 'bundle'}: trained; judge it with `anytime evaluate {folder}`")
