"""The command line `anytime`, which maps commands to library functions."""

from __future__ import annotations

from anytime_ar.cli.main import main

__all__ = ["main"]
