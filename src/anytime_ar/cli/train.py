"""Train an ordered autoencoder and its prior, and write the model to OUT/bundle.

With `--devices 2` two processes share each batch; the result differs only by rounding. `torchrun
--nproc-per-node 2 -m anytime_ar train ...` does the same. With `--strategy fsdp` each process holds
a shard of the weights. `--engine ray --workers 2` trains on Ray workers, on the cluster of
RAY_ADDRESS or here. If a worker dies, they restart from the last checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jsonargparse import Namespace

from anytime_ar.cli.console import is_rank_zero_process
from anytime_ar.cli.options import add_device, add_threads, tune_threads_from
from anytime_ar.cli.parser import Parser, literal_path, read_config
from anytime_ar.data import check_data_path
from anytime_ar.errors import InputError
from anytime_ar.evaluation import FeatureExtractorConfig
from anytime_ar.runtime.signals import Terminated, raise_on_term
from anytime_ar.runtime.threads import available_cpus, check_threads, omp_num_threads, set_threads
from anytime_ar.training import (
    DistributedConfig,
    RayTrainConfig,
    TrainConfig,
    read_autotuned_settings,
    torchrun_config,
    train,
    train_on_ray,
)
from anytime_ar.training.run import check_run_folder


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime train`."""
    parser.add_config(Experiment)
    parser.add_argument("--out", type=literal_path, help="folder of the run; default runs/NAME")
    parser.argument_hook = _expand_resume
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run, whose settings need not be repeated: --resume runs/x",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="go on with data that has changed since the run was begun",
    )
    add_threads(parser, "the processors that may be used; of engine ray, 1 for each worker")
    add_device(parser)
    parser.add_class_arguments(DistributedConfig, as_group=False)
    parser.add_argument("--engine", choices=["ray"], help="what runs processes; default: we do")
    parser.add_class_arguments(RayTrainConfig, as_group=False, skip={"threads"})


def _expand_resume(arguments: list[str]) -> list[str]:
    """Replace `--resume runs/x` by the configuration and the folder of that run.

    Other settings stay, and `train` compares them with those of the run.
    """
    for at, argument in enumerate(arguments):
        option, _, run = argument.partition("=")
        rest = arguments[at + 1 :]
        if arguments == ["--resume"]:
            raise InputError("--resume: name the run, as in anytime train --resume runs/mnist")
        if option != "--resume" or not (run or rest) or (not run and rest[0].startswith("-")):
            continue
        folder = Path(run or rest.pop(0))
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"--resume {folder}: no run is there (no config.yaml in this folder); pass the "
                "folder of a run, as runs/mnist"
            )
        # First, so that later options override the configuration and are compared with the run.
        config = ["--config", str(folder / "config.yaml")]
        return [*config, *arguments[:at], "--resume", "--out", str(folder), *rest]
    return arguments


def run(arguments: Namespace) -> None:
    """Train a model in one process, in several, or on Ray."""
    config = read_config(Experiment, arguments)
    folder = arguments.out or Path("runs") / config.name
    try:
        with raise_on_term():
            _train(config, folder, arguments)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_go_on(str(error) or "interrupted", folder)) from error
    except Terminated as error:
        raise Terminated(_go_on(error.message, folder)) from error
    if is_rank_zero_process():
        print(f"{folder / 'bundle'}: trained; judge it with `anytime evaluate {folder}`")


def _go_on(message: str, folder: Path) -> str:
    """Return a message with how to go on with a run that was interrupted."""
    begun = (folder / "config.yaml").is_file()
    how = f"continue with `anytime train --resume {folder}`" if begun else "nothing was written"
    return f"{message}; {how}"


def _train(config: Experiment, folder: Path, arguments: Namespace) -> None:
    """Train the model of a configuration with the options of the command."""
    processes = read_config(DistributedConfig, arguments)
    workers = RayTrainConfig(workers=arguments.workers, max_failures=arguments.max_failures)
    options = {
        "resume": arguments.resume,
        "device": arguments.device,
        "distributed_config": processes,
        "accept_changed_data": arguments.accept_changed_data,
    }
    if arguments.engine == "ray":
        threads = 1 if arguments.threads is None else check_threads(arguments.threads)
        workers = workers.model_copy(update={"threads": threads})
        train_on_ray(config, folder, workers=workers, **options)
    elif workers != RayTrainConfig():
        raise InputError(
            "workers and max_failures are settings of engine ray; leave them out, or pass "
            "--engine ray"
        )
    else:
        config = check_run_folder(folder, config, resume=arguments.resume)
        if not (arguments.resume and (folder / "bundle").is_dir()):
            check_data_path(config.data)  # before threads are timed
        _set_training_threads(arguments, folder, processes)
        train(config, folder, **options)


def _set_training_threads(arguments: Namespace, folder: Path, processes: DistributedConfig) -> None:
    """Set the number of threads for training.

    A resumed run uses as many as it began with, because other numbers change results by rounding.
    """
    here = (torchrun_config() or processes).devices
    begun = read_autotuned_settings(folder).threads if arguments.resume else None
    explicit = arguments.threads is not None or omp_num_threads() is not None
    if begun is not None and not explicit and begun <= max(1, available_cpus() // here):
        set_threads(begun)
    else:
        tune_threads_from(arguments, processes=here)
    if here > 1:  # for child processes, which would divide the threads again
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


class Experiment(TrainConfig):
    """The configuration of a training run and of the classifier that evaluates its samples."""

    feature_extractor: FeatureExtractorConfig = FeatureExtractorConfig()
    """Classifier whose features define the Fréchet distance."""
