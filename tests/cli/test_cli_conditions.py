"""Conditions on the command line: each by an option of its own, or all as one."""

from __future__ import annotations

import json

import pytest

from anytime_ar.cli.options import _fold_conditions
from anytime_ar.cli.settings import mistakes_in
from anytime_ar.cli.train import Experiment
from anytime_ar.errors import InputError


def folded(*arguments: str) -> dict[str, object]:
    *rest, option, values = _fold_conditions(["model", *arguments])
    assert rest == ["model"]
    return {option: json.loads(values)}


def test_options_with_names_become_one():
    given = folded("--cond.text", "cloud lock", "--cond.set=3", "--cond.voice", "[1, 2.5]")
    assert given == {"--conditions": {"text": "cloud lock", "set": 3, "voice": [1, 2.5]}}
    assert folded("--guidance.text", "2.5") == {"--condition_guidance": {"text": 2.5}}
    assert _fold_conditions(["--guidance", "3", "-n", "2"]) == ["--guidance", "3", "-n", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cond.text"], "--cond.text needs a value"),
        (["--conditions", "{}", "--cond.text", "a"], "--conditions was given in two ways"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        _fold_conditions(arguments)


def test_users_name_the_conditions_of_a_data_set():
    values = {"data": {"conditions": {"text": {"kind": "text"}, "who": {"column": "speaker"}}}}
    assert not [*mistakes_in([Experiment], values)]
    config = Experiment.parse(values, origin="test")
    assert config.data.conditions["who"].column == "speaker"
    wrong = {"data": {"conditions": {"text": {"kind": "words"}}}}
    assert [*mistakes_in([Experiment], wrong)]
