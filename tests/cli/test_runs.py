"""Runs as a user meets them: going on, with data that has changed or not, and the model's curve."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anytime_ar.bundle.format import load_bundle, save_bundle
from anytime_ar.cli import main
from caches import make_cache_with_kernel

CONFIG = """
name: tiny
data: {{name: "{data}"{more}}}
autoencoder: {{code_length: 4, code_width: 4, quantizer: {{vocabulary: 8}}}}
autoencoder_training: {{steps: 4, batch_size: 8, codebook_init_samples: 16}}
prior: {{layers: 1, width: 8, heads: 2}}
prior_training: {{steps: 4, batch_size: 8, augmented_copies: 1}}
feature_extractor: {{steps: 10, width: 4, num_features: 8}}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Measured times stay out of the home of whoever runs the tests."""
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(make_cache_with_kernel(tmp_path_factory.mktemp("cache")))
    )


def add(folder: Path, first: int, end: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, end):
        shade = (37 * i + 11 * ord(folder.name)) % 256
        Image.new("L", (8, 8), shade).save(folder / f"{i:02}.png")


def write_config(folder: Path, more: str = "") -> str:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(data=folder / "data", more=more))
    return str(path)


def interrupted_run(folder: Path, more: str = "") -> Path:
    """A run that was stopped before its prior, on 20 images of each of two classes."""
    add(folder / "data" / "a", 0, 20)
    add(folder / "data" / "b", 0, 20)
    run = folder / "run"
    main(["train", write_config(folder, more), "--out", str(run), "--device", "cpu"])
    shutil.rmtree(run / "bundle")
    for path in (run / "checkpoints").glob("prior*"):
        path.unlink()
    return run


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command that is refused says, by lines."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_resume_needs_nothing_but_the_run(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    (tmp_path / "tiny.yaml").unlink()
    (run / ".DS_Store").write_bytes(b"")
    (run / "checkpoints" / "._x").write_bytes(b"")
    main(["train", "--resume", str(run), "--device", "cpu"])
    assert str(run / "bundle") in capsys.readouterr().out
    assert load_bundle(run / "bundle").prior is not None
    before = (run / "bundle" / "prior.safetensors").read_bytes()
    main(["train", f"--resume={run}"])  # once more changes nothing
    assert (run / "bundle" / "prior.safetensors").read_bytes() == before


def test_what_was_left_out_of_the_data_is_in_the_log(tmp_path):
    add(tmp_path / "data" / "a", 0, 20)
    (tmp_path / "data" / "a" / "notes.txt").write_text("no picture")
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"\.txt"):
        main(["train", write_config(tmp_path), "--out", str(run), "--device", "cpu"])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["data"] for line in lines if "data" in line] == json.loads(
        (run / "data.json").read_text()
    )["left_out"]


def test_other_settings_are_refused_with_a_line_each(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    head, *lines = fails(
        ["train", "--resume", str(run), "--seed", "3", "--prior_training.steps=5"], capsys
    )
    assert "was begun with other settings; go on with those by `anytime train --resume" in head
    assert lines == ["  - prior_training.steps was 4, is 5", "  - seed was 0, is 3"]
    (line,) = fails(["train", "--resume", str(tmp_path)], capsys)
    assert "no run is there (no config.yaml in this folder)" in line
    (line,) = fails(["train", write_config(tmp_path), "--out", str(run)], capsys)
    assert f"holds a run already; go on with it by `anytime train --resume {run}`" in line


@pytest.mark.parametrize("more", ["", ", streaming: true"])
def test_data_that_changed_is_refused_with_what_changed(more, tmp_path, capsys):
    run = interrupted_run(tmp_path, more)
    (tmp_path / "data" / ".DS_Store").write_bytes(b"")
    add(tmp_path / "data" / "a", 20, 25)
    add(tmp_path / "data" / "c", 0, 20)
    head, *lines = fails(["train", "--resume", str(run)], capsys)
    assert f"data has changed since {run} was begun" in head
    assert "--accept-changed-data" in head
    train = next(line for line in lines if line.startswith("  - train has"))
    assert train.endswith("samples, had 32")
    assert "  - labels are a, b, c; were a, b" in lines
    assert any("there are 65 files" in line for line in lines) == bool(more)
    main(["train", "--resume", str(run), "--accept-changed-data", "--device", "cpu"])
    assert load_bundle(run / "bundle").card.data.labels == ("a", "b", "c")
    log = (run / "log.jsonl").read_text()
    assert "the data has changed: labels are a, b, c; were a, b" in log
    shutil.rmtree(run / "bundle")
    main(["train", "--resume", str(run), "--device", "cpu"])  # accepted once and for all


def test_other_samples_in_the_same_number_are_noticed(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    data = tmp_path / "data" / "a"
    for path in sorted(data.iterdir())[:10]:
        Image.new("L", (8, 8), 3).save(path)
    _, *lines = fails(["train", "--resume", str(run)], capsys)
    assert "  - train has as many samples as before, but others" in lines


def test_a_run_of_an_earlier_release_goes_on(tmp_path):
    run = interrupted_run(tmp_path)
    (run / "data.json").unlink()
    main(["train", "--resume", str(run), "--device", "cpu"])
    assert json.loads((run / "data.json").read_text())["splits"]["train"]["samples"] == 32


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A whole run with features."""
    folder = tmp_path_factory.mktemp("measured")
    add(folder / "data" / "a", 0, 20)
    add(folder / "data" / "b", 0, 20)
    config = write_config(folder)
    main(["train", config, "--out", str(folder / "run"), "--device", "cpu"])
    main(["train-classifier", config, "--out", str(folder / "features"), "--device", "cpu"])
    return folder


