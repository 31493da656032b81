"""A training run in a folder, from the data to the bundle; it can resume from any step.

config.yaml                   configuration of the run
autotune.json                 autotuned number formats and threads (see `autotune`)
data.json                     fingerprint of the data, which reveals changes
log.jsonl                     losses and validation figures
tensorboard/, wandb/          the same for these programs, if configured
checkpoints/                  checkpoints of the stages autoencoder, decoder_gan and prior
bundle/                       the model (see `anytime_ar.bundle.format`)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import yaml

from anytime_ar.autoencoder import (
    OrderedAutoencoder,
    Tokenizer,
    check_tokenizer,
    require_tokenizer,
)
from anytime_ar.bundle.card import Card, DataCard
from anytime_ar.bundle.format import (
    Bundle,
    build_bundle,
    check_savable,
    describe,
    find_bundle,
    fingerprint,
    load_bundle,
    refer,
    save_bundle,
)
from anytime_ar.codes import Vocabulary, as_vocabulary
from anytime_ar.config import Config, changed_settings
from anytime_ar.data import DataSplits, load_data
from anytime_ar.data.fingerprint import DataFingerprint, data_fingerprint, find_moved_data
from anytime_ar.data.loading import OBJECT_NAME, DataLike, load_objects
from anytime_ar.errors import InputError, require_extras
from anytime_ar.plugins import PartConfig, errors_of_user, find_class
from anytime_ar.prior import CausalPrior
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
from anytime_ar.runtime.tensors import weights_digest
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.config import SINGLE_PROCESS, DistributedConfig, TrainConfig
from anytime_ar.training.estimate import RunTimer, StageTime, describe_rest, describe_times
from anytime_ar.training.loggers import open_logger
from anytime_ar.training.precision import PrecisionAutotuner, read_autotuned_settings
from anytime_ar.training.run_log import LogCallback, RunLog
from anytime_ar.training.stages import Stage
from anytime_ar.training.stages.autoencoder import AutoencoderStage, check_batch_memory
from anytime_ar.training.stages.decoder_gan import DecoderGANStage
from anytime_ar.training.stages.prior import PriorStage, check_sequence_memory
from anytime_ar.training.trainer import Trainer

if TYPE_CHECKING:
    from anytime_ar.sampling import AnytimeModel

ConfigT = TypeVar("ConfigT", bound=TrainConfig)


def train(
    config: TrainConfig | Mapping[str, Any],
    folder: Path | str | None = None,
    *,
    data: DataLike | None = None,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = True,
    callbacks: Sequence[LogCallback] = (),
    distributed_config: DistributedConfig = SINGLE_PROCESS,
    accept_changed_data: bool = False,
) -> AnytimeModel:
    """Train an autoencoder and its prior, and write the bundle to `folder`/bundle.

    Ctrl-C or SIGTERM ends the training after the current step, with a checkpoint. A second signal
    ends it at once.

    Several processes share each batch: on this machine, on several machines, or as `torchrun`
    started them. Each runs the calling program, and all need access to the folder. The batches do
    not depend on the number of processes; losses differ by rounding and dropout only.

    Args:
        config: Configuration of the run, or its settings as nested dictionaries.
        folder: Folder of the run, which is created if it does not exist; None: keep no files.
        data: What to train on, if it is not `config.data.name`: tensors, arrays, (samples, labels),
            a `torch.utils.data.Dataset`, a Hugging Face data set, a path, or a mapping of splits;
            see `load_objects`.
        tokenizer: Tokenizer that is trained already, in place of `config.autoencoder`.
        resume: Whether to resume a run in the folder; if False, an existing run is refused.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best device of this machine.
        show_progress: Whether to show progress bars, and the time that the training is expected to
            take, on standard error.
        callbacks: Functions that are called with each line of the log, as a dictionary. Losses and
            validation figures have `stage` and `step`. An exception ends the training.
        distributed_config: Number of processes, and how they share batches and weights.
        accept_changed_data: Whether to resume although the data has changed.

    Returns:
        The trained model; `save` writes its bundle elsewhere.

    Raises:
        InputError: The data or the configuration cannot be used, the folder holds another run, or
            the data has changed since the run began.
        MissingExtraError: The extra `train` is not installed.
        TrainingError: The loss is not finite or has diverged.
    """
    from anytime_ar.sampling import AnytimeModel

    if not isinstance(config, TrainConfig | Mapping):
        raise InputError(
            f"config is a {type(config).__name__}; pass a TrainConfig, or settings as a dictionary"
        )
    if isinstance(config, Mapping):
        config = TrainConfig.parse(dict(config), origin="config")
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="anytime-run-"))
        bundle = _train_bundle(
            config,
            Path(folder),
            data=data,
            tokenizer=tokenizer,
            resume=resume,
            device=device,
            show_progress=show_progress,
            callbacks=callbacks,
            distributed_config=distributed_config,
            accept_changed_data=accept_changed_data,
        )
    return AnytimeModel(bundle, device=device)


@default_torch_modes(grad=True)
def _train_bundle(
    config: TrainConfig,
    folder: Path,
    *,
    data: DataLike | None,
    tokenizer: Tokenizer | None,
    resume: bool,
    device: str,
    show_progress: bool,
    callbacks: Sequence[LogCallback],
    distributed_config: DistributedConfig,
    accept_changed_data: bool,
) -> Bundle:
    """Train the stages of a run in its folder, and return its bundle; see `train`."""
    if tokenizer is not None:
        config = _with_tokenizer(config, tokenizer)
    reference = config.tokenizer_reference
    if reference is not None and config.tokenizer is None:
        raise InputError(
            f"tokenizer_reference is {reference!r}, and no tokenizer is given; give it too, or "
            "drop the reference"
        )
    # Before the data are loaded, so that a wrong folder is refused at once.
    config = check_run_folder(folder, config, resume=resume)
    if resume and (folder / "bundle").is_dir():
        return load_bundle(
            folder / "bundle"
        )  # training is complete; an evaluation may have added a curve
    require_extras("training", "train")
    from anytime_ar.training.fabric import launch_fabric

    fabric = launch_fabric(device, config.precision, distributed_config)
    distributed = DistributedContext()
    splits = load_data(config.data) if data is None else load_objects(data, config.data)
    if data is not None:
        config = config.model_copy(update={"data": splits.config})
    if tokenizer is None and config.tokenizer is not None:
        with seeded(config.seed, "tokenizer"):  # it may have random weights before it loads its own
            tokenizer = _load_tokenizer(config.tokenizer)
    card = build_card(config, splits, tokenizer)
    with seeded(config.seed, "weights"):
        bundle = build_bundle(card, tokenizer)
    if reference is not None:  # before training, so that a wrong one is refused at once
        bundle = refer(bundle, {"tokenizer": reference})
    check_savable(bundle)  # before hours of training
    if tokenizer is None:
        check_batch_memory(config, splits, distributed_config.nodes)
    if bundle.prior is not None:
        check_sequence_memory(config, bundle.autoencoder, distributed_config.nodes)
    _check_same_on_all_ranks(distributed, config, splits, bundle)
    distributed.run_on_rank_zero(lambda: create_run_folder(folder, config))
    changes = distributed.run_on_rank_zero(
        lambda: _check_data_unchanged(folder, config, splits, accept=accept_changed_data)
    )
    with ExitStack() as stack:
        reports = [*callbacks]
        if distributed.is_rank_zero:
            reports += [
                stack.enter_context(open_logger(name, config, folder)) for name in config.loggers
            ]
        path = folder / "log.jsonl" if distributed.is_rank_zero else None
        log = stack.enter_context(RunLog(path, show_progress=show_progress, callbacks=reports))
        for change in changes:
            log.notify(change)
        for note in splits.notes:
            log.write(data=note)
        autotuner = PrecisionAutotuner(
            folder,
            config.precision,
            fabric=fabric,
            seed=config.seed,
            distributed=distributed,
            gradient_accumulation_steps=distributed_config.gradient_accumulation_steps,
        )

        autoencoder, prior = bundle.autoencoder, bundle.prior
        times: list[StageTime] = []
        if show_progress:
            timer = RunTimer(
                config,
                folder,
                precision=autotuner.configured,
                fabric=fabric,
                distributed=distributed,
                gradient_accumulation_steps=distributed_config.gradient_accumulation_steps,
            )
            times = distributed.run_on_rank_zero(
                lambda: timer.estimate(autoencoder, prior, splits, is_trained=tokenizer is not None)
            )
        if times:
            log.notify(describe_times(times))

        def fit(stage: Stage) -> None:
            begin = time.perf_counter()
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
                autotuner.select(stage, log)
                trainer.fit()
            rest = describe_rest(times, stage.name, time.perf_counter() - begin)
            if rest is not None:
                log.notify(rest)

        if tokenizer is None:
            assert isinstance(autoencoder, OrderedAutoencoder)
            fit(AutoencoderStage(autoencoder, splits, config, distributed))
            if config.decoder_gan is not None:
                fit(DecoderGANStage(autoencoder, splits, config, distributed))
            # The next stage encodes the data in the number format of the autoencoder.
            autotuner.apply("autoencoder")
        if prior is not None:
            fit(PriorStage(prior, autoencoder, splits, config, fabric, distributed))
    distributed.run_on_rank_zero(
        lambda: save_bundle(_with_precisions(bundle, folder), folder / "bundle")
    )
    distributed.shut_down()
    return bundle


def _check_same_on_all_ranks(
    distributed: DistributedContext, config: TrainConfig, data: DataSplits, bundle: Bundle
) -> None:
    """Check that all processes train the same networks on the same data.

    Each runs the program of the user, which may make other samples or weights in each process.

    Raises:
        InputError: Settings, data or initial weights differ between processes.
    """
    if distributed.world_size == 1:
        return
    ours = {
        "settings": config.model_dump_json(),
        "data": data_fingerprint(data).model_dump_json(exclude={"path"}),
        "initial weights": fingerprint(bundle),
    }
    theirs = distributed.run_on_rank_zero(lambda: ours)
    differ = distributed.any_rank(*(ours[name] != theirs[name] for name in ours))
    if any(differ):
        names = [name for name, differs in zip(ours, differ, strict=True) if differs]
        raise distributed.same_error_on_all_ranks(
            InputError(
                f"the {' and '.join(names)} differ between the {distributed.world_size} processes, "
                "each of which runs your program; make them from a fixed seed, or read them from "
                "files"
            )
        )


def _check_data_unchanged(
    folder: Path, config: TrainConfig, data: DataSplits, *, accept: bool
) -> list[str]:
    """Return what is new about the data since the run began, if it may be, in sentences.

    The same data may have another name, such as its new path, which the run then stores.

    Raises:
        InputError: The data has changed and `accept` is False, or data.json is damaged.
    """
    path, now = folder / "data.json", data_fingerprint(data)
    earlier_name = _read_run_config(folder, type(config)).data.name
    moved = earlier_name != config.data.name
    earlier = DataFingerprint.load(path)
    changes = [] if earlier is None else now.changes_since(earlier)
    if moved and not changes and not (earlier is not None and now.has_digest):
        changes = [f"data.name was {earlier_name}, is {config.data.name}, without a digest of both"]
    if changes and not accept:
        raise InputError(
            f"{data.config.name} has changed since {folder} was begun; bring the data back, "
            "choose another folder, or train on what is there now with --accept-changed-data "
            "(accept_changed_data=True in Python)",
            changes,
        )
    if changes or earlier is None or earlier.path != now.path:
        write_json(path, now.model_dump(mode="json"))
    news = [f"the data has changed: {change}" for change in changes]
    if moved:
        _write_run_config(folder, config)
        same = "" if changes else ", which is the same by its fingerprint"
        news.append(f"the data is {config.data.name} now; it was {earlier_name}{same}")
    return news


def _with_precisions(bundle: Bundle, folder: Path) -> Bundle:
    """Return the bundle of a run, with the number format of each stage on its card."""
    training = bundle.card.training | {
        "precision_by_stage": read_autotuned_settings(folder).precision
    }
    return replace(bundle, card=bundle.card.model_copy(update={"training": training}))


def _with_tokenizer(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """Return the configuration of a run with a tokenizer that the caller passes.

    It holds a hash of the weights, so that the run is not resumed with another tokenizer, or with
    none.

    Raises:
        InputError: The configuration names a tokenizer too, or leaves nothing to train, or the
            tokenizer is faulty.
    """
    require_tokenizer(tokenizer)
    if config.tokenizer is not None:
        raise InputError(f"tokenizer is passed, and {config.tokenizer!r} configured; drop one")
    if config.decoder_gan is not None or config.prior is None:
        raise InputError(
            "tokenizer is passed, so only a prior is trained; drop decoder_gan, and give a prior"
        )
    check_tokenizer(tokenizer.eval())
    digest = weights_digest(tokenizer.inference_state())
    passed = PartConfig(kind=_PASSED, config={"sha256": digest})
    return config.model_copy(update={"tokenizer": passed})


_PASSED = "passed_from_python"
"""Kind of a tokenizer that the caller passes as an object."""


def _load_tokenizer(described: str | PartConfig) -> Tokenizer:
    """Return a tokenizer that is not trained in this run.

    Args:
        described: Name, folder or Hub ID of a model, or kind and settings of a tokenizer.

    Raises:
        InputError: There is no such model or tokenizer, or it is faulty.
    """
    if isinstance(described, str):
        return load_bundle(find_bundle(described)).autoencoder
    if described.kind == _PASSED:
        raise InputError(
            "the run was begun with a tokenizer that was passed to `train`; pass it again, with "
            "resume=True"
        )
    known = find_class(described.kind, "tokenizer", Tokenizer)
    assert issubclass(known, Tokenizer)
    with errors_of_user("tokenizer", described.kind):
        tokenizer = known.from_settings(described.config)
    check_tokenizer(tokenizer.eval())
    return tokenizer


def build_card(config: TrainConfig, data: DataSplits, tokenizer: Tokenizer | None = None) -> Card:
    """Build the card of the model that a run trains.

    Args:
        config: Configuration of the run.
        data: The data set.
        tokenizer: Tokenizer that is trained already; None: the run trains an autoencoder.

    Raises:
        InputError: The configuration does not suit the samples or their labels.
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
    if data.conditions and isinstance(config.prior, PartConfig):
        raise InputError(
            f"data.conditions has {', '.join(data.conditions)}, which the prior "
            f"{config.prior.kind} does not take; drop them, or prior.kind"
        )
    data_card = DataCard(
        name=config.data.name,
        sample_shape=data.sample_shape,
        sample_rate=data.sample_rate,
        normalize=None if data.sample_rate is None else config.data.audio.normalize,
        channel_ranges=data.channel_ranges,
        channel_names=data.channel_names,
        labels=names,
        label_frequencies=None if names is None else _label_frequencies(data, len(names)),
        conditions={} if config.prior is None else dict(data.conditions),
    )
    data_card.check_guidance(config.sampling_params)
    if tokenizer is None:
        autoencoder = config.autoencoder.resolve(data.sample_shape)
        tokenizer_card: Config = autoencoder
        code_length = autoencoder.sizes[0]
        vocabulary: Vocabulary = autoencoder.quantizer.size
    else:
        _check_samples_fit(tokenizer, data)
        tokenizer_card = describe(tokenizer)
        code_length = tokenizer.code_length
        vocabulary = as_vocabulary(tokenizer.vocabulary, code_length)
    prior = config.prior
    if isinstance(prior, PartConfig):
        known = find_class(prior.kind, "prior", CausalPrior)
        assert issubclass(known, CausalPrior)
        settings = known.complete_config(prior.config, code_length, vocabulary, len(names or ()))
        prior = prior.model_copy(update={"config": settings})
    return Card(
        name=config.name,
        data=data_card,
        autoencoder=tokenizer_card,
        prior=prior,
        sampling_params=config.sampling_params,
        weights_dtype=config.weights_dtype,
        training=config.model_dump(mode="json"),
    )


