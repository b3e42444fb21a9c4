"""What the tests of data sets share: tiny pictures, and files that only have names."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """Make a smooth RGB picture that lossy formats keep well; another for each seed."""

    def make(width=24, height=48, seed=0):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)

    return make


@pytest.fixture
def encode():
    """Encode a picture in memory."""

    def run(image, kind="JPEG", **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return run


@pytest.fixture
def touch():
    """Create empty files below a folder: readers look at names alone."""

    def run(root, names):
        for path in (root / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return run


@pytest.fixture
def zip_names():
    """Create a zip file of empty members."""

    def run(path, names):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        return path

    return run
