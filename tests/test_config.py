"""A configuration is frozen, refuses unknown keys, and names every mistake at once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from anytime_ar.config import Config, ConfigUnion, changed_settings
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


class Shape(ConfigUnion):
    discriminator: ClassVar[str] = "kind"
    default_member: ClassVar[str] = "circle"

    kind: str
    colour: str = "red"


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: int = 1


class Polygon(Shape):
    corners: int = 4


class Square(Polygon):
    kind: Literal["square"] = "square"
    side: Annotated[int, Field(ge=1)] = 2


class Star(Polygon):
    kind: Literal["star"] = "star"


class Drawing(Config):
    shape: SerializeAsAny[Shape] = Circle()


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


def test_one_key_chooses_the_class() -> None:
    for values, shape in [
        ({}, Circle()),
        ({"radius": 3, "colour": "blue"}, Circle(radius=3, colour="blue")),
        ({"kind": "square", "side": 5}, Square(side=5)),
        ({"kind": "star", "corners": 5}, Star(corners=5)),
    ]:
        drawing = Drawing.parse({"shape": values}, origin="a.yaml")
        assert drawing == Drawing(shape=shape)
        assert Drawing.parse(drawing.model_dump(), origin="a.yaml") == drawing
    assert {*Shape.members()} == {"circle", "square", "star"}
    assert Polygon.members() == {"square": Square, "star": Star}


def test_defaults_of_other_members_are_dropped() -> None:
    values = {"kind": "circle", "corners": 4, "side": None}
    assert Shape.parse(values, origin="a.yaml") == Circle()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "cube"}, "a.yaml: shape: kind is 'cube', expected circle or square or star"),
        ({"kind": ["star"]}, "a.yaml: shape: kind is ['star'], expected circle or square or star"),
        ({"side": 3}, "a.yaml: shape: side is 3, a setting of kind=square, not of circle; drop it"),
        (
            {"corners": 5},
            "a.yaml: shape: corners is 5, a setting of kind=square or star, not of circle; drop it",
        ),
        (
            {"kind": "square", "side": 0, "depth": 1},
            "a.yaml: shape.side: input should be greater than or equal to 1 (got 0); "
            "shape.depth: extra inputs are not permitted (got 1)",
        ),
        (
            "round",
            "a.yaml: shape: input should be a valid dictionary or instance of Shape (got 'round')",
        ),
    ],
)
def test_mistakes_in_a_choice(values: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Drawing.parse({"shape": values}, origin="a.yaml")
    assert str(caught.value) == message


def test_settings_that_differ_are_told_by_dotted_name() -> None:
    earlier, now = Outer(name="a", inner=Inner(width=2)), Outer(name="b")
    assert changed_settings(earlier, now) == [("inner.width", 2, 8), ("name", "a", "b")]
    assert changed_settings(now, now) == []
