"""`anytime compare`: curves side by side."""

from __future__ import annotations

import json

from anytime_ar.bundle.curve import Curve
from anytime_ar.cli import main
from cli.command_line import fails, names


def test_compare_sets_curves_side_by_side(folder, tmp_path, capsys):
    every, two, out = tmp_path / "every", tmp_path / "two", tmp_path / "compared"
    model = folder / "run" / "bundle"
    for place, codes in ((every, "[1,2,3,4]"), (two, "[1,2]")):
        options = [f"--feature-extractor={folder / 'features'}", f"--out={place}", "--device=cpu"]
        main(["evaluate", str(model), "--num-samples=40", f"--codes={codes}", *options])
    capsys.readouterr()
    models = [f"every={every}", f"two={two / 'curve.json'}"]
    main(["compare", *models, f"--fixed-length=[{two}]", f"--out={out}"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80  # but for the path
    assert names(out) == ["comparison.json", "comparison.md", "comparison.png"]
    main(["compare", *models, f"--fixed-length=[{two}]", f"--out={out}", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "comparison.json").read_text())
    fd = Curve.read(two / "curve.json").points[1].fd_sample
    assert told["matches"] == [{"bits": 6.0, "fixed_length_fd": fd, "fd": fd}]
    # Of a model that has none, and of none at all; a folder of a model is no place for a curve.
    assert "no curve; measure it with" in fails(
        ["compare", f"a={folder / 'codec'}", f"b={two}"], capsys
    )
    assert "holds a model; leave --out" in fails(
        ["evaluate", str(model), *options[:1], f"--out={model}"], capsys
    )
    assert "'runs' is no NAME=PATH" in fails(["compare", "runs", f"b={two}"], capsys)
