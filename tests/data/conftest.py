"""What the tests of data sets share: tiny pictures, and files that only have names."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Make a smooth RGB picture that lossy formats keep well; another for each seed."""

    def make(width: int = 24, height: int = 48, seed: int = 0) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)

    return make


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encode a picture in memory."""

    def run(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return run


@pytest.fixture
def touch() -> Callable[[Path, Iterable[str]], Path]:
    """Create empty files below a folder: readers look at names alone."""

    def run(root: Path, names: Iterable[str]) -> Path:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return root

    return run


@pytest.fixture
def zip_names() -> Callable[[Path, Iterable[str]], Path]:
    """Create a zip file of empty members."""

    def run(path: Path, names: Iterable[str]) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        return path

    return run
