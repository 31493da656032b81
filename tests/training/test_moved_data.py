"""A run follows its data to another path, if it is the same data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from anytime_ar.bundle.format import load_bundle
from anytime_ar.cli import main
from caches import make_cache_with_kernel

CONFIG = """
name: tiny
data: {{name: {data}{more}}}
autoencoder: {{code_length: 4, code_width: 4, quantizer: {{vocabulary: 8}}}}
autoencoder_training: {{steps: 4, batch_size: 8, codebook_init_samples: 16}}
prior: {{layers: 1, width: 8, heads: 2}}
prior_training: {{steps: 4, batch_size: 8}}
feature_extractor: {{steps: 10}}
"""


def add_images(folder: Path, count: int, shade: int = 37) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), (shade * i + 11 * ord(folder.name)) % 256).save(
            folder / f"{i:02}.png"
        )


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A run without its last stage, begun beside its data with a relative path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(make_cache_with_kernel(tmp_path / "cache")))
    home = tmp_path / "home"
    for name in "ab":
        add_images(home / "data" / name, 20)
    monkeypatch.chdir(home)
    Path("tiny.yaml").write_text(CONFIG.format(data="data", more=getattr(request, "param", "")))
    main(["train", "tiny.yaml", "--out", "run", "--device", "cpu"])
    shutil.rmtree("run/bundle")
    for path in Path("run/checkpoints").glob("prior*"):
        path.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return home


def resume(home: Path, data: Path | str, *options: str) -> None:
    run = str(home / "run")
    main(["train", "--resume", run, "--data.name", str(data), "--device", "cpu", *options])


@pytest.mark.parametrize("begun", ["", ", streaming: true"], indirect=True)
@pytest.mark.parametrize("moved", [False, True])
def test_the_same_data_at_another_path(begun: Path, moved: bool) -> None:
    data = begun / "data"
    if moved:
        data = data.rename(begun.parent / "moved")
    fingerprint = json.loads((begun / "run/data.json").read_text())
    assert fingerprint["path"] == str(begun / "data")
    resume(begun, data)
    assert load_bundle(begun / "run/bundle").card.data.name == str(data)
    found = json.loads((begun / "run/data.json").read_text())
    assert found == fingerprint | {"path": str(data)}
    log = (begun / "run/log.jsonl").read_text()
    same = f"the data is {data} now; it was data, which is the same by its fingerprint"
    assert same in [value for line in log.splitlines() for value in json.loads(line).values()]
    shutil.rmtree(begun / "run/bundle")
    main(["train", "--resume", str(begun / "run"), "--device", "cpu"])  # the new path is stored


@pytest.mark.parametrize("begun", ["", ", streaming: true"], indirect=True)
def test_a_relative_path_is_found_from_another_folder(begun: Path) -> None:
    run, data = str(begun / "run"), str(begun / "data")
    main(["train", "--resume", run, "--device", "cpu"])
    assert load_bundle(begun / "run/bundle").card.data.name == data
    assert (
        f"data is {data} now; it was data, which is the same"
        in (begun / "run/log.jsonl").read_text()
    )


def test_data_at_neither_place_are_refused(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (begun / "data").rename(begun / "moved")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(begun / "run"), "--device", "cpu"])
    assert ended.value.code == 2
    gone = (
        f"no longer at {begun / 'data'}, and 'data' does not exist in {Path.cwd()}; set data.name"
    )
    assert gone in capsys.readouterr().err
    resume(begun, begun / "moved")


def test_a_run_is_evaluated_from_another_folder(
    begun: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path.cwd()
    monkeypatch.chdir(begun)
    main(["train", "--resume", "run", "--device", "cpu"])
    assert load_bundle("run/bundle").card.data.name == "data"
    monkeypatch.chdir(elsewhere)
    for model in (begun / "run", begun / "run/bundle"):
        settings = ["--codes", "[2]", "--num-samples", "20", "--device", "cpu", "--out", "report"]
        main(["evaluate", str(model), *settings])
        assert "PSNR" in capsys.readouterr().out
    (begun / "data").rename(begun / "moved")
    with pytest.raises(SystemExit):
        main(["evaluate", str(begun / "run"), "--num-samples", "20", "--device", "cpu"])
    assert f"no longer at {begun / 'data'}, and 'data' does not" in capsys.readouterr().err


@pytest.mark.parametrize("begun", ["", ", streaming: true"], indirect=True)
def test_other_data_are_refused(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = begun.parent / "other"
    for name in "ab":
        add_images(other / name, 21, shade=41)
    before = (begun / "run/config.yaml").read_bytes(), (begun / "run/data.json").read_bytes()
    with pytest.raises(SystemExit) as ended:
        resume(begun, other)
    assert ended.value.code == 2
    assert f"{other} has changed since {begun / 'run'} was begun" in capsys.readouterr().err
    after = (begun / "run/config.yaml").read_bytes(), (begun / "run/data.json").read_bytes()
    assert before == after
    resume(begun, other, "--accept-changed-data")
    assert load_bundle(begun / "run/bundle").card.data.name == str(other)


def test_without_a_fingerprint_another_path_is_refused(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun / "run/data.json").unlink()
    with pytest.raises(SystemExit):
        resume(begun, begun / "data")
    error = capsys.readouterr().err
    assert f"  - data.name was data, is {begun / 'data'}, without a digest of both" in error


def test_other_settings_are_still_refused(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        resume(begun, begun / "data", "--data.size", "4")
    assert "was begun with other settings" in capsys.readouterr().err
