"""The trained model that a student learns from: run beside it on the same images, or asked once before training.

What was asked once is kept in a ``.safetensors`` beside the run: ``embeddings``, (num_images, embed_dim) float32 unit rows in
the order of the training images. Its metadata names the images by `hat.train.run.run_folder.describe_data`, so that embeddings
never meet other images, and the model by its fingerprint.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hat.console import progress
from hat.data.loading import default_num_workers
from hat.embedder import Embedder
from hat.errors import CheckpointError, ConfigError, first_line
from hat.io.atomic_output import write_atomically
from hat.model.inference import InferenceModel
from hat.runtime import ARTIFACT_ENDINGS, Runtime, TorchRuntime, open_runtime
from hat.runtime.protocol import runtime_info
from hat.runtime.torch_runtime import AUTOCAST_TYPES, full_float32

from .config import TrainConfig
from .distributed import DistributedContext

TEACHER_FILE = "teacher.safetensors"
_FORMAT = "hat teacher embeddings 1"


class Teacher(Protocol):
    """Gives the embeddings that a student learns: their width, and what made them, which a resumed run must find again."""

    embed_dim: int
    fingerprint: str

    def begin(self, folder: Path) -> None:
        """Do what is to be done once before training; files are kept in the run's folder."""

    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """Embed (B, 3, H, W) uint8 RGB images, augmented and at the student's size, made of the training images ``indices``.

        The rows (B, embed_dim) float32 have unit length and no gradient.
        """
        ...


class OnlineTeacher:
    """A teacher that sees the very images that the student sees, resized to its own input.

    A checkpoint is run as its exact inference graph on the training device, in the run's precision; exported files on the host.
    """

    def __init__(self, runtime: Runtime, precision: str, *, flip: bool = False) -> None:
        self.flip = flip
        self.size = runtime.preprocessing.size
        self.embed_dim = runtime.embed_dim
        self.fingerprint = runtime_info(runtime).fingerprint
        self.autocast_type = AUTOCAST_TYPES.get(precision)
        # The graph holds copies of the weights, so that the runtime need not stay. It is compared with the model where that is.
        with full_float32():
            self._model = InferenceModel(runtime.model).to(runtime.device) if isinstance(runtime, TorchRuntime) else runtime

    def begin(self, folder: Path) -> None:
        """See `Teacher.begin`."""

    @torch.no_grad()
    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """See `Teacher.embed`."""
        if tuple(images.shape[-2:]) != self.size:
            resized = F.interpolate(images.float(), self.size, mode="bilinear", align_corners=False, antialias=True)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
        embedded = self._run(images)
        return F.normalize(embedded + self._run(images.flip(-1)), dim=1) if self.flip else embedded

    def _run(self, images: Tensor) -> Tensor:
        if isinstance(self._model, InferenceModel):
            with torch.autocast(images.device.type, dtype=self.autocast_type, enabled=self.autocast_type is not None):
                embedded: Tensor = self._model(images)
            return embedded.float()
        largest = self._model.max_batch or len(images)
        parts = [torch.from_numpy(self._model.run(part.cpu().numpy())) for part in images.split(largest)]
        return torch.cat(parts).to(images.device)


