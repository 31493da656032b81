"""What somebody may have meant who misspelt a word."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'sample'?` for the nearest of some words, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(candidates), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
