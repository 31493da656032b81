"""Train the classifier whose features define the Fréchet distance of `anytime evaluate`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_run_options,
    print_result,
    progress_bar,
    tune_threads_from,
)
from anytime_ar.cli.parser import Parser, literal_path, read_config
from anytime_ar.cli.train import Experiment
from anytime_ar.data import DataSplits, load_data
from anytime_ar.data.fingerprint import data_fingerprint
from anytime_ar.errors import BundleError, InputError
from anytime_ar.evaluation import (
    TrainedFeatureExtractor,
    classifier_accuracy,
    load_feature_extractor,
    save_feature_extractor,
    train_feature_extractor,
)
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.files import check_output_path


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime train-classifier`."""
    parser.add_config(Experiment)
    parser.add_argument("--out", type=literal_path, help="folder; default runs/features/NAME")
    add_run_options(parser)


def run(arguments: Namespace) -> None:
    """Train the classifier of a configuration and print its accuracy."""
    experiment = read_config(Experiment, arguments)
    folder = arguments.out or default_classifier_folder(experiment.name)
    check_output_path(folder, is_folder=True)
    tune_threads_from(arguments)
    data = load_data(experiment.data)
    _check_replaceable(folder, data)
    features = train_and_save_classifier(experiment, data, folder, arguments.device)
    print_result(
        arguments,
        f"{folder}: feature extractor; its classifier has {features.test_accuracy:.2%} test "
        "accuracy",
        out=str(folder),
        test_accuracy=features.test_accuracy,
    )


def _check_replaceable(folder: Path, data: DataSplits) -> None:
    """Raise InputError if a folder holds a classifier that was trained on other data."""
    try:
        trained_on = load_feature_extractor(folder).extractor.trained_on
    except BundleError:  # there is none, or one that no command reads
        return
    changes = data_fingerprint(data).changes_since(trained_on) if trained_on else []
    if changes:
        raise InputError(
            f"{folder} holds a classifier that was trained on other data than "
            f"{data.config.name}; choose another --name or --out, or delete the folder",
            changes,
        )


def default_classifier_folder(name: str) -> Path:
    """Return the default folder of the classifier of a configuration."""
    return Path("runs") / "features" / name


def check_feature_extractor(path: Path) -> Path:
    """Return a path that may hold a feature extractor.

    Raises:
        InputError: the path does not exist, or is a folder of something else.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; train a feature extractor with `anytime "
            "train-classifier`, or pass --feature-extractor with a folder of it or a TorchScript "
            "file"
        )
    if path.is_dir() and not (path / "features.json").is_file():
        raise InputError(
            f"{path} has no features.json, so it holds no feature extractor; train one with "
            "`anytime train-classifier`"
        )
    return path


def train_and_save_classifier(
    experiment: Experiment, data: DataSplits, folder: Path, device: str
) -> TrainedFeatureExtractor:
    """Train the classifier of an experiment and save it in a folder.

    Args:
        experiment: configuration of the classifier.
        data: data set to train and test on.
        folder: folder to write to.
        device: name of the device, or `auto`.

    Returns:
        The classifier with its accuracy on the test split.
    """
    with progress_bar("classifier") as progress:
        network = train_feature_extractor(
            data.train,
            experiment.feature_extractor,
            label_count=len(data.label_names or ()),
            sample_rate=data.sample_rate,
            trained_on=data_fingerprint(data),
            device=resolve_device(device),
            progress=progress,
        )
    features = TrainedFeatureExtractor(network, classifier_accuracy(network, data.test))
    save_feature_extractor(features, folder)
    return features
