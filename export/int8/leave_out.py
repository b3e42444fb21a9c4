"""Leave layers out of int8: as few as the allowed fall of the cosine needs, those that cost most by themselves first."""

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from hat.errors import WorkError

T = TypeVar("T")

DEFAULT_MAX_DROP = 0.001
"""Fall of the mean cosine that int8 is allowed by default (what it costs in mAP: docs/precision.md)."""

PROJECTION = "projection"
"""The layer that makes the embedding: it decides the angles and costs nothing, so that it is never quantized."""


@dataclass(frozen=True)
class LayerLoss:
    """Loss of the embedding by quantizing one layer, all others being in floating point."""

    layer: str  # its name in the model
    worst: float  # 1 - the worst cosine between embeddings with and without it quantized
    mean: float  # the same for the mean cosine

    @property
    def reason(self) -> str:
        """Reason why the layer was left out."""
        return f"alone it costs {self.mean:.2e}"


def leave_out_fewest(
    losses: Sequence[LayerLoss], quantize: Callable[[Sequence[LayerLoss]], tuple[T, float]], allowed: float
) -> tuple[T, float]:
    """Return what ``quantize`` makes where the fewest layers are left out for a fall of the mean cosine within ``allowed``.

    How many is found by bisection, none being known to be too few. ``quantize`` is given the layers to leave out and returns
    what it made and the fall, measured on that very graph; given all layers, it raises what `nothing_left` says.
    """
    order = sorted(losses, key=lambda loss: -loss.mean)
    best: tuple[T, float] | None = None
    too_few, enough = 0, len(order)
    while enough - too_few > 1 or best is None:
        count = (too_few + enough + 1) // 2
        made, drop = quantize(order[:count])
        if drop > allowed:
            too_few = count
        else:
            enough, best = count, (made, drop)
    return best


def nothing_left(kind: str, num_layers: int) -> WorkError:
    """Return the error of a model of which no layer can be quantized."""
    return WorkError(f"no layer is left to compute in {kind}: all {num_layers} were left out; allow a larger --max-drop")


def sensitivity_details(losses: Sequence[LayerLoss], left_out: Container[str], num_images: int) -> dict[str, Any]:
    """Return what an artifact records of the loss of every layer, measured on so many images."""
    layers = [{**asdict(loss), "excluded": loss.layer in left_out} for loss in losses]
    return {"num_images": num_images, "layers": layers}
