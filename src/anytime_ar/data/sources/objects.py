"""Data sets that a program holds: tensors, arrays, and data sets of PyTorch and Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anytime_ar.data.config import DataConfig
from anytime_ar.data.labels import LabelEncoder, distinct_values
from anytime_ar.data.rows import DataSource, Row, StoredConditions, mixed_labels_error
from anytime_ar.data.sources import canonical_split
from anytime_ar.data.sources.hub import dataset_source
from anytime_ar.errors import DataError
from anytime_ar.plugins import errors_of_user

if TYPE_CHECKING:
    import datasets


class MapDataset(Protocol):
    """A data set such as `torch.utils.data.Dataset`.

    Its items are samples, (sample, label), or (sample, label, conditions by name).
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a sample, or a sample and its label."""


Array: TypeAlias = "Tensor | NDArray[Any]"
Samples: TypeAlias = (
    "Array | tuple[Array, Any] | tuple[Array, Any, Mapping[str, Any]] | MapDataset"
    " | datasets.Dataset"
)
"""Samples of one split: all at once, with labels, with labels and conditions, or a data set of
them. Labels are None where there are only conditions."""


def object_source(config: DataConfig, splits: Mapping[str, Any]) -> DataSource:
    """Return what a program holds as the splits of one set.

    Args:
        config: name of the set, and columns of Hugging Face data sets.
        splits: samples by the name of their split.

    Raises:
        DataError: it cannot be used; the message says why.
    """
    if any(type(split).__module__.startswith("datasets.") for split in splits.values()):
        return dataset_source(config, splits)
    opened: dict[str, _ObjectRows] = {}
    for name, given in splits.items():
        split = canonical_split(name)
        if split is None or split in opened:
            raise DataError(f"data has a split {name!r}; name them train, validation and test")
        opened[split] = _ObjectRows(
            given, f"{config.name} {split}", labelled=config.labels, conditions=[*config.conditions]
        )
    if "train" not in opened:
        raise DataError(f"data has the splits {', '.join(splits) or 'none'}; pass one as train")
    stored = (label for rows in opened.values() for label in rows.labels())
    values = distinct_values(stored, "label")
    names = opened["train"].class_names
    if values and names is not None and values <= {*range(len(names))}:
        classes: LabelEncoder | None = LabelEncoder.from_names(names)
    else:
        classes = LabelEncoder.from_values(values) if values else None
    for rows in opened.values():
        rows.classes = classes
    label_names = None if classes is None else classes.names
    names = [*config.conditions]
    conditions = StoredConditions(
        lambda i: (value for rows in opened.values() for value in rows.condition_values(names[i])),
        {},
    )
    return DataSource(
        {**opened}, label_names, modality="tensor", conditions=conditions if names else None
    )


class _ObjectRows:
    """The samples of a split as rows; see `SplitRows`.

    Args:
        given: samples, (samples, labels), or a map-style data set.
        name: name of set and split, for messages.
        labelled: whether labels are read.
        conditions: names of the conditions to read.

    Raises:
        DataError: it is something else, or there are not as many labels as samples.
    """

    classes: LabelEncoder | None = None
    """Classes of the labels; None: there are none."""

    def __init__(
        self, given: Any, name: str, *, labelled: bool, conditions: Sequence[str] = ()
    ) -> None:
        """Check that samples and labels have a length."""
        self._labels, self._name, self._labelled = None, name, labelled
        self._condition_names = conditions
        self._conditions: Mapping[str, Any] | None = None
        if isinstance(given, tuple | list) and len(given) == 3 and isinstance(given[2], Mapping):
            *given, self._conditions = given
            given = given[0] if given[1] is None else tuple(given)
        if isinstance(given, tuple | list) and len(given) == 2:
            given, labels = given
            self._labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        if isinstance(given, Tensor):
            given = given.detach().cpu()
        elif isinstance(given, str) or not all(
            hasattr(given, needed) for needed in ("__len__", "__getitem__")
        ):
            raise DataError(
                f"{name} is a {type(given).__name__}; pass a tensor, an array, (samples, labels), "
                "a Dataset that has a length, a Hugging Face data set, or a path"
            )
        self._given = given
        self._holds_items = not isinstance(given, Tensor | np.ndarray)
        # Items have other labels than `targets` if the data set transforms them.
        self._transforms_labels = getattr(given, "target_transform", None) is not None
        has_targets = hasattr(given, "targets") and not self._transforms_labels
        if self._labels is None and labelled and has_targets:
            targets = given.targets
            self._labels = targets.tolist() if hasattr(targets, "tolist") else list(targets)
        if self._labels is not None and len(self._labels) != len(given):
            raise DataError(
                f"{name} has {len(given)} samples and {len(self._labels)} labels; pass one for "
                "each sample"
            )
        if self._conditions is not None:
            for condition in conditions:
                values = self._conditions.get(condition, ())
                if len(values) != len(given):
                    raise DataError(
                        f"{name} has {len(given)} samples and {len(values)} values of the "
                        f"condition {condition}; pass one for each sample"
                    )

    @property
    def class_names(self) -> list[str] | None:
        """Return the names of classes that the data set declares, as torchvision's do."""
        names = None if self._transforms_labels else getattr(self._given, "classes", None)
        return None if names is None else [str(name) for name in names]

    @property
    def size(self) -> int:
        """Return the number of samples."""
        return len(self._given)

    def index_of(self, position: int) -> int:
        """Return the position itself, which is the index."""
        return position

    def labels(self) -> Iterator[tuple[Any, str]]:
        """Yield each label as given, with the name of its sample; a data set is read for them."""
        if self._labels is not None:
            yield from ((label, self._origin(i)) for i, label in enumerate(self._labels))
        elif self._labelled and self._holds_items and self.size and self._item_length > 1:
            for index in range(self.size):
                yield self._item(index)[1], self._origin(index)

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows from an index on."""
        for index in range(start, self.size):
            sample, label = self._item(index)
            origin = self._origin(index)
            encoded = None if self.classes is None else self.classes.encode(label, origin)
            yield Row(index, sample, encoded, origin, self._conditions_of(index))

    def condition_values(self, name: str) -> Iterator[tuple[Any, str]]:
        """Yield each value of a condition as given, with the name of its sample."""
        place = self._condition_names.index(name)
        for index in range(self.size):
            yield self._conditions_of(index)[place], self._origin(index)

    def _conditions_of(self, index: int) -> tuple[Any, ...]:
        """Return the conditions of a sample as given, in the order of their names.

        Raises:
            DataError: one is missing.
        """
        if not self._condition_names:
            return ()
        held: Any = self._conditions
        if held is not None:
            return tuple(held[name][index] for name in self._condition_names)
        parts = self._parts(index)
        given = parts[2] if len(parts) == 3 else {}
        missing = [name for name in self._condition_names if name not in given]
        if missing:
            raise DataError(
                f"{self._origin(index)}: has no condition {missing[0]!r}; return (sample, label, "
                "conditions by name)"
            )
        return tuple(given[name] for name in self._condition_names)

    @cached_property
    def _item_length(self) -> int:
        """Return the length of the first item as `_parts` returns it."""
        return len(self._parts(0))

    def _item(self, index: int) -> tuple[Any, Any]:
        """Return a sample and its label, or None."""
        parts = self._parts(index)
        if self._labelled and self._labels is None and len(parts) != self._item_length:
            names = self._origin(0), self._origin(index)
            raise mixed_labels_error(*(names if len(parts) > 1 else reversed(names)))
        label = parts[1] if len(parts) > 1 else None
        return parts[0], label if self._labels is None else self._labels[index]

    def _parts(self, index: int) -> tuple[Any, ...]:
        """Return an item as (sample,), (sample, label) or (sample, label, conditions)."""
        with errors_of_user("data set", self._origin(index)):
            item = self._given[index]
            if not (self._holds_items and isinstance(item, tuple | list) and len(item) in (2, 3)):
                return (item,)
            sample, label, *rest = item
            label = label.item() if isinstance(label, Tensor | np.ndarray) else label
            return sample, label, *rest

    def _origin(self, index: int) -> str:
        """Return the name of a sample in messages."""
        return f"{self._name} sample {index}"
