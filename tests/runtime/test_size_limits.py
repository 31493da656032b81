"""Settings are no larger than they look."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anytime_ar.cli.parser import config_path
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.runtime.size_limits import check_yaml_size


def laughs(levels: int) -> str:
    """Ten to the power of `levels` values, in as many lines."""
    lines = [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)
    ]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *lines, f"seed: *a{levels - 1}"])


@pytest.mark.parametrize(
    "text",
    [
        laughs(9),
        "seed: " + "[" * 10_000 + "]" * 10_000,
        "seed: " + "{a: " * 100 + "1" + "}" * 100,
        "seed: &a [*a]",
        "seed: &a {b: *a}",
        "a: &a [1]\n" + "b: [" + ", ".join(["*a"] * 200_000) + "]",
    ],
    ids=["aliases", "deep lists", "deep maps", "itself", "itself in a map", "many"],
)
def test_what_is_too_large_is_refused_unread(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"tiny\.yaml holds over 100,000 values, or 64 within"):
        config_path(str(path))


@pytest.mark.parametrize(
    "text",
    [laughs(3), "a: &a {b: 1}\nc: {<<: *a, d: [1, 2]}", "", "# nothing", "1", "a: 1\n---\nb: 2"],
)
def test_what_is_not_passes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    assert config_path(str(path)) == path


def test_what_is_no_yaml_is_left_to_its_reader(tmp_path: Path) -> None:
    for number, content in enumerate((b"a: [1", b"\xff\xfe\x00", b"caf\xe9: 1", b"a: \x00")):
        (tmp_path / str(number)).write_bytes(content)
        check_yaml_size(tmp_path / str(number))


class Small(Config):
    seed: int = 0


def test_complaints_are_short_whatever_came() -> None:
    with pytest.raises(InputError, match=r"seed: .* \(got \[\[\[") as error:
        Small.parse({"seed": yaml.safe_load(laughs(7))["seed"]}, origin="test")
    assert len(str(error.value)) < 20_000
