"""Values that a prior is conditioned on beside its class label: attributes, vectors, text, codes.

A model has conditions by name, each of one kind. A kind says how the values of users and of data
sets become a tensor with a row for each sample. Each kind has a row for "not given", which hides
the condition: in training for dropout, in sampling for what a user leaves out and for guidance.
"""

from __future__ import annotations

import abc
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from anytime_ar.config import ConfigUnion, short_repr, to_python
from anytime_ar.errors import InputError

Conditions = Mapping[str, Tensor]
"""Conditions of n samples: by name, a tensor with a row for each sample."""

MAX_WORDS = 2**16
"""Largest number of different words of a text condition."""
_WORD = re.compile(r"\w+(?:'\w+)*")


class Condition(ConfigUnion):
    """A condition of one kind: the values it takes, and their tensor."""

    discriminator: ClassVar[str] = "kind"
    default_member: ClassVar[str] = "class"

    kind: str
    """Kind of the condition."""

    @abc.abstractmethod
    def encode(self, value: Any, name: str) -> Tensor:
        """Convert one value to the row of a tensor.

        Args:
            value: the value of a user or a data set; None: not given.
            name: name of the condition, for messages.

        Raises:
            InputError: the model does not know such a value.
        """

    @abc.abstractmethod
    def decode(self, row: Tensor) -> Any:
        """Convert the row of a tensor to a value that `encode` takes; None: not given."""

    @property
    @abc.abstractmethod
    def hidden(self) -> Tensor:
        """Return the row that means "not given"."""

    @abc.abstractmethod
    def is_valid(self, rows: Tensor) -> bool:
        """Return whether a tensor holds rows of this condition, as a saved state may not."""


class ClassCondition(Condition):
    """One of several classes, such as a speaker or a style; int64 [n] in 0..classes."""

    kind: Literal["class"] = "class"
    """A class, by name or number."""
    names: tuple[str, ...] = Field(min_length=1)
    """Names of the classes."""

    @property
    def hidden(self) -> Tensor:
        """Return the number after the last class."""
        return torch.tensor(len(self.names), dtype=torch.int64, device="cpu")

    def encode(self, value: Any, name: str) -> Tensor:
        """Convert a name or number to int64 []; see `Condition.encode`."""
        value = to_python(value)
        if value is None:
            return self.hidden
        index: Any = value
        if isinstance(value, str):
            index = self._numbers.get(unicodedata.normalize("NFC", value))
        if isinstance(index, bool) or not isinstance(index, int) or index not in self._range:
            close = difflib.get_close_matches(str(value), self.names, n=3, cutoff=0.5)
            known = close or self.names[:8]
            raise InputError(
                f"condition {name} is {short_repr(value)}; pass a number in "
                f"0..{len(self.names) - 1} or a name, such as {', '.join(known)}"
            )
        return torch.tensor(index, dtype=torch.int64, device="cpu")

    def decode(self, row: Tensor) -> int | None:
        """Return the number of a class; see `Condition.decode`."""
        return int(row) if int(row) < len(self.names) else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def _range(self) -> range:
        return range(len(self.names))

    def is_valid(self, rows: Tensor) -> bool:
        """Return whether a tensor is int64 [n] in 0..classes."""
        is_class = rows.dtype == torch.int64 and rows.dim() == 1
        return is_class and bool(((rows >= 0) & (rows <= len(self.names))).all())


class VectorCondition(Condition):
    """A vector of any width, such as an embedding of a picture or a speaker; float32 [n, width]."""

    kind: Literal["vector"] = "vector"
    """Numbers, as many as `width`."""
    width: int = Field(ge=1, le=2**16)
    """Number of values of a vector."""

    @property
    def hidden(self) -> Tensor:
        """Return a vector of NaN, which no user may pass."""
        return torch.full((self.width,), torch.nan, dtype=torch.float32, device="cpu")

    def encode(self, value: Any, name: str) -> Tensor:
        """Convert numbers to float32 [width]; see `Condition.encode`."""
        value = to_python(value)
        if value is None:
            return self.hidden
        value = [value] if isinstance(value, int | float) else value
        numbers = isinstance(value, list | tuple) and all(isinstance(x, int | float) for x in value)
        if not numbers or len(value) != self.width:
            got = f"{len(value)} numbers" if numbers else short_repr(value)
            raise InputError(f"condition {name} is {got}; pass {self.width} numbers")
        row = torch.tensor(value, dtype=torch.float32, device="cpu")
        if not row.isfinite().all():
            at = int((~row.isfinite()).nonzero()[0])
            raise InputError(
                f"condition {name} is {value[at]} at index {at}; pass finite numbers of float32"
            )
        return row

    def decode(self, row: Tensor) -> list[float] | None:
        """Return the numbers of a vector; see `Condition.decode`."""
        return None if row.isnan().any() else row.tolist()

    def is_valid(self, rows: Tensor) -> bool:
        """Return whether a tensor is float32 [n, width] without partly hidden rows."""
        if rows.dtype != torch.float32 or rows.dim() != 2 or rows.shape[1] != self.width:
            return False
        return bool((rows.isfinite().all(1) | rows.isnan().all(1)).all())


