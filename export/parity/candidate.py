"""Candidates of a comparison or benchmark: models as they are named on the command line, and images of a folder.

``runs/market`` is a checkpoint as trained. ``runs/market@graph`` is its exact inference graph, ``@compile`` goes through
torch.compile, ``@bf16`` or ``@fp16`` computes under autocast; they combine: ``runs/market@graph+compile+bf16``. A file that was
exported runs as its precision says and takes no variant, and so does a model on a server, ``triton://host:port/model``.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hat.data.image_trees import FolderTree, ImageTree, open_tree
from hat.errors import CheckpointError, UsageError
from hat.io.artifact import ArtifactInfo
from hat.io.checkpoint import locate_model
from hat.runtime import Runtime, open_runtime
from hat.runtime.triton_runtime import is_triton_address

_PRECISIONS: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Candidate:
    """Model to open and the way to run it; the last three fields are of a checkpoint alone."""

    spec: str  # as it was typed
    path: Path
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    inference_graph: bool = False  # run the exact inference graph instead of the training module
    compiled: bool = False  # run through torch.compile

    @property
    def is_checkpoint(self) -> bool:
        """Return whether PyTorch runs it: a checkpoint folder, or a ``.pth`` file of the released code."""
        return self.path.is_dir() or self.path.suffix in (".pth", ".pt")


def parse_candidate(spec: str | os.PathLike[str]) -> Candidate:
    """Read ``PATH`` or ``PATH@VARIANT+VARIANT``; a path that is there as it stands may hold an ``@`` of its own.

    What leads nowhere is refused here, before the work; of a server only opening it can tell.
    """
    text = os.fspath(spec)
    whole = locate_model(text)
    place, at, variants = text.rpartition("@")
    plain = Candidate(text, whole)
    if is_triton_address(text) or whole.exists():
        return plain
    if not at:
        raise CheckpointError(f"{text}: there is no such checkpoint or file")
    words = variants.split("+")
    precisions = [known for known in _PRECISIONS if known in words]
    if len(precisions) > 1 or len(set(words)) < len(words) or set(words) - {*_PRECISIONS, "graph", "compile"}:
        raise UsageError(
            f"{text}: cannot read {variants!r} behind the @; expected graph, compile and one of {', '.join(_PRECISIONS)}, "
            "joined by +: runs/market@graph+bf16"
        )
    precision = precisions[0] if precisions else "fp32"
    candidate = Candidate(text, locate_model(place), precision, "graph" in words, "compile" in words)
    if not candidate.path.exists():
        raise CheckpointError(f"{text}: there is no such checkpoint or file")
    if not candidate.is_checkpoint:
        raise UsageError(
            f"{text}: {candidate.path.name} is an exported file and runs as it was made: only a checkpoint has variants"
        )
    return candidate


def open_candidate(candidate: Candidate, device: str | None = None, *, num_threads: int | None = None) -> Runtime:
    """Open what a candidate names, on a device as `hat.runtime.open_runtime` takes it, with so many threads of the CPU."""
    options: dict[str, Any] = {} if num_threads is None else {"num_threads": num_threads}
    if candidate.is_checkpoint:
        options |= {"inference_graph": candidate.inference_graph, "compiled": candidate.compiled}
    if is_triton_address(candidate.spec):  # a server computes where it will: the device is said of what computes here
        return open_runtime(candidate.spec)
    return open_runtime(candidate.path, device, candidate.precision, **options)


def artifact_info(runtime: Runtime) -> ArtifactInfo | None:
    """Return what a runtime says of the model that it runs; None where somebody else's runtime says nothing."""
    return getattr(runtime, "info", None)


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """Return the locations of all images below a folder or in a zip file, sorted."""
    return list(_walk(open_tree(Path(root).expanduser()), frozenset()))


def _walk(tree: ImageTree, above: frozenset[Path]) -> Iterator[str]:
    if isinstance(tree, FolderTree):
        resolved = tree.path.resolve()
        if resolved in above:  # a link to a folder above itself
            return
        above |= {resolved}
    yield from (location for _, location in tree.images())
    for name in tree.folders():
        yield from _walk(tree.child(name), above)


def choose_images(paths: list[str], count: int, seed: int) -> list[str]:
    """Return some of the images, in an order drawn by the seed alone: file names often stand in the order of identities."""
    order = np.random.default_rng(seed).permutation(len(paths))
    return [paths[i] for i in order[:count]]
