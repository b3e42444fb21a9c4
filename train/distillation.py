"""Distillation: a student learns a teacher's embeddings, and its similarities between the images of a batch."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hat.console import stderr
from hat.errors import ConfigError
from hat.model import HAT

from .config import TrainConfig
from .distributed import DistributedContext, gather_rows, row_offset
from .losses import LossParts
from .randomness import derive_seed
from .teacher import Teacher

_INITIAL_PROJECTION = 2  # tells this seed from those of dropout
_RIDGE = 0.1  # of the mean square of an embedding's value; chosen on images that the regression had not seen


class Distillation:
    """A teacher, what of it is learned, and the projection that is learned beside the student.

    The projection leads from the student's concatenated features to the teacher's width. Its bias takes up what all of the
    teacher's embeddings share, since BN necks leave the student's without a common part. A student with a `projection` of its
    own makes its embedding by it; any other has one that belongs to the state of the run and to no product, and none where
    embeddings are not learned.

    Raises:
        ConfigError: The student's projection gives another width than the teacher's.
    """

    def __init__(self, config: TrainConfig, teacher: Teacher, student: HAT, context: DistributedContext) -> None:
        self.config = config.distill
        self.teacher = teacher
        self.context = context
        self.over_all = config.distributed.global_triplets and context.world_size > 1
        self.projection: nn.Linear | None = None
        own = student.config.projection_dim
        if own is not None and self.config.embedding_weight and own != teacher.embed_dim:
            raise ConfigError(
                f"model.projection_dim is {own} and the teacher's embeddings have {teacher.embed_dim} values: make it as many "
                "or set distill.embedding_weight=0 to learn their similarities alone"
            )
        if self.config.embedding_weight and own is None:
            torch.manual_seed(derive_seed(config.seed, 0, _INITIAL_PROJECTION))  # the same in every process
            self.projection = nn.Linear(student.embed_dim, teacher.embed_dim).to(context.device)

    @torch.no_grad()
    def fit_projection(self, student: HAT, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Make the projection the one that leads best from the student's features to the teacher's embeddings.

        ``batches`` are images (B, 3, H, W) uint8 RGB and which training images they are (B,). The first process fits it for
        all, by ridge regression.
        """
        projection = student.projection or self.projection
        assert projection is not None, "embeddings are learned"
        parameters = [projection.weight, projection.bias]
        if self.context.is_main:
            student.eval()
            pairs = [(student.joined(images), self.teacher.embed(images, indices)) for images, indices in batches]
            rows, target = (torch.cat(part).cpu() for part in zip(*pairs, strict=True))  # (N, C) and (N, D)
            if len(rows) < rows.shape[1]:
                stderr.print(
                    f"the projection is fitted on {len(rows)} images, fewer than the {rows.shape[1]} features it combines: "
                    "expect little of it on other people"
                )
            for parameter, value in zip(parameters, best_projection(rows, target), strict=True):
                parameter.copy_(value)
        if self.context.world_size > 1:
            for parameter in parameters:
                dist.broadcast(parameter, src=0)

    def __call__(self, student: Tensor, images: Tensor, indices: Tensor) -> LossParts:
        """Return the weighted sum of ``"distill_embedding"`` and ``"distill_similarity"``, and these as parts.

        ``student`` (B, embed_dim) are the student's embeddings of ``images`` (B, 3, H, W) uint8 RGB, which were made of the
        training images ``indices`` (B,).
        """
        target = self.teacher.embed(images, indices).to(student.dtype)  # (B, teacher's width)
        parts: dict[str, Tensor] = {}
        total = student.new_zeros(())
        if self.config.embedding_weight:
            projected = student if self.projection is None else self.projection(student)
            parts["distill_embedding"] = embedding_loss(projected, target)
            total = total + self.config.embedding_weight * parts["distill_embedding"]
        if self.config.similarity_weight:
            parts["distill_similarity"] = similarity_loss(
                student,
                target,
                self.config.similarity,
                self.config.temperature,
                gathered=gather_rows(student) if self.over_all else student,
                gathered_target=gather_rows(target) if self.over_all else target,
                offset=row_offset(len(student)) if self.over_all else 0,
            )
            total = total + self.config.similarity_weight * parts["distill_similarity"]
        return LossParts(total, {name: value.detach() for name, value in parts.items()})


def best_projection(rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight (D, C) and bias (D,), float64, that lead best from unit rows (N, C) to (N, D): ridge regression."""
    rows = torch.cat([rows.double(), rows.new_ones(len(rows), 1, dtype=torch.float64)], dim=1)  # the last column is the bias's
    ridge = _RIDGE * len(rows) / rows.shape[1] * torch.eye(rows.shape[1], dtype=rows.dtype)
    solution = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ target.double())  # (C + 1, D)
    return solution[:-1].T, solution[-1]


def embedding_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Return one minus the cosine between rows (B, D), of any length, of student and teacher: in [0, 2], their mean."""
    return (1 - F.cosine_similarity(projected, target, dim=1)).mean()


def similarity_loss(
    student: Tensor,
    target: Tensor,
    kind: Literal["kl", "mse"],
    temperature: float,
    *,
    gathered: Tensor | None = None,
    gathered_target: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Return how differently student (B, C) and teacher (B, D), unit rows, see the relations between the images of a batch.

    ``"kl"`` makes of each image's cosines with all others a distribution, softmax(cosine / temperature), and takes the
    divergence of the student's from the teacher's: the conditional probabilities of probabilistic knowledge transfer (Passalis
    and Tefas, ECCV 2018). ``"mse"`` is the mean squared difference of the cosines: similarity-preserving distillation (Tung and
    Mori, ICCV 2019), a near relative of relational distillation (Park et al., CVPR 2019). Differs: rows of the matrix are not
    scaled to unit length, since cosines are alike in scale for both; an image's cosine with itself is left out.

    Images are compared with ``gathered`` (N, C) and ``gathered_target`` (N, D), among which they stand at ``offset``; with each
    other where these are None. Returns the mean over the batch, at least 0.
    """
    gathered = student if gathered is None else gathered
    gathered_target = target if gathered_target is None else gathered_target
    own = torch.arange(len(student), device=student.device)[:, None] + offset  # (B, 1), place of an image among the others
    others = torch.arange(len(gathered) - 1, device=student.device)[None]  # (1, N - 1)
    others = others + (others >= own)  # (B, N - 1), all places but its own
    cosines = (student @ gathered.T).gather(1, others)
    target_cosines = (target @ gathered_target.T).gather(1, others)
    if kind == "mse":
        return F.mse_loss(cosines, target_cosines)
    return F.kl_div(
        F.log_softmax(cosines / temperature, dim=1),
        F.log_softmax(target_cosines / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
