"""How far an exported file may stray from the model, by the precision it computes in; each number has its reason beside it.

The embedding limits say that arithmetic was done right; the ranking limits that people come out in the same order; the
retrieval limits that the figures a user was promised still hold. Any one of them can fail a file by itself.
"""

from typing import NamedTuple

from hat.errors import UsageError
from hat.io.artifact import ArtifactPrecision


class Limit(NamedTuple):
    """A number and why it is this one."""

    value: float
    reason: str


class Tolerance(NamedTuple):
    """The limits for one precision; rates and changes of rates are in [0, 1].

    Attributes:
        worst_cosine: Least cosine between the two embeddings of any image.
        max_abs: Largest difference of any value of any embedding.
        relative_shift: Largest distance that an embedding moved, in units of the median distance between two images. It sees
            what the cosine overlooks where all embeddings lie close together, as those of a model with little training do.
        batch_max_abs: Largest difference of any value between an image alone and the same image anywhere in any batch.
        top1: Least share of queries whose nearest gallery image is the same.
        top_k: Least mean share of the k nearest that are the same.
        rank_correlation: Least mean Spearman correlation of the whole order.
        tie: Similarities of the reference closer than this are no order: what the candidate makes of them is not held against
            it.
        mAP: Largest change of mean average precision.
        rank1: Largest change of Rank-1; one query is always allowed, since the figure has no finer step.
        mINP: Largest change of mINP.
    """

    worst_cosine: Limit
    max_abs: Limit
    relative_shift: Limit
    batch_max_abs: Limit
    top1: Limit
    top_k: Limit
    rank_correlation: Limit
    tie: Limit
    mAP: Limit  # noqa: N815 - the field writes it so
    rank1: Limit
    mINP: Limit  # noqa: N815


UNIT_LENGTH = Limit(1e-3, "the L2 norm is computed in float32 at every precision; leaving it as float16 moves a length by 5e-4")

_FP32 = Tolerance(
    worst_cosine=Limit(
        0.99999, "the same arithmetic in another order: rounding leaves 1 - 1e-9, a wrong layer leaves far less"
    ),
    max_abs=Limit(1e-4, "values of a unit vector are about 0.02 and float32 sums of thousands of terms agree to about 1e-6"),
    relative_shift=Limit(1e-3, "rounding stays far below it, and one wrong layer far above it"),
    batch_max_abs=Limit(1e-4, "another batch size may choose another kernel, which adds in another order"),
    top1=Limit(1.0, "float32 has no excuse: beyond ties the nearest image is the same for every query"),
    top_k=Limit(1.0, "as for the nearest image"),
    rank_correlation=Limit(0.9999, "only neighbors that are almost tied may change places"),
    tie=Limit(1e-5, "ten times what rounding moves a similarity by"),
    mAP=Limit(1e-4, "0.01 points, the last digit that is printed"),
    rank1=Limit(1e-4, "0.01 points, the last digit that is printed"),
    mINP=Limit(2e-4, "hangs on the last match of each query, which moves more easily than the mean"),
)

_FP16 = Tolerance(
    worst_cosine=Limit(
        0.999, "11 bits of significand through some fifty layers leave about 0.99999; overflow or a norm in float16 shows"
    ),
    max_abs=Limit(5e-3, "relative rounding of 5e-4, grown tenfold on the way, on the largest values of a unit vector"),
    relative_shift=Limit(0.1, "a tenth of the way to another image cannot make it that image"),
    batch_max_abs=Limit(5e-3, "as between reference and candidate: other kernels round elsewhere"),
    top1=Limit(0.99, "one flip in a hundred queries among images that are nearly as near"),
    top_k=Limit(0.99, "the same at the edge of the list"),
    rank_correlation=Limit(0.999, "neighbors change places, regions of the order do not"),
    tie=Limit(1e-3, "what a cosine of 0.999 may move a similarity by to first order"),
    mAP=Limit(1e-3, "0.1 points: nobody could tell two trainings apart by it"),
    rank1=Limit(1e-3, "0.1 points, 3 queries of Market-1501"),
    mINP=Limit(2e-3, "twice that of mAP: it hangs on the last match of each query"),
)

_BF16 = Tolerance(
    worst_cosine=Limit(
        0.97,
        "8 bits of significand: of thousands of photographs through three trained models 999 in 1,000 stayed above 0.991 and "
        "the worst at 0.977; a wrong layer moves them all",
    ),
    max_abs=Limit(3e-2, "the worst of the same photographs moved a value by 0.023"),
    relative_shift=Limit(0.2, "a fifth of the way to another image; the worst of the same photographs went 0.16 of it"),
    batch_max_abs=Limit(2e-2, "as between reference and candidate: other kernels round elsewhere"),
    top1=Limit(0.97, "three flips in a hundred queries among images that are nearly as near"),
    top_k=Limit(0.97, "the same at the edge of the list"),
    rank_correlation=Limit(0.99, "neighbors change places, regions of the order hardly do"),
    tie=Limit(5e-3, "similarities that bfloat16 itself can hardly tell apart near 1"),
    mAP=Limit(2e-3, "0.2 points: between float16 and int8"),
    rank1=Limit(2e-3, "0.2 points, 6 queries of Market-1501"),
    mINP=Limit(4e-3, "twice that of mAP: it hangs on the last match of each query"),
)

_INT8 = Tolerance(
    worst_cosine=Limit(
        0.9, "a floor, not a goal: below it an embedding has moved as far as between two photographs of one person"
    ),
    max_abs=Limit(0.1, "several times the usual value of a unit vector: single values that were clipped away show"),
    relative_shift=Limit(0.5, "beyond half of the way an embedding is as near to another image as to its own"),
    batch_max_abs=Limit(
        2e-2, "scales are fixed in the file, so that only values at the edge of a step may fall to either side"
    ),
    top1=Limit(
        0.9, "a tenth of the queries may prefer another image that is nearly as near; retrieval decides whether that hurts"
    ),
    top_k=Limit(0.9, "the same at the edge of the list"),
    rank_correlation=Limit(0.95, "the order as a whole stays, its neighbors mix"),
    tie=Limit(1e-2, "similarities that a step of 1/127 cannot tell apart"),
    mAP=Limit(5e-3, "0.5 points: what the speed may cost"),
    rank1=Limit(5e-3, "0.5 points, 16 queries of Market-1501"),
    mINP=Limit(1e-2, "twice that of mAP: it hangs on the last match of each query"),
)

TOLERANCES: dict[ArtifactPrecision, Tolerance] = {"fp32": _FP32, "fp16": _FP16, "bf16": _BF16, "int8": _INT8, "fp8": _INT8}
"""By precision; fp8 has three or four bits of significand and is held to what int8 is."""

_LOOSEST_LAST: tuple[ArtifactPrecision, ...] = ("fp32", "fp16", "bf16", "fp8", "int8")


def tolerance_for(reference: str, candidate: str) -> tuple[ArtifactPrecision, Tolerance]:
    """Return the limits for two files: those of the coarser of their precisions.

    Returns:
        The precision that decides, and its limits.

    Raises:
        UsageError: A precision is unknown.
    """
    for precision in reversed(_LOOSEST_LAST):
        if precision in (reference, candidate):
            return precision, TOLERANCES[precision]
    raise UsageError(f"there is no tolerance for {reference!r} and {candidate!r}: known are {', '.join(TOLERANCES)}")