class TokenCondition(Condition):
    """A short sequence of tokens; int64 [n, max_tokens], 0 after its end. Empty: not given."""

    max_tokens: int = Field(ge=1, le=2**12)
    """Largest number of tokens."""

    @property
    @abc.abstractmethod
    def token_count(self) -> int:
        """Return the number of different tokens, which are 1..token_count."""

    @property
    def hidden(self) -> Tensor:
        """Return a row without tokens."""
        return torch.zeros(self.max_tokens, dtype=torch.int64, device="cpu")

    def is_valid(self, rows: Tensor) -> bool:
        """Return whether a tensor is int64 [n, max_tokens] in 0..token_count."""
        if rows.dtype != torch.int64 or rows.dim() != 2 or rows.shape[1] != self.max_tokens:
            return False
        return bool(((rows >= 0) & (rows <= self.token_count)).all())

    def _padded(self, tokens: Sequence[int]) -> Tensor:
        """Return tokens as a row of the tensor."""
        row = self.hidden
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64, device="cpu")
        return row


class TextCondition(TokenCondition):
    """A text of known words, in any case and with any punctuation."""

    kind: Literal["text"] = "text"
    """A text."""
    words: tuple[str, ...] = Field(min_length=1, max_length=MAX_WORDS)
    """The words that the model knows, in lower case; token i + 1 is word i."""

    def decode(self, row: Tensor) -> str | None:
        """Return the words of a text; see `Condition.decode`."""
        return " ".join(self.words[token - 1] for token in row.tolist() if token) or None

    @field_validator("words")
    @classmethod
    def _check_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if split_words(word) != [word]:
                raise ValueError(f"{word!r} is no word in lower case")
        if len({*words}) < len(words):
            raise ValueError("a word occurs twice")
        return words

    @property
    def token_count(self) -> int:
        """Return the number of words."""
        return len(self.words)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    def encode(self, value: Any, name: str) -> Tensor:
        """Convert a text to int64 [max_tokens]; see `Condition.encode`."""
        if value is None:
            return self.hidden
        if not isinstance(value, str):
            raise InputError(f"condition {name} is {short_repr(value)}; pass a text")
        words = split_words(value)
        unknown = [word for word in words if word not in self._numbers]
        if unknown:
            close = difflib.get_close_matches(unknown[0], self.words, n=3, cutoff=0.6)
            known = close or self.words[:8]
            raise InputError(
                f"condition {name} has unknown words ({short_repr(', '.join(unknown))}); pass some "
                f"of the {len(self.words)} that the model knows, such as {', '.join(known)}"
            )
        if len(words) > self.max_tokens:
            raise InputError(
                f"condition {name} has {len(words)} words; pass at most {self.max_tokens}"
            )
        return self._padded([self._numbers[word] for word in words])


