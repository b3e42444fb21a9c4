"""Pictures of a camera of 12 bits, which writes them into files of 16."""

import numpy as np
from PIL import Image


def draw_gray_twice(root, names):
    """Write noise of 12 bits as ``root/deep/NAME``, and the upper 8 of these bits, which is what it should be read as, as
    ``root/plain/NAME``."""
    rng = np.random.default_rng(0)
    for name in names:
        values = rng.integers(0, 2**12, (64, 32), dtype=np.uint16)
        for folder, pixels in (("deep", values), ("plain", (values >> 4).astype(np.uint8))):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
