"""From the values of users to the tensors of conditions, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anytime_ar.conditions import (
    ClassCondition,
    CodesCondition,
    Condition,
    TextCondition,
    VectorCondition,
    decode_conditions,
    encode_conditions,
    split_words,
    text_condition,
)
from anytime_ar.errors import InputError

KNOWN: dict[str, Condition] = {
    "style": ClassCondition(names=("flat", "caf\u00e9")),
    "voice": VectorCondition(width=2),
    "text": TextCondition(words=("key", "lock"), max_tokens=2),
    "coarse": CodesCondition(vocabulary=5, max_tokens=2),
}


@pytest.mark.parametrize(
    ("name", "value", "row", "back"),
    [
        ("style", "flat", 0, 0),
        ("style", "cafe\u0301", 1, 1),  # another spelling of the accent
        ("style", np.int64(1), 1, 1),
        ("style", torch.tensor(1), 1, 1),
        ("style", None, 2, None),
        ("voice", [1, 2.5], [1.0, 2.5], [1.0, 2.5]),
        ("voice", np.array([1.0, 2.0]), [1.0, 2.0], [1.0, 2.0]),
        ("text", "Lock, KEY!", [2, 1], "lock key"),
        ("text", "key", [1, 0], "key"),
        ("text", "", [0, 0], None),
        ("coarse", [4], [5, 0], [4]),
        ("coarse", torch.tensor([0, 1]), [1, 2], [0, 1]),
    ],
)
def test_one_value_is_that_of_all_samples(name: str, value: Any, row: Any, back: Any) -> None:
    rows = encode_conditions(KNOWN, {name: value}, 3)
    assert rows.keys() == KNOWN.keys()
    assert rows[name].tolist() == [row] * 3
    assert decode_conditions(KNOWN, rows, 2) == ({} if back is None else {name: back})
    assert all(KNOWN[one].is_valid(rows[one]) for one in KNOWN)


def test_a_list_has_a_value_for_each_sample() -> None:
    given = {
        "style": ["flat", None],
        "voice": [[1.0, 2.0], None],
        "text": ["key", "lock"],
        "coarse": [[1], [2, 3]],
    }
    rows = encode_conditions(KNOWN, given, 2)
    values = [decode_conditions(KNOWN, rows, i) for i in range(2)]
    assert values[0] == {"style": 0, "voice": [1.0, 2.0], "text": "key", "coarse": [1]}
    assert values[1] == {"text": "lock", "coarse": [2, 3]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"colour": 1},
            "condition 'colour' is unknown; this model has the conditions style, voice",
        ),
        (
            {"style": "flta"},
            "condition style is 'flta'; pass a number in 0..1 or a name, such as flat",
        ),
        ({"style": 2}, "condition style is 2; pass a number in 0..1"),
        ({"style": True}, "condition style is True"),
        ({"style": 0.0}, "condition style is 0.0"),
        ({"style": ["flat"] * 2}, "condition style has 2 values for 3 samples; pass one, or 3"),
        ({"voice": [1.0] * 3}, "condition voice is 3 numbers; pass 2 numbers"),
        ({"voice": "loud"}, "condition voice is 'loud'; pass 2 numbers"),
        ({"voice": [1.0, float("nan")]}, "condition voice is nan at index 1; pass finite numbers"),
        ({"voice": [1.0, 1e39]}, "condition voice is 1e+39 at index 1; pass finite numbers"),
        ({"text": "key chain"}, "condition text has unknown words ('chain'); pass some of the 2"),
        ({"text": "kei"}, "such as key"),
        ({"text": "key lock key"}, "condition text has 3 words; pass at most 2"),
        ({"text": 3}, "condition text is 3; pass a text"),
        ({"coarse": [5]}, "condition coarse has the code 5; pass codes in 0..4"),
        ({"coarse": [-1]}, "condition coarse has the code -1"),
        ({"coarse": [0, 1, 2]}, "condition coarse is 3 codes; pass at most 2 whole numbers"),
        ({"coarse": [0.5]}, "pass at most 2 whole numbers"),
    ],
)
def test_what_no_model_knows_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        encode_conditions(KNOWN, given, 3)
    assert message in str(caught.value)


def test_numbers_in_a_list_are_those_of_samples_where_one_is_taken() -> None:
    known: dict[str, Condition] = {"level": VectorCondition(width=1)}
    for value, rows in ((2, [[2.0]] * 3), ([2], [[2.0]] * 3), ([1, 2, None], [[1.0], [2.0]])):
        assert encode_conditions(known, {"level": value}, 3)["level"][: len(rows)].tolist() == rows
    with pytest.raises(InputError, match="2 values for 3 samples"):
        encode_conditions(known, {"level": [1, 2]}, 3)


def test_words_of_texts_are_those_of_the_condition() -> None:
    condition = text_condition(["A key", "the KEY of life's lock", ""], None, "text")
    assert condition.words == ("a", "key", "life's", "lock", "of", "the")
    assert condition.max_tokens == 5
    assert split_words("na\u00efve-key_2") == ["na\u00efve", "key_2"]
    with pytest.raises(InputError, match=r"a text of 5 words .*, over max_tokens 2; raise it"):
        text_condition(["a key of a lock"], 2, "text")
    with pytest.raises(InputError, match="no word"):
        text_condition(["", "..."], None, "text")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("style", torch.tensor([3])),
        ("style", torch.tensor([0.0])),
        ("voice", torch.tensor([[1.0, float("nan")]])),
        ("voice", torch.zeros(1, 3)),
        ("text", torch.tensor([[3, 0]])),
        ("coarse", torch.tensor([[6, 0]])),
        ("coarse", torch.tensor([1, 0])),
    ],
)
def test_rows_of_a_stranger_are_not_valid(name: str, rows: torch.Tensor) -> None:
    assert not KNOWN[name].is_valid(rows)
