"""The command line: a table from command to library function."""

from __future__ import annotations

from anytime_ar.cli.main import main

__all__ = ["main"]
