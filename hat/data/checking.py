"""Find the images of a split that cannot be used, before hours of training meet them."""

from __future__ import annotations

from collections.abc import Callable

from hat.data.images import read_image
from hat.data.ordered_pool import map_in_order
from hat.data.records import Split
from hat.errors import ImageError

__all__ = ["check_images"]

_CHUNK = 32


def check_images(
    split: Split, *, skip_bad: bool = False, num_workers: int | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Split, list[tuple[str, str]]]:
    """Decode every image of a split.

    Args:
        split: The split.
        skip_bad: Leave images out that cannot be used, instead of raising.
        num_workers: Number of threads; None is one for each core, 0 is none.
        progress: Called in the caller's thread with the number of images that were checked since its last call.

    Returns:
        The split without its bad images, and (path, reason) of each of those. The split itself where all are good.

    Raises:
        ImageError: An image cannot be used and ``skip_bad`` is False. It names the first one, what is wrong with it, and how
            many there are.
        UsageError: ``num_workers`` is negative.
    """
    paths = split.paths
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    bad: list[tuple[str, str]] = []
    for chunk, found in zip(chunks, map_in_order(_check, chunks, num_workers=num_workers, window=64), strict=True):
        bad += found
        if progress is not None:
            progress(len(chunk))
    if not bad:
        return split, []
    if not skip_bad:
        path, reason = bad[0]
        others = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ImageError(
            f"{path}: {reason} (this one{others} of {len(split):,} {split.name} images; --skip-bad leaves bad images out)"
        )
    bad_paths = {path for path, _ in bad}
    return Split(split.name, [sample for sample in split if sample.path not in bad_paths]), bad


def _check(paths: list[str]) -> list[tuple[str, str]]:
    bad = []
    for path in paths:
        try:
            read_image(path)
        except ImageError as error:
            bad.append((path, str(error).removeprefix(f"{path}: ")))
    return bad
