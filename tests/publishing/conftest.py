"""The models of `tests/bundle` are those that are published here."""

from __future__ import annotations

from bundle.conftest import bundle, card, saved

__all__ = ["bundle", "card", "saved"]
