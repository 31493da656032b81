"""Add generated pages to the MkDocs build, and check that the search index knows their words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
_INFO_STRING = re.compile(r"^( *```(?:bash|python)) (?:no-run|background)$", re.M)
# Documents link to files of the repository, so that the links work in a clone as well.
_CHANGELOG_LINK = re.compile(r"\]\(((?:\.\./)*)\.\./CHANGELOG\.md")
_TUTORIAL_LINK = re.compile(r"\]\(((?:\.\./tutorials/)?\d-[\w-]+)\.py")


@cache
def generated() -> dict[str, Any]:
    """Run generate.py once, with the Python that has the package and its `serve` extra."""
    python = os.environ.get("ANYTIME_DOCS_PYTHON", sys.executable)
    source = str(HERE.parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [python, str(HERE / "generate.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise PluginError(
            f"docs/build/generate.py failed with {python}: {last[0]}; install the package with its "
            "extras in this environment, or set ANYTIME_DOCS_PYTHON to a Python that has it"
        )
    return dict(json.loads(done.stdout))


def changelog() -> str:
    """Return the changelog, whose links are relative to the repository."""
    return (HERE.parents[1] / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "](")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link to the pages made of the changelog and of tutorials; remove marks of code blocks.

    `no-run` and `background` are for .ci/readme_examples.py.
    """
    markdown = _CHANGELOG_LINK.sub(r"](\1changelog.md", markdown)
    markdown = _TUTORIAL_LINK.sub(r"](\1.md", markdown)
    return _INFO_STRING.sub(r"\1", markdown)


def tutorials() -> dict[str, str]:
    """Return the tutorials as pages: cells of text as they are, cells of code in fences."""
    pages = {}
    for path in sorted((HERE.parent / "tutorials").glob("*.py")):
        parts = []
        for cell in path.read_text("utf-8").split("# %%")[1:]:
            first, _, body = cell.partition("\n")
            if "[markdown]" in first:
                lines = (line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
                parts.append("\n".join(lines).strip())
            else:
                parts.append(f"```python\n{body.strip()}\n```")
        pages[f"tutorials/{path.stem}.md"] = "\n\n".join(parts) + "\n"
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and replace folders in the navigation by their pages."""
    pages = {
        **generated()["pages"],
        "changelog.md": changelog(),
        **tutorials(),
    }
    for path, content in pages.items():
        placeholder = files.get_file_from_path(path)  # which readers of a clone find
        if placeholder is not None:
            files.remove(placeholder)
        files.append(File.generated(config, path, content=content))
    paths = [file.src_uri for file in files.documentation_pages()]
    config.nav = [_expanded(entry, paths) for entry in config.nav or []]
    config.nav = [entry for entry in config.nav if [*entry.values()] != [[]]]
    return files


def _expanded(entry: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """Return an entry of the navigation with the pages of its folder, if it names one."""
    ((title, target),) = entry.items()
    if not isinstance(target, str) or not target.endswith("/"):
        return entry
    inside = [path for path in paths if path.startswith(target)]
    return {title: sorted(inside, key=lambda path: (not path.endswith("index.md"), path))}


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if the search index lacks a command-line option or a configuration key."""
    index = json.loads((Path(config.site_dir) / "search" / "search_index.json").read_text("utf-8"))
    text = "\n".join(f"{entry['title']}\n{entry['text']}" for entry in index["docs"])
    known = generated()
    missing = [
        word for word in [*known["options"], *known["keys"]] if f"<code>{word}</code>" not in text
    ]
    if missing:
        raise PluginError(f"the search index lacks {len(missing)} words: {', '.join(missing[:10])}")
