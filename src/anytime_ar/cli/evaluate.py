"""Measure a model's quality and cost at every number of codes: table, curve.json and plots.

Fréchet distances need a feature extractor, by default that of `anytime train-classifier`. If there
is none yet, it is trained first, with the settings of the run or of the shipped configuration.

`torchrun --nproc-per-node 2 -m anytime_ar evaluate ...` splits the work between processes, with the
same results as one process.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path

import yaml
from jsonargparse import Namespace
from torch import Tensor

from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import check_replaceable, find_bundle, save_bundle
from anytime_ar.cli.options import (
    add_precision,
    add_run_options,
    add_sampling_params,
    is_run,
    model_data_config,
    notify,
    print_result,
    progress_bar,
    sampling_kwargs_from,
    tune_threads_from,
)
from anytime_ar.cli.parser import (
    Parser,
    config_names,
    config_path,
    literal_path,
    literal_text,
)
from anytime_ar.cli.train import Experiment
from anytime_ar.cli.train_classifier import (
    check_feature_extractor,
    default_classifier_folder,
    train_and_save_classifier,
)
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.fingerprint import DataFingerprint, data_fingerprint, format_labels
from anytime_ar.data.loading import EMBEDDED_SOURCES, local_data_path
from anytime_ar.errors import InputError, require_extras
from anytime_ar.evaluation import (
    AnyFeatureExtractor,
    FeatureExtractor,
    Metric,
    ModuleFeatureExtractor,
    TorchScriptFeatureExtractor,
    curve_table,
    estimate_duration_s,
    evaluate,
    load_feature_extractor,
    resolve_budgets,
    write_report,
)
from anytime_ar.media.sheets import write_sheets
from anytime_ar.plugins import (
    IMPORT_PATH,
    PartConfig,
    build_module,
    find_imported,
    import_module_of_user,
)
from anytime_ar.runtime.distributed import torchrun_context
from anytime_ar.runtime.files import cache_folder, check_output_path, read_text
from anytime_ar.runtime.progress import format_duration, no_progress
from anytime_ar.runtime.size_limits import check_yaml_size
from anytime_ar.sampling import AnytimeModel, SampleKwargs, load
from anytime_ar.sampling.arguments import sampling_params_from
from anytime_ar.training import torchrun_config

NUM_SHOWN = 10
"""Number of samples in the images."""


_WEIGHT_SUFFIXES = {".pt", ".pth", ".ts", ".jit"}
"""Suffixes of files, which an import path does not end with."""


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime evaluate`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument(
        "--data", "--data.name", type=literal_text, help="data set; default: the model's own"
    )
    parser.add_argument(
        "--feature-extractor",
        type=literal_path,
        help="folder of `anytime train-classifier`, default runs/features/NAME, which is trained "
        "if it is missing; a TorchScript file; or the import path of a class of torch.nn.Module",
    )
    parser.add_argument(
        "--metrics",
        type=list[str],
        default=[],
        help="import paths of functions of (original, decoded, sample rate) to a value for each "
        "sample, as [my_package.my_metric]",
    )
    parser.add_argument(
        "--label-key",
        type=literal_text,
        help="labels that the feature extractor classifies; default: those of the model",
    )
    parser.add_argument("--unordered", type=literal_text, help="model trained without truncation")
    parser.add_argument(
        "--num-samples", type=int, default=10_000, help="samples drawn for the sample FD"
    )
    parser.add_argument("--codes", type=list[int] | None, help="as [4,8,16]; default: all")
    add_sampling_params(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=literal_path, help="folder for the curve; default: the run's")
    parser.add_argument(
        "--save-curve",
        action="store_true",
        help="store the curve in the model, and the sampling parameters if any are given; "
        "default: the curve in the model of a run",
    )
    parser.add_argument("--no-save-curve", action="store_true", help="leave the model as it is")
    add_precision(parser)
    add_run_options(parser)


def _import_metric(path: str) -> Metric:
    """Return a metric by the import path of a `Metric`, or of a function that computes one."""
    if not IMPORT_PATH.fullmatch(path):
        raise InputError(f"--metrics {path}: expected an import path, such as my_package.my_metric")
    import_module_of_user(path.rpartition(".")[0])
    found = find_imported(path, "metric")
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise InputError(f"--metrics {path}: is a {type(found).__name__}; pass a function")
    try:
        signature(found).bind("original", "decoded", "rate")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"--metrics {path}: a metric takes (original, decoded, sample_rate): {error}"
        ) from error
    name = path.rpartition(".")[2]
    return Metric(name, name, 4, found)


def run(arguments: Namespace) -> None:
    """Evaluate a model, write its curve and images, and store the curve in the model."""
    if arguments.num_samples < 2:
        raise InputError(
            f"--num-samples {arguments.num_samples}: pass at least 2, for a Fréchet distance"
        )
    if arguments.save_curve and arguments.precision != "float32":
        raise InputError(
            f"a model carries the curve of its float32 draws, not those in {arguments.precision}; "
            "leave --save-curve or --precision out"
        )
    if arguments.save_curve and not Path(arguments.model).is_dir():
        raise InputError(
            f"{arguments.model!r} is not a folder of yours to save a curve in; "
            "copy the model, or leave --save-curve out"
        )
    if arguments.out is not None and (arguments.out / "manifest.json").is_file():
        raise InputError(
            f"--out {arguments.out} holds a model; leave --out away, or choose another; "
            "--save-curve puts the curve into the model"
        )
    metrics = [_import_metric(name) for name in arguments.metrics]
    path: Path | None = arguments.feature_extractor
    network = None
    is_file = path is None or path.exists() or path.suffix in _WEIGHT_SUFFIXES
    if not is_file and IMPORT_PATH.fullmatch(str(path)):
        import_module_of_user(str(path).rpartition(".")[0])
        network = build_module(PartConfig(kind=str(path)), "feature extractor")
    elif path is not None:
        check_feature_extractor(path)
    if arguments.save_curve and arguments.no_save_curve:
        raise InputError("--save-curve and --no-save-curve contradict each other; leave one out")
    folder = arguments.out or _report_folder(arguments.model)
    check_output_path(folder, is_folder=True)
    if arguments.save_curve or is_run(arguments.model):
        check_replaceable(find_bundle(arguments.model).resolve())
    require_extras("evaluation", "eval")  # before anything is trained or measured
    tune_threads_from(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    resolve_budgets(model, arguments.codes)  # before the data is read
    unordered = None
    if arguments.unordered is not None:
        unordered = load(arguments.unordered, device=arguments.device)
    experiment = None
    if path is None:
        path = default_classifier_folder(model.bundle.card.name)
        experiment = None if path.exists() else _experiment_of(arguments.model, model)
    if experiment is None and network is None:
        check_feature_extractor(path)
    elif experiment is not None:
        check_output_path(path, is_folder=True)
    data_config = model_data_config(model, arguments.model, arguments.data, arguments.label_key)
    ranges = model.bundle.card.data.channel_ranges
    data = load_data(data_config, ranges)
    if is_run(arguments.model) and not (arguments.data or arguments.label_key):
        _check_data_of_run(Path(arguments.model), data)
    if experiment is not None:
        own = _classifier_data(experiment.data, model, data)
        if own.label_names is not None:
            print(f"anytime: there is no {path} yet; training it first", file=sys.stderr)
        train_and_save_classifier(experiment, own, path, arguments.device)
    features: AnyFeatureExtractor
    if network is not None:
        features = ModuleFeatureExtractor(network, model.sample_shape, model.device)
    elif path.is_file():
        features = TorchScriptFeatureExtractor(path, model.device)
    else:
        features = load_feature_extractor(path, device=model.device).extractor
        if arguments.feature_extractor is None:
            _check_default_classifier(path, features, data, arguments.model)
    with torchrun_context() as workers, progress_bar("evaluate") as progress:
        if workers.is_rank_zero:
            seconds = estimate_duration_s(
                model,
                data,
                features,
                samples=arguments.num_samples,
                codes=arguments.codes,
                unordered=unordered,
                sampling_params=sampling_kwargs_from(arguments),
            )
            new = f"{arguments.num_samples:,} new samples and " if model.can_sample else ""
            test = "all" if data.test.size is None else f"{data.test.size:,}"
            notify(
                f"measuring {len(resolve_budgets(model, arguments.codes))} numbers of codes, with "
                f"{new}{test} test samples, takes about "
                f"{format_duration(seconds / workers.world_size)}; fewer --num-samples or --codes "
                "make it shorter"
            )
        curve = evaluate(
            model,
            data,
            features,
            samples=arguments.num_samples,
            codes=arguments.codes,
            unordered=unordered,
            seed=arguments.seed,
            sampling_params=sampling_kwargs_from(arguments),
            metrics=metrics,
            feature_cache=cache_folder() / "features",
            progress=progress if workers.rank == 0 else no_progress,
        )
    if workers.rank:
        return  # rank 0 reports the results of all
    if curve.unreliable_because is not None:
        notify(
            f"the curve was {curve.unreliable_because}, so `quality` will be a rough guess; take "
            "more test samples or a larger --num-samples"
        )
    written = write_report(curve, folder)
    budgets = [point.codes for point in curve.points]
    written += write_sheets(
        model, _codes_to_show(model, data, arguments), budgets, folder, data.sample_rate
    )
    attached = arguments.save_curve or _saves_curve_by_default(arguments, curve, model.curve)
    if attached:
        card = model.bundle.card
        sampling_params = sampling_params_from(
            sampling_kwargs_from(arguments), card.sampling_params
        )
        card = card.model_copy(update={"sampling_params": sampling_params})
        save_bundle(replace(model.bundle, card=card, curve=curve), find_bundle(arguments.model))
    print_result(
        arguments,
        f"{curve_table(curve)}\n\n{folder}: {', '.join(written)}"
        + (f"\n{arguments.model}: the model has this curve now" if attached else ""),
        **curve.model_dump(mode="json"),
    )


def _check_data_of_run(run: Path, data: DataSplits) -> None:
    """Raise InputError if data that a relative path names is not that of the training."""
    earlier = DataFingerprint.load(run / "data.json")
    changes = [] if earlier is None else data_fingerprint(data).changes_since(earlier)
    if changes:
        raise InputError(
            f"{data.config.name} is not the data that {run} was trained on; name the data with "
            "--data.name",
            changes,
        )


def _check_default_classifier(
    path: Path, extractor: FeatureExtractor, data: DataSplits, model: str
) -> None:
    """Refuse a classifier of other classes than those of the data, and warn of other samples.

    The name of a model decides where its default classifier lies, and two data sets may share it.

    Raises:
        InputError: the classes are others.
    """
    if data.label_names is None:
        return
    config = Path(model) / "config.yaml" if is_run(model) else "CONFIG"
    another = path.with_name(f"{path.name}-2")
    advice = (
        f"train one on this data with `anytime train-classifier {config} --data.name "
        f"{data.config.name} --out {another}`, and choose it with --feature-extractor {another}"
    )
    trained_on, ours = extractor.trained_on, data.label_names
    if trained_on is None:  # saved by version 0.1
        if extractor.label_count != len(ours):
            raise InputError(
                f"{path} was trained to classify {extractor.label_count} labels, and "
                f"{data.config.name} has {len(ours)}; {advice}"
            )
        return
    if trained_on.labels != ours:
        raise InputError(
            f"{path} was trained to classify {format_labels(trained_on.labels)}, and "
            f"{data.config.name} has {format_labels(ours)}; {advice}"
        )
    changes = data_fingerprint(data).changes_since(trained_on)
    if changes:
        notify(
            f"{path} was trained on other samples than {data.config.name} has now "
            f"({'; '.join(changes)}); to measure with one of these, {advice}"
        )


def _experiment_of(location: str, model: AnytimeModel) -> Experiment | None:
    """Return the configuration by which to train the feature extractor of a model.

    It is that of the run, or the shipped one of the model's name, with the data of the model. None:
    there is neither, or several processes evaluate, of which each would train.
    """
    processes = torchrun_config()
    if processes is not None and processes.devices * processes.nodes > 1:
        return None
    name = model.bundle.card.name
    if is_run(location):
        file = Path(location) / "config.yaml"
    elif name in config_names():
        file = config_path(name)
    else:
        return None
    check_yaml_size(file)
    experiment = Experiment.parse(yaml.safe_load(read_text(file)), origin=str(file))
    return experiment.model_copy(update={"data": model_data_config(model, location, None)})


def _classifier_data(own: DataConfig, model: AnytimeModel, data: DataSplits) -> DataSplits:
    """Return the data set to train a feature extractor on: the model's own, or a copy of it.

    Data of the same shape and classes are a copy if the model's own are not on this machine.

    Args:
        own: the model's own data.
        model: the model.
        data: the data that the model is evaluated on.
    """
    card = model.bundle.card.data
    is_here = own.name in EMBEDDED_SOURCES or local_data_path(own.name).exists()
    is_copy = data.sample_shape == card.sample_shape and card.labels in (None, data.label_names)
    return (
        data
        if own == data.config or (is_copy and not is_here)
        else load_data(own, card.channel_ranges)
    )


def _codes_to_show(model: AnytimeModel, data: DataSplits, arguments: Namespace) -> Tensor:
    """Return codes int64 [n, L] of the samples to show.

    They are new samples with labels in turn, or test samples for a model without a prior.
    """
    if not model.can_sample:
        return model.encode(next(data.test.batches(NUM_SHOWN)).data)
    options = SampleKwargs(seed=arguments.seed, **sampling_kwargs_from(arguments))  # type: ignore[typeddict-item]
    if model.labels is not None:
        options["label"] = [i % len(model.labels) for i in range(NUM_SHOWN)]
    return model.sample_codes(NUM_SHOWN, **options)


def _saves_curve_by_default(arguments: Namespace, curve: Curve, earlier: Curve | None) -> bool:
    """Return whether the model stores the curve by default, as the model of a run does.

    It does if data and sampling parameters are its own, unless its stored curve has more samples or
    more numbers of codes.
    """
    if not is_run(arguments.model) or arguments.no_save_curve or arguments.precision != "float32":
        return False
    if arguments.data or arguments.label_key or sampling_kwargs_from(arguments):
        return False
    return earlier is None or (
        curve.num_samples >= earlier.num_samples and len(curve.points) >= len(earlier.points)
    )


def _report_folder(model: str) -> Path:
    """Return the folder of a run, or for another model a folder named after it."""
    return Path(model) if is_run(model) else Path("runs") / Path(model).name
