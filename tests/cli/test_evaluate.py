"""`anytime evaluate`: the curve, whose model gets it, and feature extractors of all kinds."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import load_bundle, save_bundle
from anytime_ar.cli import main
from anytime_ar.sampling import load
from cli.command_line import TINY, add, fails, refused, write_config


@pytest.fixture
def folder(folder, tmp_path_factory) -> Path:
    """A copy, whose models may get a curve."""
    return shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "cli")


def test_evaluate_writes_the_curve_and_attaches_it(folder, tmp_path, capsys):
    arguments = ["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")]
    arguments += ["--unordered", str(folder / "codec"), "--num-samples", "200", "--codes", "[1,4]"]
    main([*arguments, "--out", str(tmp_path), "--save-curve", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [point["codes"] for point in figures["points"]] == [1, 4]
    assert json.loads((tmp_path / "curve.json").read_text()) == figures
    for picture in ("curve.png", "codes.png", "samples.png", "changes.png"):
        assert (tmp_path / picture).stat().st_size > 1000
    curve = load(folder / "run", device="cpu").curve
    assert curve is not None
    assert curve.model_dump(mode="json") == figures
    main([*arguments, "--out", str(tmp_path)])
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines()[:6])) <= 80
    assert "unord." in table


def test_a_data_set_without_labels_names_a_network_that_needs_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for i in range(40):
        Image.new("L", (8, 8), 5 * i).save(tmp_path / "data" / f"{i:02}.png")
    main(["train", write_config(tmp_path), "--out", "run", "--device", "cpu"])
    capsys.readouterr()
    told = fails(["evaluate", "run", "--device", "cpu"], capsys)
    assert "this data set has no labels" in told
    assert "docs/how-to/fid.md" in told
    assert told.endswith("anytime evaluate MODEL --feature-extractor inception-2015-12-05.pt")


def test_several_processes_find_what_one_finds(folder, tmp_path, capsys):
    """With labels, a number of samples that is no multiple of anything, and both baselines."""
    arguments = ["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")]
    arguments += ["--unordered", str(folder / "codec"), "--num-samples", "333", "--codes", "[1,4]"]
    main([*arguments, "--out", str(tmp_path / "one"), "--json"])
    expected = json.loads(capsys.readouterr().out)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, "-m", "anytime_ar", *arguments, "--out", str(tmp_path / "two"), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of one of them
    for point in (*expected["points"], *found["points"]):
        assert point.pop("ms") > 0
    assert found == expected
    assert Curve.read(tmp_path / "two" / "curve.json").num_samples == 333


class Pixels(torch.nn.Module):
    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return img.float().flatten(1)[:, :: 7 if return_features else 1]


def test_evaluate_takes_features_of_others(folder, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Pixels()).save(str(tmp_path / "others.pt"))
    arguments = [
        "evaluate",
        str(folder / "run"),
        "--feature-extractor",
        str(tmp_path / "others.pt"),
    ]
    main([*arguments, "--num-samples", "60", "--codes", "[4]", "--out", str(tmp_path), "--json"])
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert point["fd_sample"] > 0
    assert 0 <= point["sample_metrics"]["precision"] <= 1
    assert "is no TorchScript file" in fails(
        [
            "evaluate",
            str(folder / "run"),
            "--feature-extractor",
            str(folder / "run" / "config.yaml"),
        ],
        capsys,
    )


def test_attaching_a_curve_keeps_how_codes_were_chosen(folder, tmp_path, capsys):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    plain = load(run, device="cpu").sample_codes(8, seed=0)
    evaluate = [
        "evaluate",
        str(run),
        "--feature-extractor",
        str(folder / "features"),
        "--num-samples",
        "50",
    ]
    chosen = ["--guidance", "[2, 3]", "--temperature", "0.5"]
    main([*evaluate, *chosen, "--codes", "[4]", "--save-curve", "--json"])
    params = json.loads(capsys.readouterr().out)["sampling_params"]
    assert params == {"guidance": [2.0, 3.0], "temperature": 0.5}
    model = load(run, device="cpu")
    codes = model.sample_codes(8, seed=0)
    assert not torch.equal(codes, plain)
    assert torch.equal(codes, model.sample_codes(8, seed=0, guidance=[2.0, 3.0], temperature=0.5))
    assert torch.equal(model.sample_codes(8, seed=0, guidance=1.0, temperature=1.0), plain)
    main(["sample", str(run), "-n", "8", "--seed", "0", "--out", str(tmp_path / "own.png")])
    main(
        ["sample", str(run), "-n", "8", "--seed", "0", *chosen, "--out", str(tmp_path / "same.png")]
    )
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "same.png").read_bytes()


def test_features_may_tell_other_labels_apart(folder, tmp_path, capsys):
    """As the speaker of a spoken digit; here, whether a digit is odd."""
    digits = load_digits()
    images = []
    for pixels in digits.images[:300]:
        stream = io.BytesIO()
        Image.fromarray((pixels * 15).astype("uint8")).save(stream, "png")
        images.append({"bytes": stream.getvalue(), "path": None})
    names = {"digit": [str(i) for i in range(10)], "parity": ["even", "odd"]}
    columns = {"digit": digits.target[:300].tolist(), "parity": (digits.target[:300] % 2).tolist()}
    types = {key: datasets.ClassLabel(names=names[key]) for key in names}
    made = datasets.Dataset.from_dict(
        {"image": images, **columns}, datasets.Features({"image": datasets.Image(), **types})
    )
    made.to_parquet(tmp_path / "digits.parquet")
    data = [f"--data.name={tmp_path / 'digits.parquet'}", "--data.label_key=parity"]
    main(
        [
            "train-classifier",
            "digits",
            *TINY,
            *data,
            "--feature_extractor.steps=60",
            f"--out={tmp_path / 'odd'}",
        ]
    )
    capsys.readouterr()
    evaluate = [
        "evaluate",
        str(folder / "run"),
        "--feature-extractor",
        str(tmp_path / "odd"),
        "--num-samples",
    ]
    evaluate += ["50", "--data", str(tmp_path / "digits.parquet"), "--codes", "[4]", "--json"]
    evaluate += ["--out", str(tmp_path / "curve")]
    main([*evaluate, "--label-key", "parity"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["label_accuracy_test"] > 0.7
    assert figures["points"][0]["label_accuracy_reconstruction"] is not None
    assert (
        figures["points"][0]["label_accuracy_sample"] is None
    )  # the model was not asked for odd ones
    main([*evaluate, "--label-key", "digit"])  # which these features cannot read
    assert json.loads(capsys.readouterr().out)["label_accuracy_test"] is None
    assert "label_key" in fails([*evaluate, "--label-key", "colour"], capsys)


def test_a_curve_is_attached_to_a_folder_only(capsys):
    assert "'mnist' is not a folder" in fails(["evaluate", "mnist", "--save-curve"], capsys)
    coarse = ["evaluate", "mnist", "--save-curve", "--precision", "int8"]
    assert "not those in int8; leave --save-curve or --precision out" in fails(coarse, capsys)


def evaluate(folder: Path, *options: str) -> list[str]:
    return [
        *["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")],
        *["--num-samples", "20", "--codes", "[2,4]", "--device", "cpu", *options],
    ]


def test_the_model_of_a_run_gets_its_curve(measured, tmp_path, capsys):
    measured = shutil.copytree(measured, tmp_path / "measured")
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
    assert "also holds notes.txt" in refused(evaluate(measured), capsys)[0]
    foreign.unlink()
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "below")
    message = f"{tmp_path / 'file'} is a file; choose another folder"
    assert message in refused(evaluate(measured, "--out", below), capsys)[0]
    assert message in refused(["train-classifier", "digits", "--out", below], capsys)[0]
    assert message in refused(["train", "digits", "--out", below], capsys)[0]
    assert message in refused(["bench", "mnist", "--out", below], capsys)[0]
    assert message in refused(["demo", "--out", below], capsys)[0]
    state = str(tmp_path / "no" / "state")
    assert "there is no folder" in refused(["sample", "mnist", "--save-state", state], capsys)[0]
    assert "columns is 0" in refused(["sample", "mnist", "--columns", "0"], capsys)[0]
    assert "columns is -1" in refused(["decode", "mnist", "1", "--columns", "-1"], capsys)[0]
    bulk = ["bulk", "sample", "mnist", "-n", "1"]
    assert "arguments are required: --out;" in refused(bulk, capsys)[0]


def test_codes_out_of_range_are_refused_before_data_is_read(measured, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("anytime_ar.cli.evaluate.load_data", work)
    (line,) = refused(evaluate(measured, "--codes", "[99]"), capsys)
    assert "codes [99] are outside 1..4" in line


def test_features_that_are_none_are_told_before_work(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (line,) = refused(["evaluate", "mnist", "--feature-extractor", "nothere.pt"], capsys)
    assert line.startswith(
        "anytime: nothere.pt: no such file or folder; train a feature extractor with"
    )
    (line,) = refused(["evaluate", "mnist", "--feature-extractor", str(measured / "data")], capsys)
    assert "has no features.json, so it holds no feature extractor" in line
    for content in (b"", b"text", b"\x80\x02pickle", b"PK\x05\x06" + bytes(18)):
        Path("odd.pt").write_bytes(content)
        run = evaluate(measured, "--feature-extractor=odd.pt")
        (line,) = refused(run, capsys)
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
    sizes = "measuring 2 numbers of codes, with 20 new samples and [0-9]+ test samples, takes about"
    assert re.search(sizes, told.err)
    assert "20 new samples (fewer than 1,000), so `quality` will be a rough guess" in told.err
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


def test_other_data_of_the_same_name_is_refused(measured, tmp_path, monkeypatch, capsys):
    """A relative name may lead to other data in another folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured / "run", "run")
    facts = json.loads(Path("run/data.json").read_text())
    facts["splits"]["test"]["sha256"] = "0" * 64
    Path("run/data.json").write_text(json.dumps(facts))
    before = Path("run/bundle/manifest.json").read_bytes()
    first, change = refused(evaluate_alone("run"), capsys)
    assert f"{measured / 'data'} is not the data that run was trained on; name the data" in first
    assert change.strip() == "- test has as many samples as before, but others"
    assert Path("run/bundle/manifest.json").read_bytes() == before


