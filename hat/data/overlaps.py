"""Pictures that stand on both sides: query images copied into the gallery, test images among those to learn from."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from hat.data.archives import member_checksum, split_location
from hat.data.datasets import ReIDDataset
from hat.errors import DataError


def find_overlaps(dataset: ReIDDataset) -> tuple[str, ...]:
    """Return notes on images with the same content in two splits, or nothing.

    Only files of equal length are read; of members of zip files the checksum that the archive holds is taken.

    Args:
        dataset: Its files exist; one that cannot be read is left to whoever decodes it.
    """
    splits = {split.name: split.paths for split in (dataset.train, dataset.query, dataset.gallery)}
    digests = _digests(path for paths in splits.values() for path in paths)
    contents = {name: {digests[path]: path for path in paths if path in digests} for name, paths in splits.items()}
    notes = []
    for first, second, meaning in (
        ("query", "gallery", "each is found as its own copy and figures flatter"),
        ("train", "query", "figures of a model that was trained on them flatter"),
        ("train", "gallery", "figures of a model that was trained on them flatter"),
    ):
        shared = contents[first].keys() & contents[second].keys()
        if shared:
            path = min(contents[first][digest] for digest in shared)
            notes.append(f"{len(shared):,} pictures are in {first} and {second} both, such as {path}: {meaning}")
    return tuple(notes)


def _digests(paths: Iterable[str]) -> dict[str, str]:
    """Return what tells a content by path, for contents that could stand twice."""
    by_size: dict[object, list[str]] = defaultdict(list)
    digests: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        member = split_location(path)
        try:
            if member is None:
                by_size[Path(path).stat().st_size].append(path)
            else:
                digests[path] = member_checksum(*member)
        except (OSError, ValueError, DataError):
            continue
    for same_size in by_size.values():
        if len(same_size) > 1:
            for path in same_size:
                try:
                    digests[path] = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
                except OSError:
                    continue
    return digests
