"""A whole run in a folder: data, all stages, and the bundle at the end; resumable at any moment.

config.yaml                       everything that the run is made of
autotune.json                     measured choices: precision by stage, threads (see `autotune`)
data.json                         what tells its data from data that has changed
log.jsonl                         losses and validation figures
checkpoints/                      of the stages autoencoder, decoder_gan, prior
bundle/                           the model (see `anytime_ar.bundle.format`)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from pydantic import ValidationError

from anytime_ar.bundle.card import Card, DataCard
from anytime_ar.bundle.format import Bundle, build_bundle, load_bundle, save_bundle
from anytime_ar.config import format_validation_error as describe_mistakes
from anytime_ar.data import DataSplits, load_data
from anytime_ar.data.fingerprint import DataFingerprint, data_fingerprint
from anytime_ar.errors import InputError
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.files import (
    check_output_path,
    list_files,
    read_text,
    remove_temporary_files,
    write_bytes,
    write_json,
)
from anytime_ar.runtime.seeding import seeded
from anytime_ar.runtime.size_limits import check_yaml_size
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.training.autotune import PrecisionAutotuner, read_autotuned_settings
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.config import TrainConfig
from anytime_ar.training.launcher import SINGLE_PROCESS, DistributedConfig, launch_fabric
from anytime_ar.training.run_log import RunLog
from anytime_ar.training.stages.autoencoder import AutoencoderStage
from anytime_ar.training.stages.base import Stage
from anytime_ar.training.stages.decoder_gan import DecoderGANStage
from anytime_ar.training.stages.prior import PriorStage
from anytime_ar.training.trainer import Trainer

ConfigT = TypeVar("ConfigT", bound=TrainConfig)


@default_torch_modes(grad=True)
def train(
    config: TrainConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = True,
    data: DataSplits | None = None,
    distributed_config: DistributedConfig = SINGLE_PROCESS,
    accept_changed_data: bool = False,
) -> Bundle:
    """Train an autoencoder and its prior, and write the bundle to `folder`/bundle.

    Ctrl-C and SIGTERM end it after the current step with a checkpoint, a second one at once.

    Several processes share each batch, here, on several machines, or as `torchrun` started them:
    each runs the calling program, and the folder has to be in reach of all. However many there are,
    they learn from the same batches, and losses agree but for rounding and dropout.

    Args:
        config: the run.
        folder: where it lives; created.
        resume: go on with the run that is there, if one is; without it, an existing run is refused.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
        show_progress: draw progress bars on standard error.
        data: the data set of `config.data`, if it is loaded already.
        distributed_config: how many there are, and what each does at once.
        accept_changed_data: go on with data that is not what the run was begun with.

    Raises:
        InputError: the data or the configuration cannot be used, the folder holds another run, or
            the data has changed since.
        TrainingError: the loss is not finite or has diverged.
    """
    folder = Path(folder)
    # Before the data: a wrong folder costs no wait.
    config = check_run_folder(folder, config, resume=resume)
    if resume and (folder / "bundle").is_dir():
        return load_bundle(folder / "bundle")  # all done, and perhaps evaluated since
    fabric = launch_fabric(device, config.precision, distributed_config)
    distributed = DistributedContext()
    data = data or load_data(config.data)
    card = build_card(config, data)
    with seeded(config.seed, "weights"):
        bundle = build_bundle(card)
    distributed.run_on_rank_zero(lambda: create_run_folder(folder, config))
    changes: list[str] = []
    distributed.run_on_rank_zero(
        lambda: changes.extend(_check_data_unchanged(folder, data, accept=accept_changed_data))
    )
    with RunLog(
        folder / "log.jsonl" if distributed.is_rank_zero else None, show_progress=show_progress
    ) as log:
        for change in changes:
            log.notify(f"the data has changed: {change}")
        for note in data.notes:
            log.write(data=note)
        decider = PrecisionAutotuner(
            folder,
            config.precision,
            fabric=fabric,
            seed=config.seed,
            distributed=distributed,
            gradient_accumulation_steps=distributed_config.gradient_accumulation_steps,
        )

        def fit(stage: Stage) -> None:
            trainer = Trainer(
                stage,
                fabric=fabric,
                seed=config.seed,
                checkpoints=CheckpointManager(folder / "checkpoints", stage.name),
                checkpoint_every_s=60 * config.checkpoint_every_minutes,
                log_every=config.log_every,
                log=log,
                distributed=distributed,
                gradient_accumulation_steps=distributed_config.gradient_accumulation_steps,
            )
            with distributed.report_peer_exit():
                decider.select(stage, log)
                trainer.fit()

        fit(AutoencoderStage(bundle.autoencoder, data, config, distributed))
        if config.decoder_gan is not None:
            fit(DecoderGANStage(bundle.autoencoder, data, config, distributed))
        if bundle.prior is not None:
            # It encodes its codes as the autoencoder was trained.
            decider.apply("autoencoder")
            fit(PriorStage(bundle.prior, bundle.autoencoder, data, config, fabric, distributed))
    distributed.run_on_rank_zero(
        lambda: save_bundle(_with_precisions(bundle, folder), folder / "bundle")
    )
    distributed.shut_down()
    return bundle


def _check_data_unchanged(folder: Path, data: DataSplits, *, accept: bool) -> list[str]:
    """Compare the data of a run with that it was begun with; return changes that are accepted."""
    path, now = folder / "data.json", data_fingerprint(data)
    changes: list[str] = []
    if path.exists():
        try:
            earlier = DataFingerprint.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path} is damaged ({describe_mistakes(error)}); remove it if the data is as it "
                "was"
            ) from error
        changes = now.changes_since(earlier)
        if changes and not accept:
            raise InputError(
                f"{data.config.name} has changed since {folder} was begun; bring the data back, "
                "choose another folder, or train on what is there now with --accept-changed-data",
                changes,
            )
    if changes or not path.exists():
        write_json(path, now.model_dump(mode="json"))
    return changes


def _with_precisions(bundle: Bundle, folder: Path) -> Bundle:
    """Return the bundle of a run, with the number formats of its training on the card."""
    training = bundle.card.training | {
        "precision_by_stage": read_autotuned_settings(folder).precision
    }
    return replace(bundle, card=bundle.card.model_copy(update={"training": training}))


def build_card(config: TrainConfig, data: DataSplits) -> Card:
    """The card of the model that a run will make.

    Raises:
        InputError: the samples do not fit the networks.
    """
    weight = config.autoencoder_training.stft_loss_weight
    if weight and data.sample_rate is None:
        raise InputError(
            f"autoencoder_training.stft_loss_weight is {weight}, and the samples of "
            f"{config.data.name} are no sounds; drop it"
        )
    if config.decoder_gan is not None and len(data.sample_shape) != 3:
        raise InputError(
            f"decoder_gan is for images, and the samples of {config.data.name} are none; drop it"
        )
    names = data.label_names if config.conditional else None
    if config.sampling_params.guided and names is None:
        raise InputError(
            f"sampling_params.guidance is {config.sampling_params.guidance}, and the model will "
            "have no labels; drop "
            "it, or train with labels"
        )
    autoencoder = config.autoencoder.resolve(data.sample_shape)
    return Card(
        name=config.name,
        data=DataCard(
            name=config.data.name,
            sample_shape=data.sample_shape,
            sample_rate=data.sample_rate,
            normalize=None if data.sample_rate is None else config.data.audio.normalize,
            labels=names,
            label_frequencies=None if names is None else _label_frequencies(data, len(names)),
        ),
        autoencoder=autoencoder,
        prior=config.prior,
        sampling_params=config.sampling_params,
        weights_dtype=config.weights_dtype,
        training=config.model_dump(mode="json"),
    )


def _label_frequencies(data: DataSplits, count: int) -> tuple[float, ...]:
    """Share of each class in the training split."""
    totals = torch.zeros(count, dtype=torch.int64)
    for batch in data.train.batches(4096):
        assert batch.labels is not None
        totals += batch.labels.bincount(minlength=count)
    return tuple((totals.float() / totals.sum()).tolist())


def check_run_folder(folder: Path, config: ConfigT, *, resume: bool) -> ConfigT:
    """Check that a run may live in a folder, and return its configuration: a number format that is
    left open is as the run there has begun.

    Raises:
        InputError: it holds another run, or one that is not to be resumed, or something else.
    """
    written = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the run")
    if not written.exists():
        if folder.is_dir() and list_files(folder):
            raise InputError(f"{folder} is not empty and holds no run; choose another folder")
        check_output_path(folder, is_folder=True)
        return config
    if not resume:
        raise InputError(
            f"{folder} holds a run already; go on with it by `anytime train --resume {folder}`, or "
            "choose another folder"
        )
    check_yaml_size(written)
    try:
        values = yaml.safe_load(read_text(written))
    except yaml.YAMLError as error:
        raise InputError(f"{written} is damaged; choose another folder") from error
    if not isinstance(values, dict):
        raise InputError(f"{written} holds no settings; choose another folder")
    earlier = type(config).parse(values, origin=str(written))
    if config.precision == "auto":
        config = config.model_copy(update={"precision": earlier.precision})
    if earlier != config:
        raise InputError(
            f"{folder} was begun with other settings; go on with those by `anytime train --resume "
            f"{folder}`, or choose another folder",
            _changed_settings(earlier, config),
        )
    return config


def _changed_settings(earlier: TrainConfig, config: TrainConfig) -> list[str]:
    """`data.size was 28, is 32` for every setting that changed."""

    def flat(values: object, prefix: str = "") -> dict[str, object]:
        if not isinstance(values, dict):
            return {prefix: values}
        return {
            key: leaf
            for name, value in values.items()
            for key, leaf in flat(value, f"{prefix}.{name}" if prefix else name).items()
        }

    before, now = flat(earlier.model_dump()), flat(config.model_dump())
    return [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]


def create_run_folder(folder: Path, config: TrainConfig) -> None:
    """Make a folder that of a run, by its first process and before anything is written.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create {folder}: {error.strerror}; choose a folder that is writable"
        ) from error
    remove_temporary_files(folder)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    # First of all: it is what tells a run from a foreign folder.
    write_bytes(folder / "config.yaml", text.encode())
    (folder / "checkpoints").mkdir(exist_ok=True)
    remove_temporary_files(folder / "checkpoints")
