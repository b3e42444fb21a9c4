"""One training set of several: labels that cannot clash, and cameras that cannot be mistaken for each other."""

from __future__ import annotations

from collections.abc import Iterable

from hat.data.records import JUNK_PID, ReIDDataset, Sample, Split
from hat.errors import DataError

__all__ = ["merge_training"]


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
