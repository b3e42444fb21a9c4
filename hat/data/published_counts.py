"""The sizes that data sets were published with, and what to tell a user whose copy differs.

A difference is never an error: people hold subsets. It is told, because a result on a subset is not the benchmark's.
"""

from collections.abc import Mapping, Sequence

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import DataError

# Images and identity labels of train, query and gallery, junk not counted; the label that distractors share counts as one.
# Market-1501's bounding_box_test holds 19,732 images: 13,115 of 750 identities, 2,798 distractors and 3,819 junk images.
# DukeMTMC-reID's gallery holds the 702 identities of the query and 408 that only one camera saw. MSMT17's training part is
# list_train.txt (30,248 images) and list_val.txt (2,373 of the same identities) together.
PUBLISHED_COUNTS: Mapping[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "market1501": ((12_936, 751), (3_368, 750), (15_913, 751)),
    "dukemtmc-reid": ((16_522, 702), (2_228, 702), (17_661, 1_110)),
    "cuhk03-np-labeled": ((7_368, 767), (1_400, 700), (5_328, 700)),
    "cuhk03-np-detected": ((7_365, 767), (1_400, 700), (5_332, 700)),
    "msmt17": ((32_621, 1_041), (11_659, 3_060), (82_161, 3_060)),
}
"""By registered name; ``hat`` compares what it read with them."""


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
    """Make a data set of its splits, with the notes that its sizes deserve.

    Args:
        name: The data set's registered name.
        where: The folder or file, for error messages.
        train: May be empty.
        query: May be empty where the gallery is.
        gallery: May be empty where the query is.
        notes: What the reader noticed.
        has_cameras: Whether cameras are known.

    Raises:
        DataError: All splits are empty, or one of query and gallery is.
    """
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
        collected.append(_compare(splits, PUBLISHED_COUNTS[name]))
    # Benchmarks are known to be free of this, and one of them numbers the people of its two parts apart.
    elif shared := {sample.pid for sample in train} & {sample.pid for sample in query}:
        collected.append(
            f"{len(shared):,} of {splits[1].num_pids:,} query identities are in the training part too: figures of a model that "
            "was trained on it flatter"
        )
    return ReIDDataset(name, *splits, tuple(collected), has_cameras)


def _compare(splits: Sequence[Split], published: Sequence[tuple[int, int]]) -> str:
    differences = []
    for split, expected in zip(splits, published, strict=True):
        found = len(split), split.num_pids
        if len(split) and found != expected:
            has, should = (f"{images:,} images of {pids:,} identities" for images, pids in (found, expected))
            differences.append(f"{split.name} has {has}, published are {should}")
    if differences:
        return "not the published data set: " + "; ".join(differences)
    return "counts of images and identities are the published ones"
