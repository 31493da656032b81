"""Small pictures in every layout that the loader reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePicture = Callable[..., Image.Image]


def picture(seed: int, size: tuple[int, int] = (4, 4), mode: str = "L") -> Image.Image:
    """Random pixels; `size` is (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels, mode if mode == "RGBA" else None)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def make_picture() -> MakePicture:
    return picture


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `{relative path: picture}` below a new folder and returns it."""

    def make(pictures: dict[str, Image.Image]) -> Path:
        root = tmp_path / "pictures"
        for name, image in pictures.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / name)
        return root

    return make


@pytest.fixture
def make_parquet() -> Callable[..., Path]:
    """Writes a parquet file; `names` makes the label a ClassLabel as the Hub stores it."""

    def make(
        path: Path,
        images: Sequence[Image.Image | bytes],
        labels: Sequence[int] | None = None,
        *,
        names: Sequence[str] | None = None,
        image_key: str = "image",
        label_key: str = "label",
    ) -> Path:
        from datasets import ClassLabel, Dataset, Features, Value
        from datasets import Image as ImageFeature

        path.parent.mkdir(parents=True, exist_ok=True)
        cells = [
            {"bytes": image if isinstance(image, bytes) else png(image), "path": None}
            for image in images
        ]
        columns: dict[str, object] = {image_key: cells}
        features = {image_key: ImageFeature()}
        if labels is not None:
            columns[label_key] = list(labels)
            features[label_key] = ClassLabel(names=list(names)) if names else Value("int64")
        Dataset.from_dict(columns, Features(features)).to_parquet(path)
        return path

    return make
