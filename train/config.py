"""Configuration of a training run: one tree of frozen dataclasses, checked when it is made.

The defaults are the paper's recipe (Sec. 4.2) on Market-1501; `hat.train.presets` holds the differences of everything else.
"""

from typing import Annotated, Literal

from pydantic import Field

from hat.config import config_dataclass
from hat.model.config import ModelConfig

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@config_dataclass
class SamplerConfig:
    """Composition of a batch: P identities with L images each (paper Sec. 4.2: 16 x 4)."""

    num_identities: AtLeastTwo = 16
    """P, identities in the global batch, over all processes; a multiple of the number of processes."""
    num_instances: AtLeastTwo = 4
    """L, images of each identity in a batch. An identity with fewer repeats its own."""


@config_dataclass
class AugmentationConfig:
    """Random changes of training images, drawn for each image on its own."""

    pad: Count = 10
    """Black pixels added on each side before a crop of the original size is cut out at random; 0 leaves the crop out."""
    flip: Probability = 0.5
    """Probability of a left-right mirror image."""
    erasing: Probability = 0.5
    """Probability that one rectangle is filled with the mean color of the preprocessing."""
    erasing_area: tuple[PositiveFloat, PositiveFloat] = (0.02, 0.4)
    """Smallest and largest area of that rectangle, as a part of the image's."""
    erasing_ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.33)
    """Smallest and largest ratio of that rectangle's height to its width."""
    grayscale: Probability = 0.0
    """Probability that the colors are taken away."""
    brightness: BelowOne = 0.0
    """Pixels are multiplied by a factor from [1 - brightness, 1 + brightness]."""
    contrast: BelowOne = 0.0
    """Distances from the image's mean gray are multiplied by a factor from [1 - contrast, 1 + contrast]."""
    saturation: BelowOne = 0.0
    """Distances from a pixel's own gray are multiplied by a factor from [1 - saturation, 1 + saturation]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hues are turned by a part of the whole circle from [-hue, hue]."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels."""

    def __post_init__(self) -> None:
        for name in ("erasing_area", "erasing_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is (smallest, largest), got ({low}, {high})")
        if self.erasing_area[1] > 1:
            raise ValueError(f"erasing_area is a part of the image, at most 1, got {self.erasing_area[1]}")


@config_dataclass
class LossConfig:
    """The losses of every supervised branch and how they are summed (paper, Eq. 7-9)."""

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
    """Scale of the circle loss, which multiplies cosines: how much the hardest pairs outweigh the rest."""
    auxiliary_weight: NonNegativeFloat = 0.5
    """Weight of the TFC stages before the last one: the paper's lambda (Eq. 9, Table 5)."""


@config_dataclass
class DistillConfig:
    """Distillation: a small model learns the embeddings of a large one beside the identities."""

    teacher: str | None = None
    """The model to learn from: a checkpoint folder, an exported file, or the `teacher.safetensors` of another run that had
    `cache`. It has its own image size and need not know the same people; null learns from none."""
    embedding_weight: NonNegativeFloat = 100.0
    """Weight of 1 - cosine between the teacher's embedding and a linear projection of the student's features. The projection is
    learned beside the student and is no part of the product, unless `ModelConfig.projection_dim` makes it one. With both
    defaults the teacher outweighs the labels by far, which was best on identities held out (RESULTS.md). They are made for
    Adam, whose steps do not grow with the loss: lower both for SGD."""
    projection_images: Count = 0
    """Training images, as they are, on which the projection is fitted by ridge regression before the first step, for a student
    that is trained already: a random one would pull it about until it is learned. Thousands, of many people: hundreds are too
    few for a fit. 0 begins with a random one, or with that of the model's own that `initial_checkpoint` holds."""
    similarity_weight: NonNegativeFloat = 40.0
    """Weight of the difference between the teacher's and the student's similarities within a batch; no projection is needed,
    and it is the similarities that rank a gallery."""
    similarity: Literal["kl", "mse"] = "kl"
    """Comparison of similarities: divergence of the distributions over an image's neighbors (Passalis and Tefas, ECCV
    2018), or squared differences of cosines (near Tung and Mori, ICCV 2019)."""
    temperature: PositiveFloat = 0.2
    """Cosines are divided by it before the softmax of "kl". At 0.2 an identity's three others at 0.8 and sixty strangers at 0.1
    share a row of a 16 x 4 batch about evenly."""
    cache: bool = False
    """Embed the training images once before training, as they are, and learn from these rows whatever augmentation does: for a
    teacher that costs more than the student. Otherwise the teacher sees the very images that the student sees. The rows are
    kept in `OUT/teacher.safetensors`, which other runs on the same images can name as their teacher."""
    flip: bool = False
    """Learn the mean of the teacher's embeddings of an image and of its mirror image, scaled to unit length: a better teacher
    (`hat eval --flip` says by how much) that takes twice the time."""

    def __post_init__(self) -> None:
        for name in ("cache", "flip"):
            if self.teacher is None and getattr(self, name):
                raise ValueError(f"{name} is set and there is no teacher")
        if self.teacher is not None and not self.embedding_weight and not self.similarity_weight:
            raise ValueError("a teacher is named and nothing is learned from it: both weights are 0")
        if self.projection_images and not (self.teacher is not None and self.embedding_weight):
            raise ValueError("projection_images is set and there is no projection: no teacher, or an embedding_weight of 0")


