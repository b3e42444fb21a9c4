"""What a run minimizes: the losses for identities, and what is learned from a teacher."""

from typing import Annotated, Literal

from pydantic import Field

from hat.config import config_dataclass

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@config_dataclass
class LossConfig:
    """The losses of every supervised branch and how they are summed (paper Sec. 3.4, Eq. 7-9)."""

    label_smoothing: BelowOne = 0.1
    """Part of the target's probability that is spread over all identities."""

    triplet_weight: NonNegativeFloat = 1.0
    """Weight of the batch-hard triplet loss beside the cross entropy; 0 leaves it out."""

    margin: PositiveFloat | None = 0.3
    """Margin of the batch-hard triplet loss; null is the soft margin, log(1 + exp(positive - negative))."""

    circle_weight: NonNegativeFloat = 0.0
    """Weight of the circle loss over all pairs of a batch (Sun et al., CVPR 2020), beside the triplet loss or in its place."""

    circle_margin: BelowOne = 0.25
    """The circle loss wants cosines above 1 - margin within an identity and below margin between two."""

    circle_scale: PositiveFloat = 128.0
    """What the circle loss multiplies cosines by: how much the hardest pairs outweigh the rest."""

    auxiliary_weight: NonNegativeFloat = 0.5
    """Weight of the TFC stages before the last one: the paper's lambda (Eq. 9, Table 5)."""


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
