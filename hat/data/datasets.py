"""What a re-ID data set is once it is read: samples in three splits, and one training set of several. No pixel is touched."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt

from hat.errors import DataError

JUNK_PID = -1
"""Market-1501's label for a bad detection of a person: it counts neither as a match nor as a mistake, and is left out."""

DISTRACTOR_PID = 0
"""Market-1501's label for a background crop: it stays in the gallery as a mistake that a ranking can make."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one person seen by one camera."""

    path: str
    """Where the image is: a file's path, or ``archive.zip!member/inside.jpg`` for a member of a zip file."""
    pid: int
    """Identity label, an integer of at least 0; `JUNK_PID` marks a bad detection."""
    camid: int
    """Camera label, an integer of at least 0."""


class Split(Sequence[Sample]):
    """An immutable sequence of samples with their labels as arrays.

    Args:
        name: ``"train"``, ``"query"`` or ``"gallery"``.
        samples: The samples, in the order in which rows of an embedding matrix will stand.
    """

    def __init__(self, name: str, samples: Sequence[Sample]) -> None:
        self.name = name
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index: int | slice) -> Sample | Split:
        if isinstance(index, slice):
            return Split(self.name, self.samples[index])
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

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
        return len(set(self.pids.tolist()) - {JUNK_PID})

    @property
    def num_cameras(self) -> int:
        """Number of cameras."""
        return len(set(self.camids.tolist()))


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
    """What is worth telling the user: counts that differ from the published ones, images left out."""
    has_cameras: bool = True
    """Where cameras are not known, the query is of camera 0 and the gallery of camera 1, so that pairs of one camera count as
    matches, which benchmarks leave out because they are easy."""

    def without_cameras(self) -> ReIDDataset:
        """Return the same images as if nothing were known of their cameras: every pair of query and gallery counts."""
        query = Split("query", [Sample(sample.path, sample.pid, 0) for sample in self.query])
        gallery = Split("gallery", [Sample(sample.path, sample.pid, 1) for sample in self.gallery])
        return replace(self, query=query, gallery=gallery, has_cameras=False)


def merge_training(datasets: Iterable[ReIDDataset]) -> Split:
    """Join the training parts of data sets and relabel them for a classifier.

    Pids become 0, 1, 2 ... without gaps, data set after data set and by rising label within each. So do camids, because the
    first camera of one data set is not the first of another. A label 0 is an identity like any other here: Market-1501's
    training part has no distractors.

    Args:
        datasets: The data sets, in the order of their labels. One alone is relabeled too.

    Returns:
        The joined split, junk left out; ``max(pids) + 1 == num_pids``.

    Raises:
        DataError: There is no data set, or one has no training images.
    """
    samples: list[Sample] = []
    num_pids = num_cameras = num_datasets = 0
    for dataset in datasets:
        num_datasets += 1
        kept = [sample for sample in dataset.train if sample.pid != JUNK_PID]
        if not kept:
            raise DataError(f"{dataset.name} has no training images")
        pids = {pid: num_pids + rank for rank, pid in enumerate(sorted({sample.pid for sample in kept}))}
        camids = {camid: num_cameras + rank for rank, camid in enumerate(sorted({sample.camid for sample in kept}))}
        samples += [Sample(sample.path, pids[sample.pid], camids[sample.camid]) for sample in kept]
        num_pids += len(pids)
        num_cameras += len(camids)
    if not num_datasets:
        raise DataError("no data set to train on; name at least one")
    return Split("train", samples)