@config_dataclass
class OptimConfig:
    """Optimizer."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam with weight decay in the gradient (paper), AdamW with decoupled decay, or SGD with momentum."""
    lr: PositiveFloat = 4e-4
    """Learning rate after the warm-up."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay."""
    momentum: BelowOne = 0.9
    """Momentum of SGD."""
    tfc_lr_scale: NonNegativeFloat = 0.5
    """Learning rate of all TFC stages relative to the rest (paper Sec. 4.2: half)."""
    decay_norms_and_biases: bool = True
    """Apply weight decay to norms, biases, the CLS token and position embeddings as well."""
    frozen_levels: Annotated[int, Field(ge=0, le=4)] = 0
    """Levels of the CNN that stay as they are, the stem and Res2 first. Their maps are the largest, so that fine-tuning on a
    CPU takes much less time without their gradients."""
    backbone_frozen_epochs: Count = 0
    """The CNN's weights stay as they are for so many epochs at the beginning, until the random layers above them are of use.
    Its gradients are computed all the same, and its batch norms gather statistics."""
    clip_grad_norm: PositiveFloat | None = None
    """Gradients are scaled down to this norm over all parameters; null leaves them alone."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged before a step. Every one of them is a full P x L batch, because the batch-hard
    triplet needs it: accumulation makes the step calmer, and never replaces a larger P x L by pieces of it."""


@config_dataclass
class ScheduleConfig:
    """The learning rate over time, changed at every step."""

    kind: Literal["step", "cosine", "constant"] = "step"
    """After the warm-up: drops at the milestones (paper), half a cosine down to `final_factor`, or nothing."""
    warmup_epochs: NonNegativeFloat = 10
    """Length of the linear warm-up in epochs."""
    warmup_factor: Probability = 0.01
    """The warm-up begins at this part of `optim.lr` (paper: 4e-6 of 4e-4)."""
    milestones: tuple[PositiveFloat, ...] = (50, 70, 90, 110, 130)
    """Epochs, counted from 0, at whose beginning the rate is multiplied by `gamma`."""
    gamma: PositiveFloat = 0.4
    """Factor of the learning rate at a milestone."""
    final_factor: Probability = 0.01
    """A cosine ends at this part of `optim.lr`."""

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones ascend without repeats, got {list(self.milestones)}")


@config_dataclass
class EMAConfig:
    """An exponential moving average of the weights, which is then what is evaluated and kept."""

    enabled: bool = False
    """Keep the average."""
    decay: BelowOne = 0.999
    """Part of the old average that a step keeps."""
    warmup: bool = True
    """Begin with a smaller decay, (1 + step) / (10 + step), so that the random initial weights are soon forgotten."""


@config_dataclass
class ComputeConfig:
    """Precision, memory layout and compilation."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the model's forward and backward pass (autocast); weights and losses stay float32. fp16 scales the loss."""
    tf32: bool = True
    """On CUDA, products and convolutions in fp32 keep 10 bits of their inputs' mantissas and run several times as fast."""
    channels_last: bool = True
    """Keep maps with the channels innermost, as the kernels of CUDA and of CPUs want them."""
    compile: bool | Literal["reduce-overhead"] = False
    """Compile the model with torch.compile; worth its minutes of waiting for long runs only. "reduce-overhead" captures CUDA
    graphs as well, for small models whose kernels are shorter than the time it takes to launch them."""


