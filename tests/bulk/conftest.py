from __future__ import annotations

from collections.abc import Callable

import pytest
from bulk_models import save_model

from anytime_ar.sampling import AnytimeModel, load


@pytest.fixture(scope="session")
def path_of(tmp_path_factory) -> Callable[[str], str]:
    """The path of a tiny model by its kind, `images unlabelled` for one without labels."""
    root, known = tmp_path_factory.mktemp("models"), {}

    def find(kind: str) -> str:
        if kind not in known:
            name, *more = kind.split()
            known[kind] = save_model(root / kind, name, labelled=not more)
        return known[kind]

    return find


@pytest.fixture(scope="session")
def model_of(path_of) -> Callable[[str], AnytimeModel]:
    return lambda kind: load(path_of(kind), device="cpu")
