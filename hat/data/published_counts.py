"""The sizes that data sets were published with, and what to tell a user whose copy differs.

A difference is never an error: people hold subsets. It is told, because a result on a subset is not the benchmark's.
"""

from dataclasses import dataclass

from hat.data.datasets import ReIDDataset, Split
from hat.errors import DataError


@dataclass(frozen=True, slots=True)
class Count:
    """A split's size.

    Attributes:
        images: Number of images, junk not counted.
        pids: Number of identity labels, junk not counted; the label that distractors share counts as one.
    """

    images: int
    pids: int

    def __str__(self) -> str:
        return f"{self.images:,} images of {self.pids:,} identities"


@dataclass(frozen=True, slots=True)
class Published:
    """The sizes that a data set was published with."""

    train: Count
    query: Count
    gallery: Count


def assemble(
    name: str,
    train: Split,
    query: Split,
    gallery: Split,
    *,
    published: Published | None = None,
    notes: tuple[str, ...] = (),
    has_cameras: bool = True,
    where: str = "",
) -> ReIDDataset:
    """Make a data set of its splits, with the notes that its sizes deserve.

    Args:
        name: The data set's registered name.
        train: May be empty.
        query: May be empty where the gallery is.
        gallery: May be empty where the query is.
        published: Sizes to compare with.
        notes: What the reader noticed.
        has_cameras: Whether cameras are known.
        where: The folder or file, for error messages.

    Returns:
        The data set.

    Raises:
        DataError: All splits are empty, or one of query and gallery is.
    """
    if not (len(train) or len(query) or len(gallery)):
        raise DataError(f"{where or name}: no images were found")
    if bool(len(query)) != bool(len(gallery)):
        empty, other = ("query", "gallery") if len(gallery) else ("gallery", "query")
        raise DataError(f"{where or name}: the {empty} is empty and the {other} is not; ranking needs both")
    collected = list(notes)
    if not len(train):
        collected.append("no training part: only for evaluation")
    if not len(query):
        collected.append("no query and gallery: only for training")
    if published is not None:
        collected.append(_comparison(train, query, gallery, published))
    # Benchmarks are known to be free of this, and one of them numbers the people of its two parts apart.
    shared = set(train.pids.tolist()) & set(query.pids.tolist())
    if shared and published is None:
        collected.append(
            f"{len(shared):,} of {query.num_pids:,} query identities are in the training part too: figures of a model that was "
            "trained on it flatter"
        )
    return ReIDDataset(name, train, query, gallery, tuple(collected), has_cameras)


def _comparison(train: Split, query: Split, gallery: Split, published: Published) -> str:
    differences = []
    for split, expected in ((train, published.train), (query, published.query), (gallery, published.gallery)):
        found = Count(len(split), split.num_pids)
        if found.images and found != expected:
            differences.append(f"{split.name} has {found}, published are {expected}")
    if differences:
        return "not the published data set: " + "; ".join(differences)
    return "counts of images and identities are the published ones"