def evaluate(folder: Path, *options: str) -> list[str]:
    return [
        *["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")],
        *["--num-samples", "20", "--codes", "[2,4]", "--device", "cpu", *options],
    ]


def test_the_model_of_a_run_gets_its_curve(measured, capsys):
    bundle = measured / "run" / "bundle"
    main(evaluate(measured, "--no-save-curve"))
    assert load_bundle(bundle).curve is None
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._config.json"):
        (bundle / name).write_bytes(b"")
    main(evaluate(measured))
    assert capsys.readouterr().out.endswith(f"{measured / 'run'}: the model has this curve now\n")
    curve = load_bundle(bundle).curve
    assert curve is not None
    assert curve.num_samples == 20
    main(evaluate(measured, "--num-samples=10"))  # a worse one does not replace it
    main(evaluate(measured, "--temperature=0.5"))  # nor one of other draws
    assert load_bundle(bundle).curve == curve
    main(evaluate(measured, "--num-samples=10", "--save-curve"))
    assert load_bundle(bundle).curve != curve


def test_what_can_be_refused_is_refused_before_work(measured, tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("anytime_ar.cli.evaluate.load", work)
    monkeypatch.setattr("anytime_ar.cli.sample.load", work)
    monkeypatch.setattr("anytime_ar.cli.train_classifier.load_data", work)
    monkeypatch.setattr("anytime_ar.training.run.load_data", work)
    foreign = measured / "run" / "bundle" / "notes.txt"
    foreign.write_text("")
    assert "also holds notes.txt" in fails(evaluate(measured), capsys)[0]
    foreign.unlink()
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "below")
    message = f"{tmp_path / 'file'} is a file; choose another folder"
    assert message in fails(evaluate(measured, "--out", below), capsys)[0]
    assert message in fails(["train-classifier", "digits", "--out", below], capsys)[0]
    assert message in fails(["train", "digits", "--out", below], capsys)[0]
    assert message in fails(["bench", "mnist", "--out", below], capsys)[0]
    assert message in fails(["demo", "--out", below], capsys)[0]
    state = str(tmp_path / "no" / "state")
    assert "there is no folder" in fails(["sample", "mnist", "--save-state", state], capsys)[0]
    assert "columns is 0" in fails(["sample", "mnist", "--columns", "0"], capsys)[0]
    assert "columns is -1" in fails(["decode", "mnist", "1", "--columns", "-1"], capsys)[0]
    bulk = ["bulk", "sample", "mnist", "-n", "1"]
    assert "arguments are required: --out;" in fails(bulk, capsys)[0]


