"""May two models be compared at all, and what does a failure look like?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hat.io.artifact import weights_sha256
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime, TorchRuntime

from .embedding_parity import row_cosines
from .tolerances import UNIT_LENGTH, Tolerance
from .verification_report import Check

_NUM_PROBES = 16


def incomparable(reference: Runtime, candidate: Runtime) -> list[str]:
    """Return why two models cannot be compared: they take their images in another way, or give embeddings of another width."""
    found = []
    ours, theirs = reference.preprocessing, candidate.preprocessing
    for name in ("size", "mean", "std", "resize"):
        if getattr(ours, name) != getattr(theirs, name):
            found.append(
                f"preprocessing differs: {_named(name, ours)} in the reference, {_named(name, theirs)} in the candidate"
            )
    if reference.embed_dim != candidate.embed_dim:
        found.append(
            f"embeddings are of another width: {reference.embed_dim} in the reference, {candidate.embed_dim} in the candidate"
        )
    return found


def _named(name: str, preprocessing: Preprocessing) -> str:
    if name == "size":
        return f"{preprocessing.height} x {preprocessing.width}"
    value = getattr(preprocessing, name)
    return f"{name} {value}" if name != "resize" else f"{value} resize"


def source_hash(runtime: Runtime) -> str | None:
    """Hash of the trained weights behind a runtime; None where it cannot be told."""
    info = getattr(runtime, "info", None)
    if info is not None:
        return str(info.source_sha256)
    if isinstance(runtime, TorchRuntime) and not runtime.inference_graph:
        return weights_sha256(runtime.model)
    return None


def failure_hints(
    candidate: Runtime,
    checks: Sequence[Check],
    pixels: npt.NDArray[np.uint8],
    reference_rows: npt.NDArray[np.float32],
    candidate_rows: npt.NDArray[np.float32],
    tolerance: Tolerance,
    hashes: tuple[str | None, str | None],
) -> list[str]:
    """Return what a failure looks like: swapped channels, a missing L2 norm, other weights, mixed rows, where it can be tried.

    Args:
        candidate: What failed.
        checks: Its figures.
        pixels: (n, 3, H, W) uint8 RGB, the compared images.
        reference_rows: (n, embed_dim).
        candidate_rows: (n, embed_dim).
        tolerance: The limits that it was held to.
        hashes: `source_hash` of reference and candidate.
    """
    failed = {check.name for check in checks if not check.passed}
    if not failed:
        return []
    hints = []
    if None not in hashes and hashes[0] != hashes[1]:
        hints.append(
            f"it was made from other weights: sha256 {str(hashes[0])[:12]} in the reference, {str(hashes[1])[:12]} here"
        )
    if not np.isfinite(candidate_rows).all():
        return [*hints, "values overflow: in float16 this is a norm or a softmax that was not left in float32"]
    lengths = np.linalg.norm(candidate_rows.astype(np.float64), axis=1)
    directions_agree = bool(row_cosines(reference_rows, candidate_rows).min() >= tolerance.worst_cosine.value)
    if np.abs(lengths - 1).max() > UNIT_LENGTH.value and directions_agree:
        hints.append("directions are right and lengths are not: the L2 norm at the end is missing")
    if not directions_agree:
        swapped = candidate.run(np.ascontiguousarray(pixels[:_NUM_PROBES, ::-1]))
        if row_cosines(reference_rows[: len(swapped)], swapped).min() >= tolerance.worst_cosine.value:
            hints.append("it agrees once red and blue are swapped: it takes its images as BGR")
        for shift in (1, -1):
            rolled = np.roll(candidate_rows, shift, axis=0)[1:-1]
            if len(rolled) and row_cosines(reference_rows[1:-1], rolled).min() >= tolerance.worst_cosine.value:
                hints.append("rows are those of the neighboring image: it is off by one")
    if failed & {"batch max abs", "wrong rows"}:
        hints.append("the embedding of an image depends on the batch that it travels in or on its place there")
    return hints
