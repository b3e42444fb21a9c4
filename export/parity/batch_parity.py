"""Is the embedding of an image its own, whatever the batch that it travels in and its place there?

Sizes 1, the tuned one, the largest and one more than it: that one has to be split. Each is run twice, in order and rotated by
one, so that a graph which mixes rows, drops the last one or is off by one shows, even where each batch by itself looks right.
"""

import numpy as np
import numpy.typing as npt

from hat.io.artifact import BatchProfile
from hat.runtime import Runtime

from .tolerances import Limit, Tolerance
from .verification_report import Check, at_most

_ROWS = Limit(0, "one embedding for each image, as wide as the file says")


def batch_sizes(runtime: Runtime) -> list[int]:
    """1, opt, max and max + 1 of the profile that a runtime was built for; of the default one where any size runs."""
    info = getattr(runtime, "info", None)
    profile = (info.batch if info is not None else None) or BatchProfile()
    largest = runtime.max_batch or profile.max
    return sorted({1, min(profile.opt, largest), largest, largest + 1})


def check_batches(runtime: Runtime, images: npt.NDArray[np.uint8], tolerance: Tolerance) -> list[Check]:
    """Compare every image alone with itself in batches.

    Args:
        runtime: The candidate.
        images: (n, 3, H, W) uint8 RGB, n of at least 2; taken again from the start where a batch is larger.
        tolerance: The limits of its precision.
    """
    sizes = batch_sizes(runtime)
    distinct = np.ascontiguousarray(images[: sizes[-1]])
    alone = np.concatenate([runtime.run(distinct[i : i + 1]) for i in range(len(distinct))])
    if alone.shape != (len(distinct), runtime.embed_dim):
        return [_wrong_rows(1, alone.shape)]
    worst, worst_size = 0.0, 1
    for size in sizes[1:]:
        order = np.arange(size) % len(distinct)
        for places in (order, np.roll(order, 1)):
            rows = runtime.run(np.ascontiguousarray(distinct[places]))
            if rows.shape != (size, runtime.embed_dim):
                return [_wrong_rows(size, rows.shape)]
            difference = float(np.abs(rows.astype(np.float64) - alone[places]).max())
            if not difference <= worst:  # NaN counts as worse
                worst, worst_size = difference, size
    note = f"batches of {', '.join(map(str, sizes))}; worst at {worst_size}"
    return [at_most("batch", "batch max abs", worst, tolerance.batch_max_abs, note)]


def _wrong_rows(size: int, shape: tuple[int, ...]) -> Check:
    missing = abs(size - (shape[0] if shape else 0)) or 1
    return at_most("batch", "wrong rows", missing, _ROWS, f"a batch of {size} gave an array of shape {shape}")
