"""What a re-ID data set is once it is read: samples in three splits. Nothing here touches a pixel."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

__all__ = ["DISTRACTOR_PID", "JUNK_PID", "ReIDDataset", "Sample", "Split"]

JUNK_PID = -1
"""Market-1501's label for a bad detection of a person: it counts neither as a match nor as a mistake, and is left out."""

DISTRACTOR_PID = 0
"""Market-1501's label for a background crop: it stays in the gallery as a mistake that a ranking can make."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one person seen by one camera.

    Attributes:
        path: Where the image is: a file's path, or ``archive.zip!member/inside.jpg`` for a member of a zip file.
        pid: Identity label. Any integer of at least 0; `JUNK_PID` marks a bad detection.
        camid: Camera label, an integer of at least 0.
    """

    path: str
    pid: int
    camid: int


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
    """A data set as its authors split it.

    Attributes:
        name: Registered name, such as ``"market1501"``.
        train: Images to learn from. Empty where a data set has only a test part.
        query: Probe images.
        gallery: Images to be ranked for each query; junk images are already left out.
        notes: What is worth telling the user: counts that differ from the published ones, images left out.
    """

    name: str
    train: Split
    query: Split
    gallery: Split
    notes: tuple[str, ...] = ()