def test_codes_out_of_range_are_refused_before_data_is_read(measured, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("anytime_ar.cli.evaluate.load_data", work)
    (line,) = fails(evaluate(measured, "--codes", "[99]"), capsys)
    assert "codes [99] are outside 1..4" in line


def test_data_that_is_not_there_is_told_before_threads_are_timed(tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("anytime_ar.cli.train.tune_threads_from", work)
    monkeypatch.chdir(tmp_path)
    (line,) = fails(["train", "--data.name", "./nowhere"], capsys)
    assert "data path './nowhere' does not exist" in line


def test_features_that_are_none_are_told_before_work(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (line,) = fails(["evaluate", "mnist", "--feature-extractor", "nothere.pt"], capsys)
    assert line.startswith(
        "anytime: nothere.pt: no such file or folder; train a feature extractor with"
    )
    (line,) = fails(["evaluate", "mnist", "--feature-extractor", str(measured / "data")], capsys)
    assert "has no features.json, so it holds no feature extractor" in line
    for content in (b"", b"text", b"\x80\x02pickle", b"PK\x05\x06" + bytes(18)):
        Path("odd.pt").write_bytes(content)
        run = evaluate(measured, "--feature-extractor=odd.pt")
        (line,) = fails(run, capsys)
        assert "odd.pt is" in line
        assert "TorchScript file" in line
        assert "PytorchStreamReader" not in line


def evaluate_alone(model: str, *options: str) -> list[str]:
    figures = ["--num-samples", "20", "--codes", "[2,4]", "--device", "cpu"]
    return ["evaluate", model, *figures, "--out", "curve", *options]


def test_a_missing_feature_extractor_is_trained_first(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(evaluate_alone(str(measured / "run"), "--no-save-curve"))
    told = capsys.readouterr()
    folder = Path("runs/features/tiny")
    assert f"anytime: there is no {folder} yet; training it first" in told.err.splitlines()
    assert (folder / "features.json").is_file()
    trained = {path.name: path.read_bytes() for path in folder.iterdir()}
    same = {path.name: path.read_bytes() for path in (measured / "features").iterdir()}
    assert trained == same
    main(evaluate_alone(str(measured / "run"), "--no-save-curve"))
    again = capsys.readouterr()
    assert "training" not in again.err
    assert [line.split()[:3] for line in again.out.splitlines()] == [
        line.split()[:3] for line in told.out.splitlines()
    ]


def test_a_copy_of_the_data_trains_the_feature_extractor_too(measured, tmp_path, monkeypatch):
    """The model names a data set of the Hub, which is not asked for."""
    monkeypatch.chdir(tmp_path)
    bundle = load_bundle(measured / "run" / "bundle")
    settings = bundle.card.training["data"] | {"name": "owner/name"}
    card = bundle.card.model_copy(update={"training": bundle.card.training | {"data": settings}})
    save_bundle(replace(bundle, card=card), Path("run/bundle"))
    shutil.copy(measured / "run" / "config.yaml", "run")
    monkeypatch.setattr("anytime_ar.data.loading.hub_source", lambda _: pytest.fail("asked"))
    main(evaluate_alone("run", "--data.name", str(measured / "data")))
    trained = Path("runs/features/tiny/features.json").read_bytes()
    assert trained == (measured / "features/features.json").read_bytes()


def test_a_model_alone_takes_the_shipped_configuration_of_its_name(
    measured, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured / "run" / "bundle", "model")
    (line,) = fails(evaluate_alone("model"), capsys)
    assert "runs/features/tiny: no such file or folder; train a feature extractor with" in line
    monkeypatch.setattr("anytime_ar.cli.evaluate.config_names", lambda: ["tiny"])
    other = (measured / "tiny.yaml").read_text().replace(str(measured / "data"), "no/such/data")
    Path("shipped.yaml").write_text(other)  # the data is that of the model
    monkeypatch.setattr("anytime_ar.cli.evaluate.config_path", lambda _: Path("shipped.yaml"))
    main(evaluate_alone("model"))
    assert Path("runs/features/tiny/features.json").is_file()


def test_several_processes_train_no_feature_extractor(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (line,) = fails(evaluate_alone(str(measured / "run")), capsys)
    assert "runs/features/tiny: no such file or folder; train a feature extractor with" in line
    assert not Path("runs").exists()


def test_help_is_short_unless_all_is_asked_for(capsys):
    told = []
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            main(["train", option])
        assert stopped.value.code == 0
        told.append(capsys.readouterr().out)
    short, whole = told
    assert len(short.splitlines()) < 100
    assert "anytime train --help-all" in short
    assert "--data.size" in whole
    assert "--resume" in short
    for text in told:
        assert not any(word in text for word in ("Annotated", "Literal", "Union", "<class"))


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "train"),
        (["train", "minst"], "mnist"),
        (["train", "digits", "--data.sise=3"], "--data.size"),
        (["train", "digits", "--prior.layrs=3"], "layers"),
        (["sample", "mnist", "--tempereture=3"], "--temperature"),
    ],
)
def test_the_nearest_word_is_named(arguments, meant, capsys):
    (line,) = fails(arguments, capsys)
    assert f", did you mean {meant!r}?" in line


def test_a_wrong_value_is_told_in_words(capsys):
    (line,) = fails(["sample", "mnist", "--top_k=x"], capsys)
    assert line == "anytime: --top-k: expected int or null, got x; see `anytime sample --help`"
    (line,) = fails(["train", "digits", "--log_every=0"], capsys)
    assert "--log-every: expected greater than or equal to 1, got 0" in line


ODD = "a[1]*?::b%#=1"


def test_odd_paths_are_taken_to_the_letter(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(ODD).mkdir()
    run = f"{ODD}/lr=3"
    shutil.copytree(measured / "run", run)
    main(["sample", run, "-n", "2", "--out", f"{ODD}/{ODD}.png", "--save-state", f"{ODD}/s#"])
    main(["refine", run, f"{ODD}/s#", "--out", "#x.png"])
    main(["encode", run, "#x.png", "-o", f"{ODD}/c%s.npz"])
    main(["decode", run, f"{ODD}/c%s.npz", "--out", "&y.png"])
    main(["decode", run, "1", "--out", "caf\udce9.png"])  # Latin-1 on a disk of UTF-8
    names = {"#x.png", "&y.png", "caf\udce9.png", ODD}
    assert names <= {path.name for path in Path().iterdir()}
    bulk = ["bulk", "sample", run, "-n", "4", "--out", f"{ODD}/shards", "--seed", "1"]
    main(bulk)
    capsys.readouterr()
    main(bulk)
    assert "it was complete" in capsys.readouterr().out
    assert (Path(ODD) / "shards" / "manifest.json").is_file()
    features = ["--feature-extractor", str(measured / "features")]
    figures = [
        "--num-samples",
        "10",
        "--codes",
        "[2,4]",
        "--device",
        "cpu",
        "--out",
        f"{ODD}/curve",
    ]
    main(["evaluate", run, *features, *figures])
    main(["compare", f"x={ODD}/curve", f"y={ODD}/curve/curve.json", "--out", f"{ODD}/compared"])
    assert (Path(ODD) / "compared" / "comparison.json").is_file()


def test_system_files_are_no_job(measured, tmp_path):
    out = tmp_path / "shards"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"")
    run = str(measured / "run")
    main(["bulk", "sample", run, "-n", "2", "--out", str(out), "--seed", "1"])
    assert (out / "manifest.json").is_file()


def test_shards_of_data_that_changed_are_no_mixture(measured, tmp_path, capsys):
    add(tmp_path / "data" / "a", 0, 20)
    job = [
        "bulk",
        "encode",
        str(measured / "run"),
        "--data",
        str(tmp_path / "data"),
        "--device",
        "cpu",
    ]
    job += ["--out", str(tmp_path / "shards"), "--shard-size", "5"]
    main(job)
    Image.new("L", (8, 8), 9).save(tmp_path / "data" / "a" / "zz.png")
    (tmp_path / "data" / "a" / "00.png").unlink()  # as many as before
    (line,) = fails(job, capsys)
    assert "holds another job: data_fingerprint is 20 files of" in line
