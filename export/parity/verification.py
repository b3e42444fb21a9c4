"""Proof that exported files rank people as the model does: three levels, each with limits that can fail.

Everything is deterministic: the choice of images by a seed, their split into queries and gallery, and the order of ties.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hat.data import ReIDDataset, load_images
from hat.embedder import Embedder
from hat.errors import CheckpointError, HatError, ImageError, UsageError, WorkError
from hat.evaluation import embed_dataset, rank_embeddings
from hat.metrics import RankingResult
from hat.model import HAT
from hat.record import describe_machine
from hat.runtime import Runtime, TorchRuntime

from .batch_parity import batch_sizes, check_batches
from .candidate import open_candidate, parse_candidate, runtime_fingerprint, runtime_precision
from .comparability import failure_hints, incomparable, source_hash
from .embedding_parity import compare_embeddings, inspect_rows, spread, worst_images
from .image_folder import choose_images, list_images
from .ranking_parity import compare_rankings, sample_pairs, similarities, worst_pairs
from .retrieval_parity import compare_retrieval, describe_dataset, some_identities
from .tolerances import tolerance_for
from .verification_report import CandidateResult, VerificationReport

Subject: TypeAlias = str | os.PathLike[str] | HAT | Runtime
"""What can be compared: a path (`hat.export.parity.candidate`), a model, or a runtime that is open."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done and how many there are."""

MIN_IMAGES = 4
"""One query and three gallery images: the least of which an order can be right or wrong."""

_MIN_SPREAD = 1e-11
"""Of the reference: two images about 3e-6 apart, a few times what float32 rounding alone makes of one embedding."""

_NUM_WORST = 8
_NUM_DRAWN_PAIRS = 1500