def _check_samples_fit(tokenizer: Tokenizer, data: DataSplits) -> None:
    """Check that a tokenizer takes the samples of a data set.

    Raises:
        InputError: Shape or sampling rate differ.
    """
    shape, rate = tokenizer.sample_shape, getattr(tokenizer, "sample_rate", None)
    if tuple(shape) != data.sample_shape:
        sounds = len(shape) == 2
        hint = (
            "data.audio.seconds, data.audio.sample_rate" if sounds else "data.size, data.channels"
        )
        raise InputError(
            f"the tokenizer takes samples of shape {list(shape)}, and those of {data.config.name} "
            f"have {list(data.sample_shape)}; change {hint}, or the tokenizer"
        )
    if rate is not None and rate != data.sample_rate:
        raise InputError(
            f"the tokenizer takes sounds at {rate} Hz, and those of {data.config.name} have "
            f"{data.sample_rate}; set data.audio.sample_rate to {rate}"
        )


def _label_frequencies(data: DataSplits, count: int) -> tuple[float, ...]:
    """Return the relative frequency of each class in the training split."""
    totals = torch.zeros(count, dtype=torch.int64)
    for batch in data.train.batches(4096):
        assert batch.labels is not None
        totals += batch.labels.bincount(minlength=count)
    return tuple((totals.float() / totals.sum()).tolist())