def test_a_classifier_of_other_data_is_refused(measured, tmp_path, monkeypatch, capsys):
    """A run of other data had the same name."""
    monkeypatch.chdir(tmp_path)
    for label in ("a", "b", "c"):
        add(tmp_path / "data" / label, 0, 20)
    main(["train-classifier", write_config(tmp_path), "--device", "cpu"])
    capsys.readouterr()
    (line,) = refused(evaluate_alone(str(measured / "run")), capsys)
    assert "features/tiny was trained to classify a, b, c, and" in line
    train = f"anytime train-classifier {measured}/run/config.yaml --data.name {measured}/data --out"
    assert f"`{train} runs/features/tiny-2`" in line
    assert not Path("curve").exists()
    main([*f"{train} runs/features/tiny-2".split()[1:], "--device", "cpu"])  # as advised
    advised = ["--feature-extractor", "runs/features/tiny-2"]
    main([*evaluate_alone(str(measured / "run")), *advised, "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["label_accuracy_test"] is not None


def test_a_classifier_of_other_data_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train-classifier", write_config(tmp_path), "--device", "cpu"]
    for label in ("a", "b"):
        add(tmp_path / "data" / label, 0, 20)
        add(tmp_path / "other" / label, 0, 30)
    main(train)
    card = Path("runs/features/tiny/features.json")
    before = card.read_bytes()
    first, *changes = refused([*train, "--data.name", "other"], capsys)
    assert "features/tiny holds a classifier that was trained on other data than other" in first
    assert "choose another --name or --out" in first
    assert any("train has" in change for change in changes)
    assert card.read_bytes() == before
    main([*train, "--data.name", "other", "--name", "other"])  # as advised
    assert Path("runs/features/other/features.json").is_file()
    main(train)  # on the same data
    card.write_text("{}")  # damaged: replaced
    main([*train, "--data.name", "other"])
    assert card.read_bytes() not in (b"{}", before)


def test_a_classifier_of_as_many_other_classes_is_refused(measured, tmp_path, monkeypatch, capsys):
    """The names tell them apart; a classifier of 0.1 does not know them."""
    monkeypatch.chdir(tmp_path)
    for label in ("a", "z"):
        add(tmp_path / "data" / label, 0, 20)
    main(["train-classifier", write_config(tmp_path), "--device", "cpu"])
    capsys.readouterr()
    (line,) = refused(evaluate_alone(str(measured / "run")), capsys)
    assert "features/tiny was trained to classify a, z, and" in line
    chosen = ["--feature-extractor", "runs/features/tiny"]  # its features serve, its labels do not
    main([*evaluate_alone(str(measured / "run")), *chosen, "--json"])
    assert json.loads(capsys.readouterr().out)["label_accuracy_test"] is None
    card = Path("runs/features/tiny/features.json")
    facts = json.loads(card.read_text())
    assert facts["trained_on"]["labels"] == ["a", "z"]
    assert facts["trained_on"]["path"] is None  # of this machine
    del facts["trained_on"]
    card.write_text(json.dumps(facts))
    main([*evaluate_alone(str(measured / "run")), "--json"])
    assert json.loads(capsys.readouterr().out)["label_accuracy_test"] is not None


def test_a_classifier_of_other_samples_of_the_same_classes_is_reported(
    measured, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for label in sorted(path.name for path in (measured / "data").iterdir()):
        add(tmp_path / "data" / label, 0, 50)
    main(["train-classifier", write_config(tmp_path), "--device", "cpu"])
    capsys.readouterr()
    main(evaluate_alone(str(measured / "run")))
    printed = capsys.readouterr().err
    assert "features/tiny was trained on other samples than" in printed
    assert "train has" in printed


def test_a_model_alone_takes_the_shipped_configuration_of_its_name(
    measured, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured / "run" / "bundle", "model")
    (line,) = refused(evaluate_alone("model"), capsys)
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
    (line,) = refused(evaluate_alone(str(measured / "run")), capsys)
    assert "runs/features/tiny: no such file or folder; train a feature extractor with" in line
    assert not Path("runs").exists()
