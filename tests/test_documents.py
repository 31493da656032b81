"""Links of documents lead somewhere, and configurations in them can be trained.

A relative link names a file of the repository. `docs/build/hooks.py` turns links to the changelog
and to tutorials into links to their pages, and `make docs` refuses links that the site lacks.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from anytime_ar.bundle.format import build_bundle
from anytime_ar.data import load_data
from anytime_ar.training import TrainConfig
from anytime_ar.training.run import build_card

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(<?([^)\s>#]+)")
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_name_files(page: Path) -> None:
    links = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    relative = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in relative if not (page.parent / link).is_file()] == []


def test_pages_of_the_site_link_to_pages_only() -> None:
    """Besides the changelog, a document outside docs/ has no page."""
    for page in (ROOT / "docs").rglob("*.md"):
        for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
            target = (page.parent / link).resolve()
            inside = target.is_relative_to(ROOT / "docs") or target == ROOT / "CHANGELOG.md"
            assert ":" in link or inside, f"{page}: {link}"


def test_placeholders_are_the_generated_pages() -> None:
    generator = (ROOT / "docs" / "build" / "generate.py").read_text(encoding="utf-8")
    generated = set(re.findall(r'"(reference/\w+\.md)"', generator))
    written = {f"reference/{path.name}" for path in (ROOT / "docs" / "reference").iterdir()}
    assert written == generated


def test_configurations_of_layouts_and_quantizers_build_models() -> None:
    page = (ROOT / "docs/how-to/choose-a-layout-and-quantizer.md").read_text(encoding="utf-8")
    layouts, kinds = set(), set()
    for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S):
        config = TrainConfig.parse(yaml.safe_load(block), origin="block")
        build_bundle(build_card(config, load_data(config.data)))
        layouts.add(config.autoencoder.layout)
        kinds.add(config.autoencoder.quantizer.kind)
    assert layouts == set(re.findall(r"^### `(\w+)`", page, re.M)) - kinds
    assert kinds == {"vq", "residual_pca", "fsq", "none"}
