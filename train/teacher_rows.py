"""A teacher's embeddings of the training images, computed once and kept beside the run that wanted them.

The file is a ``.safetensors`` with one tensor, ``embeddings``, (num_images, embed_dim) float32 unit rows in the order of the
training images. Its metadata names the images by the digest of `hat.train.run.state.describe_data`, so that embeddings never
meet other images, and the model by its fingerprint.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hat.errors import CheckpointError, ConfigError, WorkError
from hat.io.checkpoint import write_atomically

TEACHER_FILE = "teacher.safetensors"

_FORMAT = "hat teacher embeddings 1"


class TeacherEmbeddings(NamedTuple):
    """A teacher's embeddings of a training set."""

    embeddings: Tensor
    """(num_images, embed_dim) float32, rows of unit length, on the CPU."""

    fingerprint: str
    """What made them."""


def write_rows(path: Path, rows: TeacherEmbeddings, data: str) -> None:
    """Write rows atomically.

    Args:
        path: The file.
        rows: The rows.
        data: `hat.train.run.state.describe_data` of the images.

    Raises:
        WorkError: The file cannot be written.
    """
    metadata = {"format": _FORMAT, "data": data, "fingerprint": rows.fingerprint}
    try:
        write_atomically(path, save({"embeddings": rows.embeddings.float().contiguous()}, metadata=metadata))
    except OSError as error:
        raise WorkError(f"{path}: the teacher's embeddings cannot be written: {error.strerror or error}") from None


def read_rows(path: Path, data: str, num_images: int) -> TeacherEmbeddings:
    """Read rows.

    Args:
        path: The file.
        data: `hat.train.run.state.describe_data` of the images that they are wanted for.
        num_images: How many these are.

    Raises:
        CheckpointError: The file is missing, damaged or another kind of file, or its rows are no unit vectors.
        ConfigError: They belong to other images.
    """
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
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if embeddings.dim() != 2 or len(embeddings) != num_images or embeddings.dtype != torch.float32:
        raise CheckpointError(f"{path} holds {tuple(embeddings.shape)} {embeddings.dtype}, expected {num_images} float32 rows")
    if not torch.allclose(torch.linalg.vector_norm(embeddings, dim=1), torch.ones(len(embeddings)), atol=1e-3):
        raise CheckpointError(f"{path} holds rows that are not of unit length")
    return TeacherEmbeddings(embeddings, metadata.get("fingerprint", ""))
