"""A stream that nobody has closed ends quietly with Python."""

from __future__ import annotations

import pytest

from processes import runs_silently

SCRIPTS = {
    "stream": "g = model.stream(4, seed=0); next(g)",
    "new": "g = model.stream(4, seed=0)",
    "refined": "g = model.generate(2, seed=0, codes=1).state.stream(); next(g)",
    "several": "g = [model.stream(1, seed=i) for i in range(3)]; [next(i) for i in g]",
    "cycle": "g = [model.stream(1, seed=0)]; g.append(g); next(g[0])",
    "thread": """
import threading
begun = threading.Event()
def wait():
    g = model.stream(4, seed=0); next(g)
    begun.set()
    threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
begun.wait()
g = model.stream(4, seed=0); next(g)
""",
    "double": "torch.set_default_dtype(torch.float64); g = model.stream(4, seed=0); next(g)",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_python_ends_without_a_word(name: str) -> None:
    begin = "import torch, anytime_ar as aar; model = aar.load('mnist', device='cpu')\n"
    runs_silently(begin + SCRIPTS[name])
