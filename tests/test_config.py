"""A configuration is frozen, refuses unknown keys, and names every mistake at once."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field, ValidationError, model_validator

from anytime_ar.config import Config
from anytime_ar.errors import InputError


class Inner(Config):
    width: Annotated[int, Field(ge=1)] = 8


class Outer(Config):
    name: str
    inner: Inner = Inner()
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> Outer:
        if self.low > self.high:
            raise ValueError(f"Low {self.low} is above high {self.high}; swap them")
        return self


def test_parse_fills_in_defaults() -> None:
    assert Outer.parse({"name": "a", "inner": {"width": 3}}, origin="a.yaml") == Outer(
        name="a", inner=Inner(width=3)
    )


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 3


def test_all_mistakes_in_one_line() -> None:
    with pytest.raises(InputError) as caught:
        Outer.parse({"inner": {"width": 0, "depth": 2}, "colour": "red"}, origin="a.yaml")
    message = str(caught.value)
    assert message.startswith("a.yaml: ")
    assert "\n" not in message
    assert "name: field required" in message
    assert "inner.width: input should be greater than or equal to 1 (got 0)" in message
    assert "inner.depth: extra inputs are not permitted (got 2)" in message
    assert "colour: extra inputs are not permitted (got 'red')" in message


def test_a_rule_between_keys_keeps_its_own_words() -> None:
    with pytest.raises(InputError, match=r"^a\.yaml: low 3 is above high 1; swap them$"):
        Outer.parse({"name": "a", "low": 3}, origin="a.yaml")
