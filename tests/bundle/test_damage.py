"""Whatever happens to the files of a bundle on their way is noticed before anything is made of
them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anytime_ar.bundle.format import BUNDLE_FILES, fingerprint, load_bundle
from anytime_ar.errors import BundleError

NAMES = sorted(BUNDLE_FILES)


def flip(content: bytes, data: st.DataObject) -> bytes:
    """One bit."""
    bit = data.draw(st.integers(0, 8 * len(content) - 1), "bit")
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def truncate(content: bytes, data: st.DataObject) -> bytes:
    """Down to nothing at all."""
    return content[: data.draw(st.integers(0, len(content) - 1), "length")]


def append(content: bytes, data: st.DataObject) -> bytes:
    """Also what JSON takes for nothing."""
    return content + data.draw(
        st.text(" \n\r\t", min_size=1).map(str.encode) | st.binary(min_size=1)
    )


def cut_out(content: bytes, data: st.DataObject) -> bytes:
    """Bytes from the middle."""
    start = data.draw(st.integers(0, len(content) - 1), "start")
    return content[:start] + content[data.draw(st.integers(start + 1, len(content)), "end") :]


def overwrite(content: bytes, data: st.DataObject) -> bytes:
    """Bytes, as by a block of another file or one that was never written."""
    new = data.draw(st.binary(min_size=1, max_size=64) | st.integers(1, 512).map(bytes), "bytes")
    start = data.draw(st.integers(0, len(content) - 1), "start")
    return content[:start] + new[: len(content) - start] + content[start + len(new) :]


def remove(content: bytes, data: st.DataObject) -> None:  # noqa: ARG001
    """The file itself."""
    return


Damage = Callable[[bytes, st.DataObject], bytes | None]
DAMAGES: list[Damage] = [flip, truncate, append, cut_out, overwrite, remove]


def check_refused(folder: Path, intact: dict[str, bytes], found: dict[str, bytes | None]) -> None:
    """One line must name one of the damaged files, whose content is `found`."""
    damaged = [name for name in found if found[name] != intact[name]]
    try:
        for name in damaged:
            content = found[name]
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
        if damaged:
            with pytest.raises(BundleError) as caught:
                load_bundle(folder)
            message = str(caught.value).replace(str(folder), "")
            assert "\n" not in message
            assert any(name in message for name in damaged), message
    finally:
        for name in damaged:
            (folder / name).write_bytes(intact[name])


property_test = settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example repairs it
)


@property_test
@given(data=st.data())
def test_damage_to_any_files_is_refused(saved: Path, data: st.DataObject) -> None:
    intact = {name: (saved / name).read_bytes() for name in NAMES}
    hit = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True), "files")
    found = {name: data.draw(st.sampled_from(DAMAGES))(intact[name], data) for name in hit}
    check_refused(saved, intact, found)


@property_test
@given(order=st.permutations(NAMES))
def test_files_in_place_of_others_are_refused(saved: Path, order: list[str]) -> None:
    intact = {name: (saved / name).read_bytes() for name in NAMES}
    check_refused(
        saved, intact, {name: intact[other] for name, other in zip(NAMES, order, strict=True)}
    )


@pytest.mark.parametrize(("name", "step"), [("config.json", 17), ("manifest.json", 5)])
def test_every_byte_of_what_is_read_first_counts(saved: Path, name: str, step: int) -> None:
    intact = {name: (saved / name).read_bytes()}
    for at in range(len(intact[name]) - 1, -1, -step):  # the line end among them
        for byte in (intact[name][at] ^ 1 << at % 8, ord(" "), ord("\n"), ord("\r")):
            changed = intact[name][:at] + bytes([byte]) + intact[name][at + 1 :]
            check_refused(saved, intact, {name: changed})
        check_refused(saved, intact, {name: intact[name][:at]})


def test_a_folder_in_place_of_a_file_is_refused(saved: Path) -> None:
    for name in NAMES:
        content = (saved / name).read_bytes()
        (saved / name).unlink()
        (saved / name).mkdir()
        with pytest.raises(BundleError, match=name):
            load_bundle(saved)
        (saved / name).rmdir()
        (saved / name).write_bytes(content)
    load_bundle(saved)


def test_what_json_cannot_nest_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match=r"config\.json is not JSON"):
        load_bundle(saved)


def test_what_lies_beside_a_bundle_is_left_alone(saved: Path) -> None:
    """A model card and pictures, as in a copy of a repository."""
    names = ("README.md", "samples.png", ".gitattributes", "notes.json")
    before = fingerprint(load_bundle(saved))
    for name in names:
        (saved / name).write_text("{}")
    assert fingerprint(load_bundle(saved)) == before
    assert [(saved / name).read_text() for name in names] == ["{}"] * 4
