"""The file of entries that processes and versions share: shared in peace, and damaged in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from anytime_ar.errors import InputError
from anytime_ar.runtime import json_store
from anytime_ar.runtime.json_store import JsonStore

NUMBERS = TypeAdapter(dict[str, float])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def unreadable(path: Path) -> None:
    path.write_text('{"a": {"x": 1}}')
    path.chmod(0)


DAMAGE = {
    "empty": text(""),
    "list": text("[]"),
    "cut": text('{"a": {"x"'),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00\x80"),
    "nested": text("[" * 200_000),
    "nested entry": text('{"a":' * 200_000),
    "long number": text('{"a": {"x": ' + "1" * 5000 + "}}"),
    "huge": text('{"a": {"x": 1}}' + " " * json_store._MAX_BYTES),
    **({"unreadable": unreadable, "pipe": pipe, "endless": endless} if os.name == "posix" else {}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_cannot_be_used_counts_as_empty_and_is_replaced(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "store.json"
    damage(path)
    store = JsonStore(path, NUMBERS)
    if damage is not unreadable or os.geteuid() > 0:  # nothing is unreadable for root
        assert store.get("a") is None
    assert store.update("b", lambda found: found or {"y": 2}) == {"y": 2}
    assert JsonStore(path, NUMBERS).get("b") == {"y": 2}


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", '"inf"', '"nan"'])
def test_an_entry_that_is_not_finite_is_missing_and_keeps_nobody_from_writing(
    tmp_path: Path, number: str
) -> None:
    path = tmp_path / "store.json"
    path.write_text(f'{{"a": {{"x": {number}}}, "b": {{"x": 1}}}}')
    store = JsonStore(path, NUMBERS)
    assert store.get("a") is None
    assert store.get("b") == {"x": 1}
    store.update("c", lambda _: {"x": 2})
    assert store.get("b") == {"x": 1}
    assert store.update("a", lambda found: found or {"x": 3}) == {"x": 3}
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.update("a", lambda _: {"x": float("inf")})
    assert store.get("a") == {"x": 3}


@pytest.mark.parametrize(
    "foreign",
    [7, None, [], "ü", "\ud800", {"x": [1, {"y": None}]}, json.loads("[" * 700 + "]" * 700)],
    ids=["number", "null", "list", "text", "surrogate", "form", "nested"],
)
def test_entries_of_another_form_are_kept_as_they_are(tmp_path: Path, foreign: object) -> None:
    path = tmp_path / "store.json"
    path.write_text(json.dumps({"theirs": foreign, "ours": {"x": 1}}))
    store = JsonStore(path, NUMBERS)
    assert store.get("theirs") is None
    assert store.get("ours") == {"x": 1}
    store.update("ours", lambda _: {"x": 2})
    assert json.loads(path.read_text()) == {"theirs": foreign, "ours": {"x": 2}}
    store.update("theirs", lambda found: {"x": 3} if found is None else found)
    assert store.get("theirs") == {"x": 3}


def test_the_oldest_entries_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_store, "_MAX_BYTES", 200)
    path = tmp_path / "store.json"
    store = JsonStore(path, NUMBERS)
    for number in range(50):
        store.update("first", lambda _, number=number: {"x": number})  # type: ignore[misc]
        store.update(f"key {number}", lambda _: {"x": 1.5})
        assert path.stat().st_size <= 200
        assert store.get("first") == {"x": number}
    assert store.get("key 49") == {"x": 1.5}
    assert store.get("key 40") is None
    assert len(json.loads(path.read_text())) >= 5


def test_what_is_returned_unchanged_needs_no_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    path.write_text('{"a": {"x": 1}}')

    def refuse(*_: object) -> None:
        raise InputError("read-only")

    monkeypatch.setattr(json_store, "write_bytes", refuse)
    store = JsonStore(path, NUMBERS)
    assert store.update("a", lambda found: found or {"x": 2}) == {"x": 1}
    with pytest.raises(InputError, match="read-only"):
        store.update("b", lambda found: found or {"x": 2})


@pytest.mark.parametrize("place", ["folder/store.json", "file/store.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder" / "store.json").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    store = JsonStore(tmp_path / place, NUMBERS)
    assert store.get("a") is None
    with pytest.raises(InputError, match=r"cannot write .*store\.json: "):
        store.update("a", lambda _: {"x": 1})


def test_updates_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.json"

    def count(name: str) -> None:
        store = JsonStore(path, NUMBERS)  # a lock of its own, as another process has
        for _ in range(10):
            store.update("all", lambda found: {"x": (found or {"x": 0})["x"] + 1})
            store.update(name, lambda found: {"x": (found or {"x": 0})["x"] + 1})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, "abcd"))
    written = json.loads(path.read_text())
    assert written.pop("all") == {"x": 40}
    assert written == {name: {"x": 10} for name in "abcd"}


ADOPTING = """
import sys
from pathlib import Path
from pydantic import TypeAdapter
from anytime_ar.runtime.json_store import JsonStore

print("ready", flush=True)
sys.stdin.readline()
store = JsonStore(Path(sys.argv[1]), TypeAdapter(dict[str, int]))
print(store.update("a", lambda found: found or {"x": int(sys.argv[2])})["x"])
"""


def test_processes_that_decide_at_the_same_time_decide_alike(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADOPTING, str(tmp_path / "store.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(x)], **pipes) for x in (1, 2)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in processes}
    (answer,) = answers
    assert json.loads((tmp_path / "store.json").read_text()) == {"a": {"x": int(answer)}}


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_lock_that_is_not_given_up_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    monkeypatch.setattr(json_store, "_LOCK_TIMEOUT_S", 0.02)
    if not has_locks:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    store, other = (JsonStore(tmp_path / "store.json", NUMBERS) for _ in range(2))
    with store._locked():
        assert other.update("a", lambda _: {"x": 1}) == {"x": 1}
    assert store.get("a") == {"x": 1}
