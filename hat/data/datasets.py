"""Re-ID data set in memory: samples in three splits, notes on them, and one training set of several."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from hat.data.archives import member_checksum, split_location
from hat.errors import DataError

JUNK_PID = -1
"""Market-1501's label for a bad detection of a person: it counts neither as a match nor as a mistake, and is left out."""
DISTRACTOR_PID = 0
"""Market-1501's label for a background crop: it stays in the gallery as a mistake that a ranking can make."""

# By registered name the sizes that benchmarks were published with: images and identity labels of train, query and gallery,
# without junk; the label that distractors share counts as one. Market-1501's bounding_box_test holds 13,115 images of 750
# identities, 2,798 distractors and 3,819 junk images. DukeMTMC-reID's gallery holds the 702 identities of the query and 408
# that only one camera saw. MSMT17's training part is list_train.txt (30,248 images) with list_val.txt (2,373).
PUBLISHED_COUNTS: Mapping[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "market1501": ((12_936, 751), (3_368, 750), (15_913, 751)),
    "dukemtmc-reid": ((16_522, 702), (2_228, 702), (17_661, 1_110)),
    "cuhk03-np-labeled": ((7_368, 767), (1_400, 700), (5_328, 700)),
    "cuhk03-np-detected": ((7_365, 767), (1_400, 700), (5_332, 700)),
    "msmt17": ((32_621, 1_041), (11_659, 3_060), (82_161, 3_060)),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one person seen by one camera."""

    path: str
    """Location of the image: a file's path, or ``archive.zip!member/inside.jpg`` for a member of a zip file."""
    pid: int
    """Identity label, an integer of at least 0; `JUNK_PID` marks a bad detection."""
    camid: int
    """Camera label, an integer of at least 0."""


class Split(Sequence[Sample]):
    """An immutable sequence of samples, in the order in which rows of embeddings stand, with their labels as arrays."""

    def __init__(self, name: str, samples: Sequence[Sample]) -> None:
        self.name = name  # "train", "query" or "gallery"
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index: int | slice) -> Sample | Split:
        return Split(self.name, self.samples[index]) if isinstance(index, slice) else self.samples[index]

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} images, {self.num_pids} identities, {self.num_cameras} cameras)"

    @property
    def paths(self) -> list[str]:
        """The samples' paths, in order."""
        return [sample.path for sample in self.samples]

    @functools.cached_property
    def pids(self) -> npt.NDArray[np.int64]:
        """Identity labels, (n,) int64."""
        return np.array([sample.pid for sample in self.samples], dtype=np.int64)

    @functools.cached_property
    def camids(self) -> npt.NDArray[np.int64]:
        """Camera labels, (n,) int64."""
        return np.array([sample.camid for sample in self.samples], dtype=np.int64)

    @property
    def num_pids(self) -> int:
        """Number of identity labels, junk not counted; the label that distractors share counts as one, as in papers."""
        return len({sample.pid for sample in self.samples} - {JUNK_PID})

    @property
    def num_cameras(self) -> int:
        """Number of cameras."""
        return len({sample.camid for sample in self.samples})


@dataclass(frozen=True)
class ReIDDataset:
    """A data set as its authors split it."""

    name: str
    """Registered name, such as ``"market1501"``, or the one that its owner gave."""
    train: Split
    """Images to learn from; empty where a data set has only a test part."""
    query: Split
    """Probe images."""
    gallery: Split
    """Images to be ranked for each query; junk images are already left out."""
    notes: tuple[str, ...] = ()
    """Notes for the user: counts that differ from the published ones, images left out."""
    has_cameras: bool = True
    """Where cameras are not known, the query is of camera 0 and the gallery of camera 1, so that pairs of one camera count as
    matches, which benchmarks leave out because they are easy."""

    def without_cameras(self) -> ReIDDataset:
        """Return the same images as if nothing were known of their cameras: every pair of query and gallery counts."""
        query = Split("query", [replace(sample, camid=0) for sample in self.query])
        gallery = Split("gallery", [replace(sample, camid=1) for sample in self.gallery])
        return replace(self, query=query, gallery=gallery, has_cameras=False)


