"""A model goes to the Hub and comes back as it was, or one line says why not.

The Hub is a stand-in on this machine, and its users are processes of their own: `huggingface_hub`
reads its settings when it is imported.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import TOKEN, Repository, StandIn, stand_in

from anytime_ar.bundle.format import BUNDLE_FILES, Bundle, fingerprint, load_bundle, save_bundle
from anytime_ar.errors import BundleError, InputError
from anytime_ar.publishing import push as push_here
from anytime_ar.sampling import AnytimeModel

BESIDE = {".gitattributes", "README.md", "curve.png", "samples.png"}
"""What a repository holds beside a bundle."""
PUSH = ("-m", "anytime_ar", "push")
LOAD = """
import json, os, sys
import anytime_ar as aar
from anytime_ar.bundle.format import fingerprint

for name, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    try:
        model = aar.load(name, device="cpu")
        found = [fingerprint(model.bundle), model.sample_codes(3, seed=0).tolist()]
    except ValueError as error:
        found = str(error)
    print(json.dumps(found))
"""
"""Loads models by name and token; prints a line of JSON for each."""
API = "import sys, anytime_ar; print(anytime_ar.push(*sys.argv[1:]))"
pytestmark = pytest.mark.parametrize("card", ["images"], indirect=True)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "hub") as hub:
        yield hub


def push(hub: StandIn, home: Path, *arguments: str, **options: Any) -> str:
    """Push; gives the place that it prints."""
    done = hub.run(home, *PUSH, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].removesuffix(";")


def load_all(hub: StandIn, home: Path, *asked: tuple[str, str], **environment: str) -> list[Any]:
    """What users with a cache in `home` get for names, each with a token."""
    done = hub.run(home, "-c", LOAD, json.dumps(asked), **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def seen(folder: Path) -> list[Any]:
    """What `LOAD` prints of a model in a folder."""
    bundle = load_bundle(folder)
    codes = AnytimeModel(bundle, device="cpu").sample_codes(3, seed=0)
    return [fingerprint(bundle), codes.tolist()]


def test_a_pushed_model_comes_back_as_it_was(hub: StandIn, tmp_path: Path, saved: Path) -> None:
    state = push(hub, tmp_path / "home", str(saved), "owner/tiny", "--message", "Best so far")
    assert state == f"owner/tiny@{hub.repositories['owner/tiny'].refs['main']}"
    assert hub.repositories["owner/tiny"].messages == ["initial commit", "Best so far"]
    files = hub.files("owner/tiny")
    assert files.keys() == BUNDLE_FILES | BESIDE
    assert all(files[name] == (saved / name).read_bytes() for name in BUNDLE_FILES)
    card = files["README.md"].decode()
    assert 'aar.load("owner/tiny")' in card
    assert "![Samples at rising numbers of codes](samples.png)" in card
    assert files["samples.png"][:4] == files["curve.png"][:4] == b"\x89PNG"
    reader = tmp_path / "reader"
    assert load_all(hub, reader, ("owner/tiny", ""), (state, "")) == [seen(saved)] * 2
    assert sorted(hub.fetched) == sorted(BUNDLE_FILES), "nothing else is fetched, and nothing twice"
    # Without the Hub, what was fetched is still there.
    hub.close()
    offline, other = ("owner/tiny", ""), ("owner/tiny@v2", "")
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        again, missing = load_all(hub, reader, offline, other, **environment)
        assert again == seen(saved)
        assert missing == (
            "no model 'owner/tiny@v2': not a folder here, and none from the Hub: it cannot be "
            "reached, and the cache has no complete copy; check the network"
        )


def test_a_push_replaces_an_earlier_one(
    hub: StandIn, tmp_path: Path, bundle: Bundle, saved: Path
) -> None:
    home, codec = tmp_path / "home", tmp_path / "codec"
    first = push(hub, home, str(saved), "owner/tiny")
    again = hub.run(home, "-c", API, str(saved), "owner/tiny")
    assert again.stdout == f"{first}\n", "nothing new is no commit"
    repository = hub.repositories["owner/tiny"]
    repository.commit("main", "By hand", lambda it: (it / "LICENSE").write_text("free"))
    card = bundle.card.model_copy(update={"prior": None})
    save_bundle(replace(bundle, prior=None, curve=None, card=card), codec)
    branch = push(hub, home, str(codec), "owner/tiny", "--revision", "codec", "--license", "mit")
    assert hub.files("owner/tiny").keys() == BUNDLE_FILES | BESIDE | {"LICENSE"}
    # Samples and curve of the other model are gone where this one is, and what is not ours stays.
    left = {"autoencoder.safetensors", "config.json", "manifest.json", ".gitattributes"}
    assert hub.files("owner/tiny", "codec").keys() == left | {"README.md", "LICENSE"}
    assert "license: mit\n" in hub.files("owner/tiny", "codec")["README.md"].decode()
    shutil.rmtree(home)
    main, pinned, no_prior = load_all(
        hub, home, ("owner/tiny", ""), (first, ""), ("owner/tiny@codec", "")
    )
    assert main == pinned == seen(saved)
    assert "has no prior to sample from" in no_prior
    assert branch == f"owner/tiny@{repository.refs['codec']}"


@pytest.mark.parametrize("where", ["lfs", "commit"])
def test_a_push_that_is_cut_off_changes_nothing(
    hub: StandIn, tmp_path: Path, bundle: Bundle, saved: Path, where: str
) -> None:
    push(hub, tmp_path / "home", str(saved), "owner/tiny")
    before, expected = hub.files("owner/tiny"), seen(saved)
    assert bundle.prior is not None
    with torch.no_grad():
        for weight in bundle.prior.parameters():
            weight.mul_(-1)
    save_bundle(bundle, saved)
    assert seen(saved) != expected
    hub.break_off = where
    command = [sys.executable, *PUSH, str(saved), "owner/tiny"]
    with subprocess.Popen(
        command, env=hub.environment(tmp_path / "home"), stderr=subprocess.PIPE, text=True
    ) as pushing:
        assert hub.reached.wait(120)
        if where == "lfs":  # which it would try again
            pushing.kill()
        assert pushing.stderr is not None
        last = pushing.stderr.read().splitlines()[-1]
    assert pushing.returncode == (-signal.SIGKILL if where == "lfs" else 2)
    assert where == "lfs" or last.startswith("anytime: cannot push to owner/tiny: Server disconn")
    assert hub.files("owner/tiny") == before
    assert load_all(hub, tmp_path / "reader", ("owner/tiny", "")) == [expected]
    hub.break_off = None
    push(hub, tmp_path / "home", str(saved), "owner/tiny")
    assert load_all(hub, tmp_path / "reader", ("owner/tiny", "")) == [seen(saved)]


def test_what_cannot_be_loaded_is_told_in_one_line(
    hub: StandIn, tmp_path: Path, saved: Path
) -> None:
    push(hub, tmp_path / "home", str(saved), "owner/secret", "--private")
    foreign = Repository(tmp_path / "hub" / "foreign", private=False)
    foreign.commit("main", "of others", lambda it: (it / "config.json").write_text("{}"))
    empty = Repository(tmp_path / "hub" / "empty", private=False)
    empty.commit("main", "nothing", lambda it: (it / "model.bin").write_text("a pickle"))
    hub.repositories |= {"other/gpt": foreign, "other/empty": empty}
    asked = {
        ("owner/secret", TOKEN): "",
        ("owner/none", TOKEN): "no such repository, or a private one; check the name, and for a pr",
        ("owner/secret@v9", TOKEN): "no revision 'v9'; pass a branch, a tag or a whole commit hash",
        ("owner/a--b", TOKEN): "check the name and the network",
        ("other/gpt", TOKEN): "other/gpt on the Hub is no bundle: no manifest.json; check the name",
        ("other/empty", TOKEN): "other/empty on the Hub is no bundle: no manifest.json; check the",
    }
    found = load_all(hub, tmp_path / "reader", *asked)
    assert found[0] == seen(saved)
    for line, reason in list(zip(found, asked.values(), strict=True))[1:]:
        assert reason in line
        assert "\n" not in line
    # In a cache that has not seen the model, which would do otherwise.
    anonymous, wrong = load_all(
        hub, tmp_path / "stranger", ("owner/secret", ""), ("owner/secret", "wrong")
    )
    assert "no such repository, or a private one" in anonymous
    assert "it wants a valid token; log in with `hf auth login` or set HF_TOKEN" in wrong


def test_what_cannot_be_pushed_is_told_in_one_line(
    hub: StandIn, tmp_path: Path, saved: Path
) -> None:
    home = tmp_path / "home"
    push(hub, home, str(saved), "owner/tiny")
    before = hub.files("owner/tiny")
    name = str(saved)
    for arguments, token, reason in (
        ([name, "owner/tiny"], None, "cannot push to owner/tiny: it wants a valid token; log in"),
        (
            [name, "owner/tiny"],
            "wrong",
            "cannot push to owner/tiny: it wants a valid token; log in",
        ),
        (
            [name, "other/tiny"],
            TOKEN,
            "your token does not permit it; use one that may write to ot",
        ),
        ([name, "owner/tiny", "--private"], TOKEN, "in private: it is public; change that in its"),
    ):
        done = hub.run(home, *PUSH, *arguments, token=token)
        assert done.returncode == 2
        assert done.stdout == ""
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
    repository = hub.repositories["owner/tiny"]
    hub.meanwhile = lambda: repository.commit(
        "main", "Quicker", lambda it: (it / "LICENSE").write_text("free")
    )
    line = hub.run(home, *PUSH, name, "owner/tiny", "--license", "mit").stderr.splitlines()[-1]
    assert line == (
        "anytime: cannot push to owner/tiny: someone else has pushed meanwhile; look at what is "
        "there, and push again"
    )
    before["LICENSE"] = b"free"
    assert hub.files("owner/tiny") == before


def test_what_is_no_model_or_no_repository_is_not_pushed(saved: Path) -> None:
    for repository in ("tiny", "owner/tiny@v1", "owner/tiny/v1"):
        with pytest.raises(
            InputError, match=f"^'{repository}' is no repository of the Hub; pass O"
        ):
            push_here(saved, repository)
    with pytest.raises(BundleError, match="no model 'nothing'"):
        push_here("nothing", "owner/tiny")
    (saved / "prior.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"prior\.safetensors was altered"):
        push_here(saved, "owner/tiny")
