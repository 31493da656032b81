"""Write docs/reference/python.md: a mkdocstrings entry for each public name.

Public names are read from `__all__` without importing the package, so the page cannot lack one.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "anytime_ar"

GROUPS = {
    "Load and sample": (
        "load",
        "shipped_models",
        "AnytimeModel",
        "Budget",
        "SamplingParams",
        "Preview",
        "SampleResult",
        "SamplingState",
    ),
    "Networks": ("OrderedAutoencoder", "Prior", "Truncation"),
    "Train, evaluate, share": ("train", "evaluate", "push"),
}
"""Public names of the package by section; errors and new names follow by themselves."""
PACKAGES = {
    "client": ("Client", "`anytime_ar.client` calls a server; it needs the `client` extra."),
    "bulk": ("Bulk jobs", "`anytime_ar.bulk` writes many samples or codes in shards."),
}


def public_names(module: Path) -> list[str]:
    """Return `__all__` of a module."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(ast.unparse(target) == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{module} defines no __all__")


def page() -> str:
    """Return the page."""
    parts = [
        "# Python API\n",
        "Which names does `import anytime_ar as aar` offer, and what does each do?\n",
        "Only the names on this page are public. Everything else may change in any version.\n",
        "Shapes use these letters: `B` batch, `L` code length, `k` kept codes (1 to `L`), "
        "`V` codebook size, `D` code width. Codes are `int64 [B, L]`, coarse to fine. Images are "
        "`float32 [B, C, H, W]` and audio `float32 [B, 1, T]`, both in [-1, 1].\n",
    ]
    names = public_names(PACKAGE / "__init__.py")
    listed = {name for group in GROUPS.values() for name in group}
    errors = [name for name in names if name.endswith("Error")]
    rest = [name for name in names if name not in listed and name not in errors]
    for title, group in [*GROUPS.items(), ("Errors", errors), ("More", rest)]:
        found = [name for name in group if name in names]
        if found:
            parts.append(f"## {title}\n")
            parts += [f"::: anytime_ar.{name}\n" for name in found]
    for package, (title, text) in PACKAGES.items():
        parts += [f"## {title}\n", f"{text}\n"]
        init = PACKAGE / package / "__init__.py"
        parts += [f"::: anytime_ar.{package}.{name}\n" for name in public_names(init)]
    return "\n".join(parts)
