"""Train an ordered autoencoder and its prior; the model ends up in OUT/bundle.

With `--devices 2` two processes share each batch, and the run is the same but for rounding; so does
`torchrun --nproc-per-node 2 -m anytime_ar train ...`. With `--strategy fsdp` each holds a share of
the weights. `--engine ray --workers 2` has workers of Ray do it, on the cluster of RAY_ADDRESS or
here, which start again and go on from the last checkpoint if one dies.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.experiment import Experiment
from anytime_ar.cli.options import add_device
from anytime_ar.cli.parser import Parser, read_config
from anytime_ar.errors import InputError
from anytime_ar.training import Processes, Workers, is_first_process, train, train_on_ray


def add_arguments(parser: Parser) -> None:
    parser.add_config(Experiment)
    parser.add_argument("--out", type=Path | None, help="folder of the run; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    add_device(parser)
    parser.add_class_arguments(Processes, as_group=False)
    parser.add_argument("--engine", choices=["ray"], help="what runs processes; default: we do")
    parser.add_class_arguments(Workers, as_group=False)


def run(arguments: Namespace) -> None:
    config = read_config(Experiment, arguments)
    folder = arguments.out or Path("runs") / config.name
    processes, workers = read_config(Processes, arguments), read_config(Workers, arguments)
    options = {"resume": arguments.resume, "device": arguments.device, "processes": processes}
    if arguments.engine == "ray":
        train_on_ray(config, folder, workers=workers, **options)
    elif workers != Workers():
        raise InputError(
            "workers, threads and max_failures are settings of engine ray; leave them out, or pass "
            "--engine ray"
        )
    else:
        train(config, folder, **options)
    if is_first_process():
        print(f"{folder / 'bundle'}: trained; judge it with `anytime evaluate {folder}`")