def assemble(
    name: str,
    where: str,
    train: Sequence[Sample],
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    *,
    notes: Sequence[str] = (),
    has_cameras: bool = True,
) -> ReIDDataset:
    """Return a data set of its splits, of which train may be empty, or query and gallery both, with notes on their sizes."""
    splits = Split("train", train), Split("query", query), Split("gallery", gallery)
    if not any(map(len, splits)):
        raise DataError(f"{where}: no images were found")
    if bool(query) != bool(gallery):
        empty, other = ("query", "gallery") if gallery else ("gallery", "query")
        raise DataError(f"{where}: the {empty} is empty and the {other} is not; ranking needs both")
    collected = list(notes)
    if not train:
        collected.append("no training part: only for evaluation")
    if not query:
        collected.append("no query and gallery: only for training")
    if name in PUBLISHED_COUNTS:
        # A copy that differs is no error, since people hold subsets, but a result on it is not the benchmark's.
        differences = [
            f"{split.name} has {len(split):,} images of {split.num_pids:,} identities, published are {images:,} images of "
            f"{pids:,} identities"
            for split, (images, pids) in zip(splits, PUBLISHED_COUNTS[name], strict=True)
            if len(split) and (len(split), split.num_pids) != (images, pids)
        ]
        same = "counts of images and identities are the published ones"
        collected.append("not the published data set: " + "; ".join(differences) if differences else same)
    # Benchmarks are known to be free of this, and one of them numbers the people of its two parts apart.
    elif shared := {sample.pid for sample in train} & {sample.pid for sample in query}:
        collected.append(
            f"{len(shared):,} of {splits[1].num_pids:,} query identities are in the training part too: figures of a model that "
            "was trained on it flatter"
        )
    return ReIDDataset(name, *splits, tuple(collected), has_cameras)


def find_overlaps(dataset: ReIDDataset) -> tuple[str, ...]:
    """Return notes on images with the same content in two splits; what cannot be read is left to whoever decodes it."""
    splits = {split.name: split.paths for split in (dataset.train, dataset.query, dataset.gallery)}
    digests = _digests(path for paths in splits.values() for path in paths)
    contents = {name: {digests.get(path, path): path for path in paths} for name, paths in splits.items()}
    notes = []
    for first, second, meaning in (
        ("query", "gallery", "each is found as its own copy and figures flatter"),
        ("train", "query", "figures of a model that was trained on them flatter"),
        ("train", "gallery", "figures of a model that was trained on them flatter"),
    ):
        if shared := contents[first].keys() & contents[second].keys():
            path = min(contents[first][digest] for digest in shared)
            notes.append(f"{len(shared):,} pictures are in {first} and {second} both, such as {path}: {meaning}")
    return tuple(notes)


def _digests(paths: Iterable[str]) -> dict[str, str]:
    """Return what tells a content by path: of files only where two have the same length, so that few are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    digests: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        with suppress(OSError, ValueError, DataError):
            if (member := split_location(path)) is None:
                by_size[Path(path).stat().st_size].append(path)
            else:
                digests[path] = member_checksum(*member)
    same_sized = [path for group in by_size.values() if len(group) > 1 for path in group]
    for path in same_sized:
        with suppress(OSError):
            digests[path] = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
    return digests


def merge_training(datasets: Iterable[ReIDDataset]) -> Split:
    """Join the training parts of data sets, junk left out, and relabel them for a classifier.

    Pids become 0, 1, 2 ... without gaps, data set after data set and by rising label within each. So do camids, because the
    first camera of one data set is not the first of another. A label 0 is an identity like any other here: Market-1501's
    training part has no distractors.

    Raises:
        DataError: There is no data set, or one has no training images.
    """
    samples: list[Sample] = []
    num_pids = num_cameras = 0
    for dataset in datasets:
        kept = [sample for sample in dataset.train if sample.pid != JUNK_PID]
        if not kept:
            raise DataError(f"{dataset.name} has no training images")
        pids = {pid: num_pids + rank for rank, pid in enumerate(sorted({sample.pid for sample in kept}))}
        camids = {camid: num_cameras + rank for rank, camid in enumerate(sorted({sample.camid for sample in kept}))}
        samples += [Sample(sample.path, pids[sample.pid], camids[sample.camid]) for sample in kept]
        num_pids += len(pids)
        num_cameras += len(camids)
    if not samples:
        raise DataError("no data set to train on; name at least one")
    return Split("train", samples)
