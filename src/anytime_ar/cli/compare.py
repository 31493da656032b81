"""Compare models by their measured curves: sample quality for the same bits and the same time.

Each model is NAME=WHERE: a curve.json of `anytime evaluate`, the folder that holds it, or a model.
The first one is compared with the others.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.bundle import load_bundle, resolve
from anytime_ar.cli.options import add_json, show, split_name
from anytime_ar.cli.parser import Parser, to_path
from anytime_ar.curve import Curve
from anytime_ar.errors import InputError
from anytime_ar.evaluation import Contender, Dedicated, comparison_table, write_comparison
from anytime_ar.files import check_output


def add_arguments(parser: Parser) -> None:
    parser.add_argument("models", nargs="+", help="two or more, as ordered=runs/mnist")
    parser.add_argument(
        "--dedicated", type=list[str] | None, help="models for one length each, as [runs/a,runs/b]"
    )
    parser.add_argument(
        "--out", type=to_path, default=Path("comparison"), help="folder for tables and the picture"
    )
    add_json(parser)


def run(arguments: Namespace) -> None:
    check_output(arguments.out, is_folder=True)
    contenders = [_contender(text) for text in arguments.models]
    dedicated = None
    if arguments.dedicated:
        curves = tuple(curve_at(where) for where in arguments.dedicated)
        dedicated = Dedicated("trained for one length", curves)
    comparison = write_comparison(contenders, dedicated, arguments.out)
    show(
        arguments,
        f"{comparison_table(comparison)}\n\n"
        f"{arguments.out}: comparison.json, comparison.md and comparison.png",
        **comparison.model_dump(mode="json"),
    )


def _contender(text: str) -> Contender:
    name, where = split_name(text)
    if not name or not where:
        raise InputError(f"{text!r} is no NAME=WHERE; write it as ordered=runs/mnist")
    return Contender(name, curve_at(where))


def curve_at(where: str) -> Curve:
    """The curve in a file, in a folder, or of a model.

    Raises:
        BundleError, InputError: there is none.
    """
    path = Path(where)
    if path.suffix == ".json":
        return Curve.read(path)
    if (path / "curve.json").is_file():
        return Curve.read(path / "curve.json")
    curve = load_bundle(resolve(where)).curve
    if curve is None:
        raise InputError(f"{where} has no curve; measure it with `anytime evaluate {where}`")
    return curve