def verify(
    reference: Subject,
    candidates: Sequence[Subject],
    images: str | os.PathLike[str] | Sequence[str],
    dataset: ReIDDataset | None = None,
    *,
    num_images: int = 256,
    num_ids: int | None = None,
    seed: int = 0,
    device: str | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> VerificationReport:
    """Compare candidates with a reference.

    Args:
        reference: What is right: a checkpoint, usually.
        candidates: What has to agree with it.
        images: A folder or zip file of images, or locations of images.
        dataset: Its query and gallery give the retrieval level; None leaves that level out.
        num_images: At most so many of the images are compared. A quarter of them are queries, the rest is their gallery.
        num_ids: Rank so many identities of the data set only; None ranks it whole.
        seed: Seed of the choice of images and identities.
        device: As `hat.runtime.open_runtime` takes it, for what is given by its path.
        batch_size: Images per run of the retrieval level.
        progress: Called while it works.

    Returns:
        The report. It is for the caller to look at `VerificationReport.passed`.

    Raises:
        WorkError: Nothing can be compared: there are too few images, or the reference itself is broken.
        CheckpointError: There is nothing at a path that can be opened.
        UsageError: There is no candidate, or the device is not there.
        DataError: The folder or the data set is not there, or the data set has no query or no gallery.
    """
    if isinstance(candidates, str | os.PathLike) or not candidates:
        raise UsageError("nothing to compare: expected at least one candidate, in a list")
    if num_images < MIN_IMAGES:
        raise UsageError(f"at least {MIN_IMAGES} images are needed to rank, got num_images={num_images}")
    _check_paths([reference, *candidates])
    tell = progress or (lambda what, done, total: None)
    name, runtime = _open(reference, device)
    paths, pixels, left_out, source = _read(images, runtime, num_images, seed, tell)
    num_queries = max(1, len(paths) // 4)
    side = _Side(runtime, pixels, dataset if dataset is None else some_identities(dataset, num_ids, seed), batch_size)
    side.embed(f"reference {name}", tell)
    _check_reference(name, side.rows)

    results = []
    for subject in candidates:
        label, opened = _open(subject, device)
        results.append(_compare(label, _Side(opened, pixels, side.dataset, batch_size), side, paths, num_queries, tell))
    return VerificationReport(
        reference=name,
        reference_runtime=runtime.name,
        reference_fingerprint=runtime_fingerprint(runtime),
        candidates=tuple(results),
        source=source,
        paths=tuple(paths),
        num_queries=num_queries,
        seed=seed,
        left_out=tuple(left_out),
        dataset=describe_dataset(side.dataset, side.figures) if side.dataset and side.figures else None,
        machine=describe_machine(),
        versions=_versions(),
        pixels=pixels,
    )


class _Side:
    """One runtime with what it made of the images; `embed` fills `rows`, `rank` fills `figures`."""

    def __init__(self, runtime: Runtime, pixels: npt.NDArray[np.uint8], dataset: ReIDDataset | None, batch_size: int) -> None:
        self.runtime, self.pixels, self.dataset, self.batch_size = runtime, pixels, dataset, batch_size
        self.rows: npt.NDArray[np.float32] = np.empty((0, runtime.embed_dim), dtype=np.float32)
        self.figures: RankingResult | None = None

    def embed(self, name: str, tell: Progress) -> None:
        sizes = batch_sizes(self.runtime)
        size = sizes[min(1, len(sizes) - 1)] if len(sizes) > 2 else sizes[0]  # the batch that the file is tuned for
        parts = []
        for start in range(0, len(self.pixels), size):
            parts.append(self.runtime.run(self.pixels[start : start + size]))
            tell(name, min(start + size, len(self.pixels)), len(self.pixels))
        self.rows = np.concatenate(parts)
        if self.rows.shape != (len(self.pixels), self.runtime.embed_dim):
            raise WorkError(
                f"{len(self.pixels)} images in batches of {size} gave an array of shape {self.rows.shape}, "
                f"expected ({len(self.pixels)}, {self.runtime.embed_dim})"
            )

    def rank(self, name: str, tell: Progress) -> RankingResult:
        if self.figures is None:
            assert self.dataset is not None
            total, done = len(self.dataset.query) + len(self.dataset.gallery), 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                tell(f"{name} on {self.dataset.name if self.dataset else ''}", done, total)

            embedder = Embedder(self.runtime, batch_size=self.batch_size)
            query, gallery = embed_dataset(embedder, self.dataset, advance=advance)
            self.figures = rank_embeddings(query, gallery, self.dataset)
        return self.figures


def _compare(
    label: str, candidate: _Side, reference: _Side, paths: Sequence[str], num_queries: int, tell: Progress
) -> CandidateResult:
    runtime = candidate.runtime
    precision = runtime_precision(runtime)
    decides, tolerance = tolerance_for(runtime_precision(reference.runtime), precision)
    facts: dict[str, Any] = {"name": label, "runtime": runtime.name, "precision": precision, "tolerance": decides}
    facts["fingerprint"] = runtime_fingerprint(runtime)
    problems = incomparable(reference.runtime, runtime)
    if problems:
        return CandidateResult(**facts, problems=tuple(f"not comparable: {problem}" for problem in problems))
    try:
        candidate.embed(label, tell)
        rows = candidate.rows
        checks = inspect_rows(reference.rows, rows)
        evidence: dict[str, Any] = {}
        if np.isfinite(rows).all():
            both = similarities(reference.rows, rows, num_queries)
            checks += compare_embeddings(reference.rows, rows, tolerance)
            checks += check_batches(runtime, candidate.pixels, tolerance)
            checks += compare_rankings(both, tolerance)
            evidence = {
                "worst_images": worst_images(reference.rows, rows, paths, _NUM_WORST),
                "worst_pairs": worst_pairs(both, paths, _NUM_WORST),
                "similarities": sample_pairs(both, _NUM_DRAWN_PAIRS),
            }
            if candidate.dataset is not None:
                before = reference.rank("reference", tell)
                after = candidate.rank(label, tell)
                checks += compare_retrieval(before, after, tolerance)
                facts["figures"] = {"retrieval": after.to_dict()}
        hashes = (source_hash(reference.runtime), source_hash(runtime))
        hints = failure_hints(runtime, checks, candidate.pixels, reference.rows, rows, tolerance, hashes)
    except HatError as error:
        return CandidateResult(**facts, problems=(f"it failed while it ran: {error}",))
    return CandidateResult(**facts, checks=tuple(checks), hints=tuple(hints), **evidence)


def _check_paths(subjects: Sequence[Subject]) -> None:
    """Refuse a path that leads nowhere before an hour of work and not after it."""
    for subject in subjects:
        if isinstance(subject, str | os.PathLike) and parse_candidate(subject).is_missing:
            raise CheckpointError(f"{subject}: there is no such checkpoint or file")


def _open(subject: Subject, device: str | None) -> tuple[str, Runtime]:
    if isinstance(subject, HAT):
        return type(subject).__name__, TorchRuntime(subject, device)
    if isinstance(subject, str | os.PathLike):
        candidate = parse_candidate(subject)
        return candidate.spec, open_candidate(candidate, device)
    return subject.name, subject


def _read(
    images: str | os.PathLike[str] | Sequence[str], runtime: Runtime, num_images: int, seed: int, tell: Progress
) -> tuple[list[str], npt.NDArray[np.uint8], list[str], str]:
    """Return paths and pixels of the compared images, those that were left out, and where they came from."""
    if isinstance(images, str | os.PathLike):
        source, known = os.fspath(images), list_images(images)
    else:
        source, known = f"{len(images)} given images", list(images)
    chosen = choose_images(known, num_images, seed)
    bad: dict[int, str] = {}

    def note(index: int, error: ImageError) -> None:
        bad[index] = str(error)

    read = 0

    def advance(count: int) -> None:
        nonlocal read
        read += count
        tell("reading images", read, len(chosen))

    pixels = load_images(chosen, runtime.preprocessing, on_bad=note, progress=advance).numpy()
    good = [index for index in range(len(chosen)) if index not in bad]
    if len(good) < MIN_IMAGES:
        unreadable = f", {len(bad)} more cannot be read ({next(iter(bad.values()))})" if bad else ""
        raise WorkError(f"nothing was compared: {source} has {len(good)} images{unreadable}, at least {MIN_IMAGES} are needed")
    return [chosen[index] for index in good], pixels[good] if bad else pixels, list(bad.values()), source


def _check_reference(name: str, rows: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(rows).all():
        raise WorkError(f"the reference {name} gives NaN or infinite values: nothing can be compared with it")
    if spread(rows) < _MIN_SPREAD:
        raise WorkError(f"the reference {name} gives one embedding for all images: nothing can be compared with it")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for library in ("hat-reid", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
