"""The trained model that a student learns from: run beside it on the same images, or asked once before training."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hat.console import progress
from hat.data.loading import default_num_workers
from hat.embedder import Embedder
from hat.errors import ConfigError
from hat.model.inference import InferenceModel
from hat.runtime import Runtime, TorchRuntime, open_runtime
from hat.runtime.opening import ARTIFACT_ENDINGS
from hat.runtime.protocol import runtime_info

from .config import TrainConfig
from .distributed import DistributedContext
from .teacher_rows import TEACHER_FILE, TeacherEmbeddings, read_rows, write_rows

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(Protocol):
    """Gives the embeddings that a student learns.

    Attributes:
        embed_dim: Their width.
        fingerprint: What they are embeddings of; a resumed run must find the same.
    """

    embed_dim: int
    fingerprint: str

    def begin(self, folder: Path) -> None:
        """Do what is to be done once before training; files are kept in the run's folder."""

    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            images: (B, 3, H, W) uint8 RGB, augmented, at the student's size.
            indices: (B,) int64, which training images they were made of.

        Returns:
            (B, embed_dim) float32, rows of unit length, without gradient.
        """
        ...


class OnlineTeacher:
    """A teacher that sees the very images that the student sees, resized to its own input.

    Args:
        runtime: What runs it. A checkpoint is run as its exact inference graph on the training device; exported files take and
            give host memory.
        precision: The run's precision, in which a checkpoint computes.
    """

    def __init__(self, runtime: Runtime, precision: str) -> None:
        self.size = runtime.preprocessing.size
        self.embed_dim = runtime.embed_dim
        self.fingerprint = runtime_info(runtime).fingerprint
        self.autocast_type = _AUTOCAST_TYPES.get(precision)
        # The graph holds copies of the weights, so that the runtime need not stay.
        self._model = InferenceModel(runtime.model).to(runtime.device) if isinstance(runtime, TorchRuntime) else runtime

    def begin(self, folder: Path) -> None:
        """See `Teacher.begin`."""

    @torch.no_grad()
    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """See `Teacher.embed`."""
        if tuple(images.shape[-2:]) != self.size:
            resized = F.interpolate(images.float(), self.size, mode="bilinear", align_corners=False, antialias=True)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
        if isinstance(self._model, InferenceModel):
            with torch.autocast(images.device.type, dtype=self.autocast_type, enabled=self.autocast_type is not None):
                embedded: Tensor = self._model(images)
            return embedded.float()
        largest = self._model.max_batch or len(images)
        parts = [torch.from_numpy(self._model.run(part.cpu().numpy())) for part in images.split(largest)]
        return torch.cat(parts).to(images.device)


class CachedTeacher:
    """A teacher whose embeddings of the training images, as they are, were computed before training.

    Args:
        embedder: The model; None where ``rows`` are there.
        paths: The training images.
        data: `hat.train.run.state.describe_data` of them.
        context: This process; the first one embeds.
        rows: Embeddings that another run has computed.
    """

    def __init__(
        self,
        embedder: Embedder | None,
        paths: Sequence[str],
        data: str,
        context: DistributedContext,
        rows: TeacherEmbeddings | None = None,
    ) -> None:
        self.paths, self.data, self.context = paths, data, context
        self._embedder = embedder
        self._rows = None if rows is None else rows.embeddings.to(context.device)
        if rows is not None:
            self.embed_dim, self.fingerprint = rows.embeddings.shape[1], rows.fingerprint
        else:
            assert embedder is not None
            self.embed_dim, self.fingerprint = embedder.embed_dim, runtime_info(embedder.runtime).fingerprint

    def begin(self, folder: Path) -> None:
        """Embed the images, or read what a run that is resumed has left.

        Raises:
            ImageError: An image cannot be used.
            CheckpointError: What was left is damaged.
            ConfigError: What was left belongs to another teacher or other images.
            WorkError: The embeddings cannot be written.
        """
        if self._rows is not None:
            return
        path = folder / TEACHER_FILE
        if self.context.is_main and not path.is_file():
            write_rows(path, self._ask(), self.data)
        if self.context.world_size > 1:
            dist.barrier()
        rows = read_rows(path, self.data, len(self.paths))
        if rows.fingerprint != self.fingerprint:
            raise ConfigError(
                f"{path} was computed by another teacher than the one named now; start a new run in another folder"
            )
        self._rows = rows.embeddings.to(self.context.device)
        self._embedder = None  # its memory is the student's now

    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """See `Teacher.embed`."""
        assert self._rows is not None, "begin comes first"
        return self._rows.index_select(0, indices)

    def _ask(self) -> TeacherEmbeddings:
        assert self._embedder is not None
        with progress() as display:
            task = display.add_task("embedding by the teacher", total=len(self.paths), info="")
            rows = self._embedder.embed_paths(self.paths, advance=functools.partial(display.advance, task))
        return TeacherEmbeddings(torch.from_numpy(rows), self.fingerprint)


def open_teacher(config: TrainConfig, paths: Sequence[str], data: str, context: DistributedContext) -> Teacher | None:
    """Open the teacher that a configuration names, or None where it names none.

    Args:
        config: The run.
        paths: The training images.
        data: `hat.train.run.state.describe_data` of them.
        context: This process.

    Raises:
        CheckpointError: There is nothing at the path that can be opened.
        ConfigError: Embeddings of other images were named.
        UsageError: The exported file does not run on this device.
        MissingExtraError: What runs the exported file is not installed.
    """
    if config.distill.teacher is None:
        return None
    path = Path(config.distill.teacher).expanduser()
    if path.suffix == ".safetensors" and not path.is_dir():
        return CachedTeacher(None, paths, data, context, read_rows(path, data, len(paths)))
    precision = config.compute.precision
    exported = path.suffix.lower() in ARTIFACT_ENDINGS and not path.is_dir()
    if exported:
        # OpenVINO does not run on CUDA devices; the others run where the student is, or say why not. Beside a student on the
        # CPU they get as many threads as it has: OpenVINO does not look at OMP_NUM_THREADS and would take every core.
        options: dict[str, Any] = {"num_threads": torch.get_num_threads()} if context.device.type == "cpu" else {}
        runtime = open_runtime(path, None if path.suffix.lower() == ".xml" else str(context.device), **options)
    else:
        runtime = open_runtime(path, str(context.device), precision, inference_graph=config.distill.cache)
    if not config.distill.cache:
        return OnlineTeacher(runtime, precision)
    num_workers = config.data.num_workers or default_num_workers()
    return CachedTeacher(Embedder(runtime, batch_size=config.eval.batch_size, num_workers=num_workers), paths, data, context)