@config_dataclass
class DataConfig:
    """Storage and decoding of the training images."""

    cache: Literal["auto", "device", "host", "none"] = "auto"
    """Keep all training images as uint8 on the training device, in the host's memory, or decode them for every batch; auto
    takes the first of the three that fits into `cache_fraction` of the free memory, the host's divided among its processes. The
    run's result does not depend on it."""
    cache_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of the free memory that auto may fill with images."""
    num_workers: PositiveInt | None = None
    """Threads of each process that decode images; null is one for each core, at most 16, divided among its processes."""


@config_dataclass
class EvalConfig:
    """Evaluation while training."""

    every_epochs: Count = 0
    """Evaluate after every so many epochs, and after the last; 0 never. The best mAP is then what the run keeps."""
    batch_size: PositiveInt = 64
    """Images embedded at once."""


@config_dataclass
class CheckpointConfig:
    """Intervals at which a run is saved. It always is after the last epoch."""

    every_minutes: PositiveFloat | None = 10
    """The state to resume from, once so many minutes have passed since it was last written; null not by time."""
    every_epochs: Count = 0
    """The state, and the weights as a checkpoint, after every so many epochs; 0 not by epochs."""
    every_steps: Count = 0
    """The state, after every so many steps, counted over the whole run; 0 not by steps."""


@config_dataclass
class LogConfig:
    """Logging of metrics."""

    every_steps: PositiveInt = 20
    """A line of `metrics.jsonl` for every so many steps, with the means over them, and one at the end of an epoch."""
    tensorboard: bool = False
    """Write the same metrics for TensorBoard into `OUT/tensorboard`."""


@config_dataclass
class DistributedConfig:
    """Several processes, started by torchrun."""

    sync_batch_norm: bool = True
    """Batch norms see the global batch instead of each process's part. Between the cores of a CPU that costs a fifth
    of the speed."""
    global_triplets: bool = True
    """Hardest positives and negatives are looked for in the global batch instead of each process's part; so are the pairs of
    which a teacher's similarities are learned."""


@config_dataclass
class TrainConfig:
    """A training run. The defaults are the paper's recipe."""

    model_name: str = "hat_resnet50"
    """A name of `hat.list_models`; the fields of `model` begin as that model's."""
    model: ModelConfig = ModelConfig()
    """The architecture."""
    backbone_weights: str | None = None
    """Source of the CNN's weights: "torchvision", "timm", a file, or "none" for random ones. It has to be said."""
    initial_checkpoint: str | None = None
    """Begin with this trained model instead: a checkpoint folder of the same architecture, at any image size, of any people; or
    a .pth file of HAT's released code, read with the stride of `model.backbone`."""
    num_epochs: Count = 150
    """Length of the run; 0 fits the model's projection (`DistillConfig.projection_images`) and trains nothing."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides initial weights, batches, augmentation and dropout."""
    gray_bits: Annotated[int, Field(ge=8, le=16)] | None = None
    """Bits that sixteen-bit gray images really use: 10, 12 or 14 of many cameras; null is all of them."""
    sampler: SamplerConfig = SamplerConfig()
    """Batches."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the images."""
    loss: LossConfig = LossConfig()
    """Losses."""
    distill: DistillConfig = DistillConfig()
    """A trained model to learn from."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over time."""
    ema: EMAConfig = EMAConfig()
    """Moving average of the weights."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and memory layout."""
    data: DataConfig = DataConfig()
    """Storage of images."""
    eval: EvalConfig = EvalConfig()
    """Evaluation while training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Intervals at which the state is saved."""
    log: LogConfig = LogConfig()
    """Logging of metrics."""
    distributed: DistributedConfig = DistributedConfig()
    """Several processes."""

    def __post_init__(self) -> None:
        if not self.num_epochs and not (self.model.projection_dim is not None and self.distill.projection_images):
            raise ValueError(
                "num_epochs is 0 and there is no projection to fit: set model.projection_dim and distill.projection_images"
            )
        if self.num_epochs and self.schedule.kind == "cosine" and self.schedule.warmup_epochs >= self.num_epochs:
            raise ValueError(
                f"schedule.warmup_epochs is {self.schedule.warmup_epochs:g} and leaves nothing of num_epochs={self.num_epochs} "
                "for the cosine"
            )
        smaller = min(self.model.image_size)
        if self.augmentation.pad >= smaller:
            raise ValueError(f"augmentation.pad is {self.augmentation.pad} and must be smaller than the image, {smaller}")
        if self.model.projection_dim is not None and self.distill.teacher is None:
            raise ValueError(
                "model.projection_dim is set and only a teacher trains the projection: name one as distill.teacher"
            )