def check_run_folder(folder: Path, config: ConfigT, *, resume: bool) -> ConfigT:
    """Check that a folder can hold a run, and return the configuration of the run.

    Args:
        folder: Folder of the run, new, empty, or with a run.
        config: Configuration of the run; precision `auto` becomes that of the run in the folder,
            and `data.name` may be another. A relative one that does not exist here becomes the
            absolute path of the data.
        resume: Whether a run in the folder may be resumed.

    Raises:
        InputError: The folder holds another run, a run without `resume`, or other files.
        DataError: The data of the run is not there.
    """
    written = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the run")
    if not written.exists():
        if folder.is_dir() and list_files(folder):
            raise InputError(f"{folder} is not empty and holds no run; choose another folder")
        check_output_path(folder, is_folder=True)
        return config
    earlier = _read_run_config(folder, type(config))
    from_python = earlier.data.name == OBJECT_NAME or (
        isinstance(earlier.tokenizer, PartConfig) and earlier.tokenizer.kind == _PASSED
    )
    again = f"`anytime train --resume {folder}`"
    if from_python:
        again = "`train` with the same arguments and resume=True"
    if not resume:
        raise InputError(
            f"{folder} holds a run already; go on with it by {again}, or choose another folder"
        )
    if config.precision == "auto":
        config = config.model_copy(update={"precision": earlier.precision})
    # The data may have moved: its fingerprint is compared once it is loaded.
    same_data = config.data.model_copy(update={"name": earlier.data.name})
    compared = config.model_copy(update={"data": same_data})
    if earlier != compared:
        raise InputError(
            f"{folder} was begun with other settings; go on with those by {again}, or choose "
            "another folder",
            [
                f"{name} was {before}, is {now}"
                for name, before, now in changed_settings(earlier, compared)
            ],
        )
    if config.data.name == earlier.data.name and not (folder / "bundle").is_dir():
        config = config.model_copy(update={"data": find_moved_data(config.data, folder)})
    return config


