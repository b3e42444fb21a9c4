"""Learning from a trained model: which one, and what of it."""

from __future__ import annotations

from typing import Literal

from hat.config import config_dataclass

from .field_types import NonNegativeFloat, PositiveFloat

__all__ = ["DistillConfig"]


@config_dataclass
class DistillConfig:
    """Distillation: a small model learns the embeddings of a large one beside the identities."""

    teacher: str | None = None
    """The model to learn from: a checkpoint folder, an exported file, or the `teacher.safetensors` of another run that had
    `cache`. It has its own image size and need not know the same people; null learns from none."""

    embedding_weight: NonNegativeFloat = 1.0
    """Weight of 1 - cosine between the teacher's embedding and a linear projection of the student's. The projection is learned
    beside the student and is no part of the product."""

    similarity_weight: NonNegativeFloat = 1.0
    """Weight of the difference between the teacher's and the student's similarities within a batch; no projection is needed,
    and it is the similarities that rank a gallery."""

    similarity: Literal["kl", "mse"] = "kl"
    """How similarities are compared: divergence of the distributions over an image's neighbors (Passalis and Tefas, ECCV
    2018), or squared differences of cosines (near Tung and Mori, ICCV 2019)."""

    temperature: PositiveFloat = 0.2
    """Cosines are divided by it before the softmax of "kl". At 0.2 an identity's three others at 0.8 and sixty strangers at 0.1
    share a row of a 16 x 4 batch about evenly."""

    cache: bool = False
    """Embed the training images once before training, as they are, and learn from these rows whatever augmentation does: for a
    teacher that costs more than the student. Otherwise the teacher sees the very images that the student sees. The rows are
    kept in `OUT/teacher.safetensors`, which other runs on the same images can name as their teacher."""

    def __post_init__(self) -> None:
        if self.teacher is None and self.cache:
            raise ValueError("cache is set and there is no teacher")
        if self.teacher is not None and not self.embedding_weight and not self.similarity_weight:
            raise ValueError("a teacher is named and nothing is learned from it: both weights are 0")
