"""Upload a model to the Hugging Face Hub, with a model card of its measured curve and images.

`anytime push runs/mine OWNER/NAME` creates the repository if it does not exist, and changes it in
one commit. It replaces the model card. Log in with `hf auth login` first, or set HF_TOKEN.
"""

from __future__ import annotations

from jsonargparse import Namespace

from anytime_ar.cli.parser import Parser, literal_text


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime push`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("repository", help="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", type=literal_text, help="of the commit")
    parser.add_argument("--revision", type=literal_text, help="branch; made if there is none")
    parser.add_argument("--license", type=literal_text, help="of the model, as apache-2.0")
    parser.add_argument(
        "--references",
        type=dict[str, str] | None,
        help="Hub ids of weights that are not uploaded, as '{tokenizer: OWNER/NAME@REVISION}'; "
        "'{}' uploads all; default: as in the bundle",
    )


def run(arguments: Namespace) -> None:
    """Upload a model and print the revision."""
    from anytime_ar.publishing import push

    state = push(
        arguments.model,
        arguments.repository,
        private=arguments.private,
        message=arguments.message,
        revision=arguments.revision,
        license=arguments.license,
        references=arguments.references,
    )
    print(f"pushed {state}; without the part after @ that is the newest state")
