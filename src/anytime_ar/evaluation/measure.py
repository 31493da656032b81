"""Measures a model and its baselines at every budget, on one data set.

One draw of codes serves every budget, because the codes of a shorter draw are a prefix of a longer
one; so does one encoding of the test split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from anytime_ar.ambient import default_torch_modes
from anytime_ar.codes import bits
from anytime_ar.curve import (
    Baselines,
    Curve,
    CurvePoint,
    near_lossless_codes,
)
from anytime_ar.errors import InputError
from anytime_ar.evaluation.cached import FeatureCache
from anytime_ar.evaluation.classifier import FeatureExtractor
from anytime_ar.evaluation.features import classifier_accuracy
from anytime_ar.evaluation.protocols import (
    Codec,
    EvaluationData,
    EvaluationSplit,
    ProgressCallback,
    SamplingKwargs,
    no_progress,
)
from anytime_ar.evaluation.reference import ReferenceDistribution
from anytime_ar.evaluation.scripted import TorchScriptFeatureExtractor
from anytime_ar.evaluation.study import Evaluator, as_generative_model, code_usage, sample_batches
from anytime_ar.evaluation.workers import EvaluationProcesses


@default_torch_modes()
def evaluate(
    model: Codec,
    data: EvaluationData,
    extractor: FeatureExtractor | TorchScriptFeatureExtractor | None,
    *,
    samples: int = 10_000,
    codes: Sequence[int] | None = None,
    unordered: Codec | None = None,
    seed: int = 0,
    sampling_params: SamplingKwargs | None = None,
    batch_size: int = 256,
    feature_cache: Path | None = None,
    progress: ProgressCallback = no_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> Curve:
    """Measure reconstruction, samples and time at each number of codes, with both baselines.

    Where `torch.distributed` is set up, its processes share the work; all of them get the curve of
    a single process.

    The reference of every Fréchet distance is the test split. The floor is the distance of as many
    training samples, drawn at random, as the test split has (or as the training split has).

    Args:
        model: the ordered model; where it has no prior, its samples and time are left out.
        data: training split (for PCA and the floor) and test split (for all else).
        extractor: the network of all distances between sets; None leaves them out.
        samples: how many samples are drawn for fd_sample.
        codes: the budgets to measure; None: see `default_budgets`.
        unordered: the same autoencoder trained without truncation, or None. Where it has a prior
            its samples are measured too.
        seed: of the samples.
        sampling_params: temperature, top_k, top_p and guidance of the samples, where they are not the
            model's own; handed on to it.
        batch_size: samples decoded together.
        feature_cache: folder to keep features of the test split in, for the next evaluation.
        progress: called after every measurement.
        clock: seconds, for `ms`: one sample at batch 1, median of 5 to 100 draws after a warm-up.

    Raises:
        InputError: a budget out of range, shapes that do not fit, or an empty test split.
    """
    budgets = resolve_budgets(model, codes)
    test_samples = _num_samples(data.test)
    _check(model, data, extractor, unordered, samples, test_samples)
    sampler = as_generative_model(model)
    classifier = extractor if isinstance(extractor, FeatureExtractor) else None
    labels = None if classifier is None else _test_labels(data, classifier)
    extract = extractor if classifier is None else _features_function(classifier)
    workers = EvaluationProcesses()
    real = None
    if extractor is not None and extract is not None:
        test = partial(sample_batches, data.test, batch_size)
        if feature_cache is None:
            real = workers.map_in_order(test(), extract)
        else:
            real = FeatureCache(feature_cache, extractor, workers).get_or_compute(test, extract)
    study = Evaluator(
        data=data,
        batch_size=batch_size,
        num_test_samples=test_samples,
        num_samples=samples,
        seed=seed,
        sampling_params=sampling_params or {},
        extract_features=extract,
        to_distance_space=_identity if classifier is None else classifier.to_images,
        reference=None if real is None else ReferenceDistribution(real),
        logits=None if labels is None or classifier is None else _logits_function(classifier),
        test_labels=labels,
        distributed=workers,
        progress=progress,
        num_steps=len(budgets) * (2 + (sampler is not None) + 2 * (unordered is not None)) + 1,
    )
    # A stream of unknown size is taken to be large; it starts again if it is not.
    train_samples = test_samples if data.train.size is None else data.train.size
    floor_samples = 0 if extractor is None else min(test_samples, train_samples)
    floor = study.compare_to_test_split(
        _random_samples(data.train, floor_samples, batch_size, seed)
    )
    encoded = study.encode_test_split(model)
    ordered = study.measure_quality(model, encoded, budgets, "ordered")
    milliseconds = [
        None if sampler is None else study.time_sample_ms(sampler, k, clock) for k in budgets
    ]
    points = tuple(
        CurvePoint(**dict(point), bits=bits(point.codes, model.vocabulary), ms=ms)
        for point, ms in zip(ordered, milliseconds, strict=True)
    )
    baselines = Baselines(
        unordered=()
        if unordered is None
        else study.measure_quality(
            unordered, study.encode_test_split(unordered), budgets, "unordered"
        ),
        pca=study.measure_pca(budgets),
    )
    train_nats = study.per_code_nll(model, data.train, train_samples)
    test_nats = study.per_code_nll(model, data.test, test_samples)
    return Curve(
        code_length=model.code_length,
        vocabulary=model.vocabulary,
        points=points,
        lossless_codes=near_lossless_codes(points),
        floor=None if floor is None else floor.fd,
        floor_quality=None if floor is None else floor.quality,
        real_accuracy=None
        if labels is None or classifier is None
        else classifier_accuracy(classifier, data.test),
        floor_samples=floor_samples,
        samples=samples,
        test_samples=test_samples,
        seed=seed,
        nats_train=None if train_nats is None else float(train_nats.mean()),
        nats_test=None if test_nats is None else float(test_nats.mean()),
        code_use=code_usage(encoded, model.vocabulary, test_nats),
        choice=dict(sampling_params or {}),
        baselines=baselines,
    )


def _logits_function(extractor: FeatureExtractor) -> Callable[[Tensor], Tensor]:
    """The classifier, for samples that lie anywhere."""
    device = extractor.head.weight.device
    return lambda samples: extractor.logits(samples.to(device))


def _identity(samples: Tensor) -> Tensor:
    return samples


def _features_function(extractor: FeatureExtractor) -> Callable[[Tensor], Tensor]:
    """The features of samples that lie anywhere, on the CPU."""
    device = extractor.head.weight.device
    return lambda samples: extractor(samples.to(device)).cpu()


def _test_labels(data: EvaluationData, extractor: FeatureExtractor) -> Tensor | None:
    """Labels of the test split, int64 [N], where the classifier tells as many classes apart."""
    if data.label_names is None or len(data.label_names) != extractor.label_count:
        return None
    found = [batch.labels for batch in data.test.batches(1024) if batch.labels is not None]
    return torch.cat(found) if found else None


def default_budgets(code_length: int) -> list[int]:
    """All numbers of codes up to 64; of longer ones, the twentieths of L, L/16, L/8 and what lies
    below by powers of two."""
    if code_length <= 64:
        return list(range(1, code_length + 1))
    budgets = {round(code_length * share / 20) for share in range(2, 21)}
    budgets |= {round(code_length / 16), round(code_length / 8)}
    power = 1
    while power < code_length / 16:
        budgets.add(power)
        power *= 2
    return sorted(budgets)


def resolve_budgets(model: Codec, codes: Sequence[int] | None) -> list[int]:
    """Return the numbers of codes to measure, of those asked for.

    Raises:
        InputError: one is out of range, or there are none.
    """
    budgets = default_budgets(model.code_length) if codes is None else sorted(set(codes))
    wrong = [k for k in budgets if not 1 <= k <= model.code_length]
    if wrong or not budgets:
        raise InputError(
            f"codes {wrong} are outside 1..{model.code_length}, the model's code length"
            if wrong
            else "codes is empty; pass at least one number of codes, or None for all"
        )
    return budgets


def _check(
    model: Codec,
    data: EvaluationData,
    extractor: FeatureExtractor | TorchScriptFeatureExtractor | None,
    unordered: Codec | None,
    samples: int,
    test_samples: int,
) -> None:
    if samples < 2:
        raise InputError(f"samples must be at least 2 for a Fréchet distance, got {samples}")
    if test_samples < 2 or (data.train.size is not None and data.train.size < 2):
        raise InputError(
            f"evaluation needs at least 2 training and 2 test samples, got {data.train.size} and "
            f"{test_samples}"
        )
    shape = tuple(next(data.test.batches(1)).data.shape[1:])
    if shape != tuple(model.sample_shape):
        raise InputError(
            f"the data set's samples are {shape} and the model's {tuple(model.sample_shape)}; "
            "evaluate on the data set that the model was trained on"
        )
    if isinstance(extractor, FeatureExtractor) and extractor.sample_shape != shape:
        raise InputError(
            f"the features are for samples of shape {extractor.sample_shape}, the data set's are "
            f"{shape}; train features on this data set with `anytime features`"
        )
    if unordered is not None and unordered.code_length != model.code_length:
        raise InputError(
            f"the unordered baseline has {unordered.code_length} codes and the model "
            f"{model.code_length}; train the baseline with the model's configuration"
        )


def _num_samples(split: EvaluationSplit) -> int:
    return sum(len(x) for x in sample_batches(split, 1024)) if split.size is None else split.size


def _random_samples(
    split: EvaluationSplit, count: int, batch_size: int, seed: int
) -> Iterator[Tensor]:
    """`count` samples drawn at random: the first ones of a sorted data set show one class only."""
    batches = split.shuffled(batch_size, seed)
    while count > 0:
        batch = next(batches).data[:count]
        count -= len(batch)
        yield batch
