"""docs/results.md says what the curves beside it say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_curves(results: ModuleType) -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert results.page() == page, "run python docs/results.py"
    for data in (folder.name for folder in (DOCS / "results").iterdir() if folder.is_dir()):
        assert f"## {results.TITLES[data]}" in page
        assert (DOCS / "results" / f"{data}.png").is_file()


def test_every_curve_is_shown(results: ModuleType) -> None:
    shown = {f"{name}.json" for name in results.METHODS}
    for path in (DOCS / "results").glob("*/*.json"):
        assert path.name in shown or path.match(f"{results.FIXED}.json"), path
