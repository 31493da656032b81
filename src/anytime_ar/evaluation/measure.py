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

from anytime_ar.ambient import defaults
from anytime_ar.codes import bits
from anytime_ar.curve import (
    Baselines,
    Curve,
    CurvePoint,
    lossless_codes,
)
from anytime_ar.errors import InputError
from anytime_ar.evaluation.cached import FeatureCache
from anytime_ar.evaluation.classifier import FeatureNetwork
from anytime_ar.evaluation.features import accuracy
from anytime_ar.evaluation.protocols import Choice, Codec, Progress, Split, Splits, silent
from anytime_ar.evaluation.reference import Reference
from anytime_ar.evaluation.scripted import ScriptedFeatures
from anytime_ar.evaluation.study import Study, code_use, data_of, sampler_of
from anytime_ar.evaluation.workers import Workers


@defaults()
def evaluate(
    model: Codec,
    data: Splits,
    features: FeatureNetwork | ScriptedFeatures | None,
    *,
    samples: int = 10_000,
    codes: Sequence[int] | None = None,
    unordered: Codec | None = None,
    seed: int = 0,
    choice: Choice | None = None,
    batch_size: int = 256,
    cache: Path | None = None,
    progress: Progress = silent,
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
        features: the network of all distances between sets; None leaves them out.
        samples: how many samples are drawn for fd_sample.
        codes: the budgets to measure; None: see `default_budgets`.
        unordered: the same autoencoder trained without truncation, or None. Where it has a prior
            its samples are measured too.
        seed: of the samples.
        choice: temperature, top_k, top_p and guidance of the samples, where they are not the
            model's own; handed on to it.
        batch_size: samples decoded together.
        cache: folder to keep features of the test split in, for the next evaluation.
        progress: called after every measurement.
        clock: seconds, for `ms`: one sample at batch 1, median of 5 to 100 draws after a warm-up.

    Raises:
        InputError: a budget out of range, shapes that do not fit, or an empty test split.
    """
    budgets = budgets_of(model, codes)
    test_samples = _count(data.test)
    _check(model, data, features, unordered, samples, test_samples)
    sampler = sampler_of(model)
    classifier = features if isinstance(features, FeatureNetwork) else None
    labels = None if classifier is None else _labels(data, classifier)
    extract = features if classifier is None else _extractor(classifier)
    workers = Workers()
    real = None
    if features is not None and extract is not None:
        test = partial(data_of, data.test, batch_size)
        if cache is None:
            real = workers.each(test(), extract)
        else:
            real = FeatureCache(cache, features, workers).features(test, extract)
    study = Study(
        data=data,
        batch_size=batch_size,
        test_samples=test_samples,
        samples=samples,
        seed=seed,
        choice=choice or {},
        features=extract,
        picture=_same if classifier is None else classifier.pictures,
        reference=None if real is None else Reference(real),
        logits=None if labels is None or classifier is None else _on_its_device(classifier),
        test_labels=labels,
        workers=workers,
        progress=progress,
        total=len(budgets) * (2 + (sampler is not None) + 2 * (unordered is not None)) + 1,
    )
    # A stream of unknown size is taken to be large; it starts again if it is not.
    train_samples = test_samples if data.train.size is None else data.train.size
    floor_samples = 0 if features is None else min(test_samples, train_samples)
    floor = study.compare(_random(data.train, floor_samples, batch_size, seed))
    encoded = study.encoded(model)
    ordered = study.quality(model, encoded, budgets, "ordered")
    milliseconds = [
        None if sampler is None else study.milliseconds(sampler, k, clock) for k in budgets
    ]
    points = tuple(
        CurvePoint(**dict(point), bits=bits(point.codes, model.vocabulary), ms=ms)
        for point, ms in zip(ordered, milliseconds, strict=True)
    )
    baselines = Baselines(
        unordered=()
        if unordered is None
        else study.quality(unordered, study.encoded(unordered), budgets, "unordered"),
        pca=study.pca(budgets),
    )
    train_nats = study.nats(model, data.train, train_samples)
    test_nats = study.nats(model, data.test, test_samples)
    return Curve(
        code_length=model.code_length,
        vocabulary=model.vocabulary,
        points=points,
        lossless_codes=lossless_codes(points),
        floor=None if floor is None else floor.fd,
        floor_quality=None if floor is None else floor.quality,
        real_accuracy=None
        if labels is None or classifier is None
        else accuracy(classifier, data.test),
        floor_samples=floor_samples,
        samples=samples,
        test_samples=test_samples,
        seed=seed,
        nats_train=None if train_nats is None else float(train_nats.mean()),
        nats_test=None if test_nats is None else float(test_nats.mean()),
        code_use=code_use(encoded, model.vocabulary, test_nats),
        choice=dict(choice or {}),
        baselines=baselines,
    )


def _on_its_device(features: FeatureNetwork) -> Callable[[Tensor], Tensor]:
    """The classifier, for samples that lie anywhere."""
    device = features.head.weight.device
    return lambda samples: features.logits(samples.to(device))


def _same(samples: Tensor) -> Tensor:
    return samples


def _extractor(features: FeatureNetwork) -> Callable[[Tensor], Tensor]:
    """The features of samples that lie anywhere, on the CPU."""
    device = features.head.weight.device
    return lambda samples: features(samples.to(device)).cpu()


def _labels(data: Splits, features: FeatureNetwork) -> Tensor | None:
    """Labels of the test split, int64 [N], where the classifier tells as many classes apart."""
    if data.label_names is None or len(data.label_names) != features.label_count:
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


def budgets_of(model: Codec, codes: Sequence[int] | None) -> list[int]:
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
    data: Splits,
    features: FeatureNetwork | ScriptedFeatures | None,
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
    if isinstance(features, FeatureNetwork) and features.sample_shape != shape:
        raise InputError(
            f"the features are for samples of shape {features.sample_shape}, the data set's are "
            f"{shape}; train features on this data set with `anytime features`"
        )
    if unordered is not None and unordered.code_length != model.code_length:
        raise InputError(
            f"the unordered baseline has {unordered.code_length} codes and the model "
            f"{model.code_length}; train the baseline with the model's configuration"
        )


def _count(split: Split) -> int:
    return sum(len(x) for x in data_of(split, 1024)) if split.size is None else split.size


def _random(split: Split, count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """`count` samples drawn at random: the first ones of a sorted data set show one class only."""
    batches = split.shuffled(batch_size, seed)
    while count > 0:
        batch = next(batches).data[:count]
        count -= len(batch)
        yield batch
