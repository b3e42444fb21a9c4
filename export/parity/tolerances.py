"""Tolerances of an exported file against the model, by the precision it computes in; each with its reason.

The embedding limits say that arithmetic was done right; the ranking limits that people come out in the same order; the
retrieval limits that the figures a user was promised still hold. Any one of them can fail a file by itself.
"""

from typing import NamedTuple

from hat.io.artifact import ArtifactPrecision


class Limit(NamedTuple):
    """A number and why it is this one."""

    value: float
    reason: str


class Tolerance(NamedTuple):
    """The limits for one precision; rates and changes of rates are in [0, 1]."""

    worst_cosine: Limit  # least cosine between the two embeddings of any image
    max_abs: Limit  # largest difference of any value of any embedding
    # Largest distance that an embedding moved, in units of the median distance between two images. It sees what the cosine
    # overlooks where all embeddings lie close together, as those of a model with little training do.
    relative_shift: Limit
    batch_max_abs: Limit  # largest difference between an image alone and the same image anywhere in any batch
    rank_correlation: Limit  # least mean Spearman correlation of the whole order
    tie: Limit  # similarities of the reference closer than this are no order that a candidate could miss
    top1: Limit  # least share of queries whose nearest gallery image is the same
    top_k: Limit  # least mean share of the k nearest that are the same
    mAP: Limit  # noqa: N815 - the field writes it so
    rank1: Limit  # largest change; one query is always allowed, since the figure has no finer step
    mINP: Limit  # noqa: N815


UNIT_LENGTH = Limit(1e-3, "the L2 norm is computed in float32 at every precision; leaving it as float16 moves a length by 5e-4")

_MARKET_QUERIES = 3368


def _tolerance(*, top1: Limit, mAP: Limit, **others: Limit) -> Tolerance:  # noqa: N803 - the field writes it so
    """Add the limits that follow from another one."""
    return Tolerance(
        **others,
        top1=top1,
        top_k=Limit(top1.value, "the same at the edge of the list"),
        mAP=mAP,
        rank1=Limit(mAP.value, f"{100 * mAP.value:g} points, {int(_MARKET_QUERIES * mAP.value)} queries of Market-1501"),
        mINP=Limit(2 * mAP.value, "twice that of mAP: it hangs on the last match of each query"),
    )


_FP32 = _tolerance(
    worst_cosine=Limit(0.99999, "the same arithmetic in another order: rounding leaves 1 - 1e-9, a wrong layer far less"),
    max_abs=Limit(1e-4, "values of a unit vector are about 0.02 and float32 sums of thousands of terms agree to about 1e-6"),
    relative_shift=Limit(1e-3, "rounding stays far below it, and one wrong layer far above it"),
    batch_max_abs=Limit(1e-4, "another batch size may choose another kernel, which adds in another order"),
    rank_correlation=Limit(0.9999, "only neighbors that are almost tied may change places"),
    tie=Limit(1e-5, "ten times what rounding moves a similarity by"),
    top1=Limit(1.0, "float32 has no excuse: beyond ties the nearest image is the same for every query"),
    mAP=Limit(1e-4, "0.01 points, the last digit that is printed"),
)

_FP16 = _tolerance(
    worst_cosine=Limit(0.999, "11 bits through some fifty layers leave about 0.99999; overflow or a norm in float16 shows"),
    max_abs=Limit(5e-3, "relative rounding of 5e-4, grown tenfold on the way, on the largest values of a unit vector"),
    relative_shift=Limit(0.1, "a tenth of the way to another image cannot make it that image"),
    batch_max_abs=Limit(5e-3, "as between reference and candidate: other kernels round elsewhere"),
    rank_correlation=Limit(0.999, "neighbors change places, regions of the order do not"),
    tie=Limit(1e-3, "what a cosine of 0.999 may move a similarity by to first order"),
    top1=Limit(0.99, "one flip in a hundred queries among images that are nearly as near"),
    mAP=Limit(1e-3, "0.1 points: nobody could tell two trainings apart by it"),
)

# Of thousands of photographs through three trained models; a wrong layer moves them all.
_BF16 = _tolerance(
    worst_cosine=Limit(0.97, "8 bits of significand: of 1,000 photographs 999 stayed above 0.991, the worst at 0.977"),
    max_abs=Limit(3e-2, "the worst of the same photographs moved a value by 0.023"),
    relative_shift=Limit(0.2, "a fifth of the way to another image; the worst of the same photographs went 0.16 of it"),
    batch_max_abs=Limit(2e-2, "as between reference and candidate: other kernels round elsewhere"),
    rank_correlation=Limit(0.99, "neighbors change places, regions of the order hardly do"),
    tie=Limit(5e-3, "similarities that bfloat16 itself can hardly tell apart near 1"),
    top1=Limit(0.97, "three flips in a hundred queries among images that are nearly as near"),
    mAP=Limit(2e-3, "0.2 points: between float16 and int8"),
)

_INT8 = _tolerance(
    worst_cosine=Limit(0.9, "a floor, not a goal: below it an embedding is as far off as another photograph of the person"),
    max_abs=Limit(0.1, "several times the usual value of a unit vector: single values that were clipped away show"),
    relative_shift=Limit(0.5, "beyond half of the way an embedding is as near to another image as to its own"),
    batch_max_abs=Limit(2e-2, "scales are fixed in the file: only values at the edge of a step may fall to either side"),
    rank_correlation=Limit(0.95, "the order as a whole stays, its neighbors mix"),
    tie=Limit(1e-2, "similarities that a step of 1/127 cannot tell apart"),
    top1=Limit(0.9, "a tenth of the queries may prefer another image nearly as near; retrieval decides whether that hurts"),
    mAP=Limit(5e-3, "0.5 points: what the speed may cost"),
)

TOLERANCES: dict[ArtifactPrecision, Tolerance] = {"fp32": _FP32, "fp16": _FP16, "bf16": _BF16, "fp8": _INT8, "int8": _INT8}
"""By precision, the coarsest last; fp8 has three or four bits of significand and is held to what int8 is."""


def tolerance_for(reference: ArtifactPrecision, candidate: ArtifactPrecision) -> tuple[ArtifactPrecision, Tolerance]:
    """Return the coarser of two files' precisions and its limits."""
    precision = next(known for known in reversed(TOLERANCES) if known in (reference, candidate))
    return precision, TOLERANCES[precision]
