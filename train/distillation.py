"""What a student learns of a teacher: its embeddings, and how near it holds the images of a batch to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model import HAT, Branch

from .config import TrainConfig
from .distributed import Place, first_row, gather_with_gradient, gather_without_gradient
from .losses import LossParts, at_least_float32
from .randomness import derive_seed
from .teacher import Teacher

__all__ = ["Distillation", "embedding_loss", "similarity_loss"]

_INITIAL_PROJECTION = 2  # tells this seed from those of dropout


class Distillation:
    """A teacher, what of it is learned, and the projection that is learned beside the student.

    Args:
        config: The run.
        teacher: Gives embeddings.
        student: The model that learns.
        place: This process among all.

    Attributes:
        projection: From the student's embedding to the teacher's width; None where embeddings are not learned. Its bias takes
            up what all of the teacher's embeddings share, since BN necks leave the student's without a common part. It
            belongs to the state of a run and to no product.
    """

    def __init__(self, config: TrainConfig, teacher: Teacher, student: HAT, place: Place) -> None:
        self.config = config.distill
        self.teacher = teacher
        self.branches = student.config.embedding_branches
        self.over_all = config.distributed.global_triplets and place.world_size > 1
        self.projection: nn.Linear | None = None
        if self.config.embedding_weight:
            torch.manual_seed(derive_seed(config.seed, 0, _INITIAL_PROJECTION))  # the same in every process
            self.projection = nn.Linear(student.embed_dim, teacher.embed_dim).to(place.device)

    def __call__(self, outputs: Mapping[str, Branch], images: Tensor, indices: Tensor) -> LossParts:
        """What the teacher adds to the loss of a batch.

        Args:
            outputs: The student's branches in training mode.
            images: (B, 3, H, W) uint8 RGB, what the student saw.
            indices: (B,) int64, which training images they were made of.

        Returns:
            The weighted sum and its unweighted parts, ``"distill_embedding"`` and ``"distill_similarity"``.
        """
        joined = torch.cat([outputs[name].bn_feature for name in self.branches], dim=1)
        student = F.normalize(at_least_float32(joined), dim=1)  # (B, embed_dim)
        wanted = self.teacher.embed(images, indices).to(student.dtype)  # (B, teacher's width)
        parts: dict[str, Tensor] = {}
        total = student.new_zeros(())
        if self.projection is not None:
            parts["distill_embedding"] = embedding_loss(self.projection(student), wanted)
            total = total + self.config.embedding_weight * parts["distill_embedding"]
        if self.config.similarity_weight:
            parts["distill_similarity"] = similarity_loss(
                student,
                wanted,
                self.config.similarity,
                self.config.temperature,
                pool=gather_with_gradient(student) if self.over_all else student,
                wanted_pool=gather_without_gradient(wanted) if self.over_all else wanted,
                first=first_row(len(student)) if self.over_all else 0,
            )
            total = total + self.config.similarity_weight * parts["distill_similarity"]
        return LossParts(total, {name: value.detach() for name, value in parts.items()})


def embedding_loss(projected: Tensor, wanted: Tensor) -> Tensor:
    """One minus the cosine between what the student says of an image and what the teacher says.

    Args:
        projected: (B, D) floating point, of any length.
        wanted: (B, D) floating point, of any length.

    Returns:
        Scalar in [0, 2], the mean over the batch.
    """
    return (1 - F.cosine_similarity(projected, wanted, dim=1)).mean()


def similarity_loss(
    student: Tensor,
    wanted: Tensor,
    kind: Literal["kl", "mse"],
    temperature: float,
    *,
    pool: Tensor | None = None,
    wanted_pool: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """How differently student and teacher see the relations between the images of a batch.

    ``"kl"`` makes of each image's cosines with all others a distribution, softmax(cosine / temperature), and takes the
    divergence of the student's from the teacher's: the conditional probabilities of probabilistic knowledge transfer (Passalis
    and Tefas, ECCV 2018). ``"mse"`` is the mean squared difference of the cosines: similarity-preserving distillation (Tung and
    Mori, ICCV 2019), a near relative of relational distillation (Park et al., CVPR 2019). Differs: rows of the matrix are not
    scaled to unit length, since cosines are alike in scale for both; an image's cosine with itself is left out.

    Args:
        student: (B, C) floating point, unit rows.
        wanted: (B, D) floating point, unit rows of the teacher.
        kind: ``"kl"`` or ``"mse"``.
        temperature: Divides cosines, for ``"kl"``.
        pool: (N, C) the images that each is compared with, its own among them; the batch if None.
        wanted_pool: (N, D) the teacher's embeddings of them.
        first: Where the batch stands in the pool.

    Returns:
        Scalar, at least 0, the mean over the batch.
    """
    pool = student if pool is None else pool
    wanted_pool = wanted if wanted_pool is None else wanted_pool
    own = torch.arange(len(student), device=student.device)[:, None] + first  # (B, 1), place of an image among the others
    others = torch.arange(len(pool) - 1, device=student.device)[None]  # (1, N - 1)
    others = others + (others >= own)  # (B, N - 1), all places but its own
    cosines = (student @ pool.T).gather(1, others)
    wanted_cosines = (wanted @ wanted_pool.T).gather(1, others)
    if kind == "mse":
        return F.mse_loss(cosines, wanted_cosines)
    return F.kl_div(
        F.log_softmax(cosines / temperature, dim=1),
        F.log_softmax(wanted_cosines / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
