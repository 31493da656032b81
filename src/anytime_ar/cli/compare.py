"""Compare models by their measured curves: sample quality at the same bits and at the same time.

Each model is NAME=PATH. PATH is a curve.json of `anytime evaluate`, its folder, or a model. The
first model is compared with the others.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import find_bundle, load_bundle
from anytime_ar.cli.options import add_json, parse_named_path, print_result
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.errors import InputError
from anytime_ar.evaluation import Candidate, FixedLengthModels, comparison_table, write_comparison
from anytime_ar.runtime.files import check_output_path


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime compare`."""
    parser.add_argument("models", nargs="+", help="two or more, as ordered=runs/mnist")
    parser.add_argument(
        "--fixed-length",
        type=list[str] | None,
        help="models trained for one length each, as [runs/a,runs/b]",
    )
    parser.add_argument(
        "--out",
        type=literal_path,
        default=Path("comparison"),
        help="folder for tables and the plot",
    )
    add_json(parser)


def run(arguments: Namespace) -> None:
    """Compare the curves of several models, and write tables and a plot."""
    check_output_path(arguments.out, is_folder=True)
    candidates = [_parse_candidate(text) for text in arguments.models]
    fixed_length = None
    if arguments.fixed_length:
        curves = tuple(load_curve(where) for where in arguments.fixed_length)
        fixed_length = FixedLengthModels("trained for one length", curves)
    comparison = write_comparison(candidates, fixed_length, arguments.out)
    print_result(
        arguments,
        f"{comparison_table(comparison)}\n\n"
        f"{arguments.out}: comparison.json, comparison.md and comparison.png",
        **comparison.model_dump(mode="json"),
    )


def _parse_candidate(text: str) -> Candidate:
    name, where = parse_named_path(text)
    if not name or not where:
        raise InputError(f"{text!r} is no NAME=PATH; write it as ordered=runs/mnist")
    return Candidate(name, load_curve(where))


def load_curve(location: str) -> Curve:
    """Return the curve of a curve.json, of a folder that holds one, or of a model.

    Raises:
        BundleError: the model cannot be read.
        InputError: there is no curve.
    """
    path = Path(location)
    if path.suffix == ".json":
        return Curve.read(path)
    if (path / "curve.json").is_file():
        return Curve.read(path / "curve.json")
    curve = load_bundle(find_bundle(location)).curve
    if curve is None:
        raise InputError(f"{location} has no curve; measure it with `anytime evaluate {location}`")
    return curve
