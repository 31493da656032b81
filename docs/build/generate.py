"""Print the generated reference pages as one JSON object, by their path under docs/.

`docs/build/hooks.py` runs this in a process of its own, so that building the site does not import
torch, and so that another Python may hold the package (`ANYTIME_DOCS_PYTHON`).
"""

from __future__ import annotations

import json
import sys

import configuration
import http_api
import python_api

import cli


def main() -> None:
    """Print pages, and the options and keys that the site's search must find."""
    pages = {
        "reference/cli.md": cli.page(),
        "reference/configuration.md": configuration.page(),
        "reference/http.md": http_api.page(),
        "reference/python.md": python_api.page(),
    }
    options = {
        cli.kebab(option)
        for name in cli.commands()
        for action in cli.options_of(name)
        for option in action.option_strings
    }
    json.dump(
        {"pages": pages, "options": sorted(options), "keys": configuration.keys()}, sys.stdout
    )


if __name__ == "__main__":
    main()