class CachedTeacher:
    """A teacher whose embeddings of the training images, as they are, were computed before training.

    The ``source`` is the model, with which the first process embeds ``paths``; or a file of rows that another run has written
    for the same images (``data``, see `hat.train.run.run_folder.describe_data`).
    """

    def __init__(
        self, source: Embedder | Path, paths: Sequence[str], data: str, context: DistributedContext, *, flip: bool = False
    ) -> None:
        self.paths, self.data, self.context, self.flip = paths, data, context, flip
        self._embedder: Embedder | None = None
        self._rows: Tensor | None = None
        if isinstance(source, Embedder):
            self._embedder = source
            self.embed_dim, self.fingerprint = source.embed_dim, runtime_info(source.runtime).fingerprint
        else:
            rows, self.fingerprint = read_rows(source, data, len(paths))
            self._rows, self.embed_dim = rows.to(context.device), rows.shape[1]

    def begin(self, folder: Path) -> None:
        """Embed the images, or read what a run that is resumed has left; a ConfigError where that is another teacher's."""
        if self._embedder is None:
            return
        path = folder / TEACHER_FILE
        if self.context.is_main and not path.is_file():
            with progress() as display:
                task = display.add_task("embedding by the teacher", total=len(self.paths), info="")
                advance = functools.partial(display.advance, task)
                rows = self._embedder.embed_paths(self.paths, flip=self.flip, advance=advance)
            write_rows(path, torch.from_numpy(rows), self.fingerprint, self.data)
        if self.context.world_size > 1:
            dist.barrier()
        found, fingerprint = read_rows(path, self.data, len(self.paths))
        if fingerprint != self.fingerprint:
            raise ConfigError(
                f"{path} was computed by another teacher than the one named now; start a new run in another folder"
            )
        self._rows = found.to(self.context.device)
        self._embedder = None  # its memory is the student's now

    def embed(self, images: Tensor, indices: Tensor) -> Tensor:
        """See `Teacher.embed`."""
        assert self._rows is not None, "begin comes first"
        return self._rows.index_select(0, indices)


def open_teacher(config: TrainConfig, paths: Sequence[str], data: str, context: DistributedContext) -> Teacher | None:
    """Open the teacher that a configuration names, if any: a checkpoint, an exported file, or rows of these very images."""
    if config.distill.teacher is None:
        return None
    path = Path(config.distill.teacher).expanduser()
    flip = config.distill.flip
    if path.suffix == ".safetensors" and not path.is_dir():
        if flip:
            raise ConfigError(f"distill.flip is for a model that embeds: {path} holds embeddings, made with it or without")
        return CachedTeacher(path, paths, data, context)
    precision = config.compute.precision
    if path.suffix.lower() in ARTIFACT_ENDINGS and not path.is_dir():
        # OpenVINO does not run on CUDA devices; the others run where the student is, or say why not. Beside a student on the
        # CPU they get as many threads as it has: OpenVINO does not look at OMP_NUM_THREADS and would take every core.
        options: dict[str, Any] = {"num_threads": torch.get_num_threads()} if context.device.type == "cpu" else {}
        runtime = open_runtime(path, None if path.suffix.lower() == ".xml" else str(context.device), **options)
    else:
        runtime = open_runtime(path, str(context.device), precision, inference_graph=config.distill.cache)
    if not config.distill.cache:
        return OnlineTeacher(runtime, precision, flip=flip)
    num_workers = config.data.num_workers or default_num_workers()
    embedder = Embedder(runtime, batch_size=config.eval.batch_size, num_workers=num_workers)
    return CachedTeacher(embedder, paths, data, context, flip=flip)


def write_rows(path: Path, rows: Tensor, fingerprint: str, data: str) -> None:
    """Write a model's unit rows (num_images, embed_dim) of the images that ``data`` names atomically."""
    metadata = {"format": _FORMAT, "data": data, "fingerprint": fingerprint}
    write_atomically(path, save({"embeddings": rows.float().contiguous()}, metadata=metadata))


def read_rows(path: Path, data: str, num_images: int) -> tuple[Tensor, str]:
    """Read float32 rows on the CPU for the ``num_images`` images that ``data`` names, and the fingerprint of their model."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file of a teacher's embeddings")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(f"{path} holds no teacher's embeddings: expected a {TEACHER_FILE} that a run has written")
            if metadata.get("data") != data:
                raise ConfigError(
                    f"{path} belongs to other training images: {metadata.get('data')}; got {data}. Name the model itself as "
                    "distill.teacher and set distill.cache"
                )
            embeddings: Tensor = file.get_tensor("embeddings")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    if embeddings.dim() != 2 or len(embeddings) != num_images or embeddings.dtype != torch.float32:
        raise CheckpointError(f"{path} holds {tuple(embeddings.shape)} {embeddings.dtype}, expected {num_images} float32 rows")
    if not torch.allclose(torch.linalg.vector_norm(embeddings, dim=1), torch.ones(len(embeddings)), atol=1e-3):
        raise CheckpointError(f"{path} holds rows that are not of unit length")
    return embeddings, metadata.get("fingerprint", "")