_COMMAND_SETTINGS = {"feature_extractor", "features"}
"""Settings of runs that `anytime train` began, and their name of version 0.1."""


def _read_run_config(folder: Path, config_type: type[ConfigT]) -> ConfigT:
    """Return the configuration that a run was begun with.

    Raises:
        InputError: The file is damaged or holds no settings.
    """
    written = folder / "config.yaml"
    check_yaml_size(written)
    try:
        values = yaml.safe_load(read_text(written))
    except yaml.YAMLError as error:
        raise InputError(f"{written} is damaged; choose another folder") from error
    if not isinstance(values, dict):
        raise InputError(f"{written} holds no settings; choose another folder")
    # `anytime train` also writes settings of the evaluation, which a program does not have.
    known = {
        k: v for k, v in values.items() if k not in _COMMAND_SETTINGS - {*config_type.model_fields}
    }
    return config_type.parse(known, origin=str(written))


def _write_run_config(folder: Path, config: TrainConfig) -> None:
    """Write the configuration of a run."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_bytes(folder / "config.yaml", text.encode())


def create_run_folder(folder: Path, config: TrainConfig) -> None:
    """Create the folder of a run and write its configuration; only rank zero may call this.

    A configuration that is there stays: only its data may have another name, which is checked
    first.

    Raises:
        InputError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create {folder}: {error.strerror}; choose a folder that is writable"
        ) from error
    remove_temporary_files(folder)
    # Written first, because `check_run_folder` recognises a run by this file.
    if not (folder / "config.yaml").exists():
        _write_run_config(folder, config)
    (folder / "checkpoints").mkdir(exist_ok=True)
    remove_temporary_files(folder / "checkpoints")
