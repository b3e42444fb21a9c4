"""A tiny data set in Market-1501's naming, for tests of training."""

import numpy as np
import pytest
from PIL import Image
from tiny_run import NUM_PIDS


@pytest.fixture(scope="session")
def market_folder(tmp_path_factory):
    """Six identities, each of its own color, four images of each from two cameras, in train, query and gallery."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 256, (NUM_PIDS, 2, 3))
    for folder, first in (("bounding_box_train", 0), ("query", 100), ("bounding_box_test", 100)):
        (root / folder).mkdir(parents=True)
        for person in range(NUM_PIDS):
            for shot in range(1 if folder == "query" else 4):
                camera = 1 + (shot % 2 if folder != "query" else 0)
                pixels = np.repeat(colors[person], 24, axis=0)[:, None] + generator.integers(-20, 21, (48, 24, 3))
                name = f"{first + person + 1:04d}_c{camera}s1_{shot:06d}_{folder != 'query':02d}.png"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / name)
    return root