class CodesCondition(TokenCondition):
    """Codes of another model, such as of a coarser one, or any sequence of small numbers."""

    kind: Literal["codes"] = "codes"
    """Whole numbers from 0."""
    vocabulary: int = Field(ge=1, le=2**24)
    """Number of values that a code can take."""

    @property
    def token_count(self) -> int:
        """Return the number of values of a code."""
        return self.vocabulary

    def encode(self, value: Any, name: str) -> Tensor:
        """Convert codes to int64 [max_tokens]; see `Condition.encode`."""
        value = to_python(value)
        if value is None:
            return self.hidden
        whole = isinstance(value, list | tuple) and all(type(code) is int for code in value)
        if not whole or len(value) > self.max_tokens:
            got = f"{len(value)} codes" if whole else short_repr(value)
            raise InputError(
                f"condition {name} is {got}; pass at most {self.max_tokens} whole numbers"
            )
        wrong = [code for code in value if not 0 <= code < self.vocabulary]
        if wrong:
            raise InputError(
                f"condition {name} has the code {wrong[0]}; pass codes in 0..{self.vocabulary - 1}"
            )
        return self._padded([code + 1 for code in value])

    def decode(self, row: Tensor) -> list[int] | None:
        """Return the codes; see `Condition.decode`."""
        return [token - 1 for token in row.tolist() if token] or None


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case: letters and digits, of composed accents (NFC)."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def text_condition(texts: Iterable[str], max_tokens: int | None, name: str) -> TextCondition:
    """Make the condition of the words that occur in texts.

    Args:
        texts: texts of the training split.
        max_tokens: largest number of words of a text; None: the most of any text.
        name: name of the condition, for messages.

    Raises:
        InputError: there is no word, there are too many, or a text is too long.
    """
    words: set[str] = set()
    longest, of = 0, ""
    for text in texts:
        found = split_words(text)
        words.update(found)
        if len(found) > longest:
            longest, of = len(found), text
        if len(words) > MAX_WORDS:
            raise InputError(
                f"condition {name} has more than {MAX_WORDS} different words; shorten the texts"
            )
    if max_tokens is not None and longest > max_tokens:
        raise InputError(
            f"condition {name} has a text of {longest} words ({short_repr(of)}), over max_tokens "
            f"{max_tokens}; raise it, or shorten the text"
        )
    if not words:
        raise InputError(f"condition {name} has no word in the training split; drop it")
    return TextCondition(words=tuple(sorted(words)), max_tokens=max_tokens or longest)


def encode_conditions(
    known: Mapping[str, Condition], given: Mapping[str, Any], n: int
) -> dict[str, Tensor]:
    """Convert the values that a user gives to the tensors of n samples.

    Args:
        known: conditions of the model, by name.
        given: by name, one value for all samples or a list of n values; what is left out or None is
            not given. A list of numbers is one vector or one sequence of codes.
        n: number of samples.

    Returns:
        A tensor with n rows for each condition of the model.

    Raises:
        InputError: a condition or a value is unknown, or there are not n values.
    """
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        names = f"the conditions {', '.join(known)}" if known else "no conditions; drop it"
        raise InputError(f"condition {unknown[0]!r} is unknown; this model has {names}")
    return {name: _encode(known[name], given.get(name), name, n) for name in known}


def _encode(condition: Condition, given: Any, name: str, n: int) -> Tensor:
    """Convert one value, or n values, of a condition to a tensor of n rows."""
    value = to_python(given)
    is_list = isinstance(value, list | tuple)
    of_numbers = isinstance(condition, VectorCondition | CodesCondition)
    if isinstance(condition, VectorCondition) and condition.width == 1 and is_list:
        of_numbers = len(value) == 1  # a list of n numbers has one for each sample
    flat = is_list and not any(x is None or isinstance(x, list | tuple) for x in value)
    if not is_list or (of_numbers and flat):
        return condition.encode(value, name).expand(n, *condition.hidden.shape).contiguous()
    if len(value) != n:
        raise InputError(
            f"condition {name} has {len(value)} values for {n} samples; pass one, or {n}"
        )
    return torch.stack([condition.encode(one, name) for one in value])


def decode_conditions(
    known: Mapping[str, Condition], conditions: Conditions, index: int
) -> dict[str, Any]:
    """Return the values of the conditions that one sample is given.

    Args:
        known: conditions of the model, by name.
        conditions: conditions of n samples.
        index: number of the sample, 0..n-1.
    """
    values = {name: known[name].decode(rows[index]) for name, rows in conditions.items()}
    return {name: value for name, value in values.items() if value is not None}


def hidden_conditions(
    known: Mapping[str, Condition], n: int, device: torch.device
) -> dict[str, Tensor]:
    """Return n rows of conditions of which none is given.

    Args:
        known: conditions of the model, by name.
        n: number of samples.
        device: device of the tensors.
    """
    rows = {name: condition.hidden.to(device) for name, condition in known.items()}
    return {name: row.expand(n, *row.shape) for name, row in rows.items()}


def concatenate_conditions(parts: Sequence[Conditions]) -> dict[str, Tensor] | None:
    """Return the rows of several parts one after the other; None if there are no parts."""
    if not parts:
        return None
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def hide_rows(
    known: Mapping[str, Condition], conditions: Conditions, hidden: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return conditions that are not given in some rows.

    Args:
        known: conditions of the model, by name.
        conditions: conditions of n samples.
        hidden: by name, which rows to hide, bool [n].
    """
    result = dict(conditions)
    for name, mask in hidden.items():
        rows = conditions[name]
        mask = mask.view(-1, *[1] * (rows.dim() - 1))
        result[name] = torch.where(mask, known[name].hidden.to(rows.device), rows)
    return result
