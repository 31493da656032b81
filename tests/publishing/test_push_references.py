"""Models whose weights are in repositories of others go to the Hub and come back.

The Hub is a stand-in on this machine; see `test_push`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Repository, StandIn, stand_in

import anytime_ar as aar
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import BUNDLE_FILES
from anytime_ar.prior.huggingface import HuggingFacePrior
from random_models import llama_config, random_bundle

DO = """
import json, sys
import anytime_ar as aar

for name, *arguments in json.loads(sys.argv[1]):
    try:
        if name == "save":
            source, folder, references = arguments
            aar.load(source, device="cpu").save(folder, references=references)
            done = "saved"
        elif name == "push":
            source, repository, references = arguments
            done = aar.push(source, repository, references=references)
        else:
            model = aar.load(*arguments, device="cpu")
            done = [model.fingerprint, repr(model)]
    except ValueError as error:
        done = str(error)
    print(json.dumps(done))
"""
"""Saves, pushes and loads; prints a line of JSON for each."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "hub") as hub:
        yield hub


def do(hub: StandIn, home: Path, *steps: tuple[Any, ...], **environment: str) -> list[Any]:
    """What a user with a cache in `home` gets for steps."""
    done = hub.run(home, "-c", DO, json.dumps(steps), **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_prior_of_others_stays_with_them(hub: StandIn, tmp_path: Path) -> None:
    values = {
        "name": "tiny",
        "data": {"name": "none", "sample_shape": (1, 8, 8)},
        "autoencoder": {
            "code_length": 3,
            "code_width": 2,
            "quantizer": {"vocabulary": 4},
            "network": {"widths": [4, 8], "blocks": 1},
        },
        "prior": llama_config(code_length=3, vocabulary=4, label_count=0),
    }
    model = aar.AnytimeModel(random_bundle(Card.parse(values, origin="test")), device="cpu")
    assert isinstance(model.prior, HuggingFacePrior)
    model.prior.model.save_pretrained(tmp_path / "llama")
    model.save(tmp_path / "model")
    theirs = Repository(tmp_path / "hub" / "llama", private=False)

    def add(folder: Path) -> None:
        for path in (tmp_path / "llama").iterdir():
            shutil.copy(path, folder)
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")

    commit = theirs.commit("main", "weights", add)
    pickled = Repository(tmp_path / "hub" / "pickled", private=False)
    pickled.commit("main", "no", lambda it: (it / "pytorch_model.bin").write_text("a pickle"))
    hub.repositories |= {"other/llama": theirs, "other/pickled": pickled}

    own, local = str(tmp_path / "model"), str(tmp_path / "local")
    pushed, loaded = do(
        hub,
        tmp_path / "home",
        ("push", own, "owner/tiny", {"prior": "other/llama@main"}),
        ("load", "owner/tiny"),
    )
    assert pushed.startswith("owner/tiny@")
    assert loaded[0] == model.fingerprint
    assert f"prior='other/llama@{commit[:12]}'" in loaded[1]
    assert "pytorch_model.bin" not in hub.fetched
    files = hub.files("owner/tiny")
    assert "prior.safetensors" not in files
    assert json.loads(files["config.json"])["references"]["prior"]["revision"] == commit
    text = files["README.md"].decode()
    assert "base_model:\n- other/llama\n" in text
    assert f"at commit `{commit}` (1 file, " in text

    model.save(local, references={"prior": tmp_path / "llama"})
    refused, no_weights, nothing, no_tag = do(
        hub,
        tmp_path / "home",
        ("push", local, "owner/local", None),
        ("save", own, str(tmp_path / "x"), {"prior": "other/pickled"}),
        ("save", own, str(tmp_path / "x"), {"prior": "other/none"}),
        ("save", own, str(tmp_path / "x"), {"prior": "other/llama@v9"}),
    )
    assert "which others do not have; upload it, and pass its Hub ID with --references.p" in refused
    assert no_weights.startswith("other/pickled@")
    assert "has no model.safetensors, and pickled weights can run code" in no_weights
    assert "no such repository, or a private one; check the name" in nothing
    assert "no revision 'v9'; pass a branch, a tag or a whole commit hash" in no_tag

    # Later weights of others change nothing.
    theirs.commit("main", "others", lambda it: (it / "model.safetensors").write_bytes(b"other"))
    hub.fetched.clear()
    reader = tmp_path / "reader"
    assert do(hub, reader, ("load", "owner/tiny")) == [loaded]
    assert hub.fetched.count("model.safetensors") == 1
    hub.close()
    assert do(hub, reader, ("load", "owner/tiny"), HF_HUB_OFFLINE="1") == [loaded]
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in BUNDLE_FILES & files.keys():
        (copied / name).write_bytes(files[name])
    (again,) = do(hub, tmp_path / "stranger", ("load", str(copied)), HF_HUB_OFFLINE="1")
    assert again == (
        f"the prior is stored as model.safetensors in other/llama@{commit} on the Hub, which "
        "cannot be fetched: it cannot be reached, and the cache has no complete copy; check the "
        "network"
    )
    (cached,) = reader.glob(f"hub/models--other--llama/snapshots/{commit}/model.safetensors")
    content = cached.read_bytes()
    cached.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (altered,) = do(hub, reader, ("load", "owner/tiny"), HF_HUB_OFFLINE="1")
    assert f"{cached} of the prior was altered: its SHA-256 is " in altered
    assert altered.endswith(f"; delete {cached.resolve()}, so that it is fetched again")
