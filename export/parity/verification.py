"""Proof that exported files rank people as the model does: three levels, each with limits that can fail.

Everything is deterministic: the choice of images by a seed, their split into queries and gallery, and the order of ties.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hat.console import describe_machine
from hat.data import ReIDDataset, load_images
from hat.embedder import Embedder
from hat.errors import HatError, ImageError, UsageError, WorkError
from hat.evaluation import check_rankable, embed_dataset, rank_dataset
from hat.io.artifact import ArtifactPrecision
from hat.metrics import RankingResult
from hat.model import HAT
from hat.runtime import Runtime, TorchRuntime

from . import levels
from .candidate import artifact_info, choose_images, list_images, open_candidate, parse_candidate
from .levels import Rows
from .tolerances import UNIT_LENGTH, Tolerance, tolerance_for
from .verification_report import CandidateResult, Check, VerificationReport

Subject: TypeAlias = str | os.PathLike[str] | HAT | Runtime
"""Anything that can be compared: a path (`hat.export.parity.candidate`), a model, or a runtime that is open."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done and how many there are."""

MIN_IMAGES = 4
"""One query and three gallery images: the least of which an order can be right or wrong."""

_MIN_SPREAD = 1e-11
"""Of the reference: two images about 3e-6 apart, a few times what float32 rounding alone makes of one embedding."""

_NUM_WORST = 8
_NUM_DRAWN_PAIRS = 1500
_NUM_PROBES = 16


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
        CheckpointError: There is nothing at a path that can be opened, or the only candidate cannot be.
        UsageError: There is no candidate, or the device is not there.
        DataError: The folder or the data set is not there, or nothing can be ranked in the data set.
    """
    if isinstance(candidates, str | os.PathLike) or not candidates:
        raise UsageError("nothing to compare: expected at least one candidate, in a list")
    if num_images < MIN_IMAGES:
        raise UsageError(f"at least {MIN_IMAGES} images are needed to rank, got num_images={num_images}")
    for subject in (reference, *candidates):
        if isinstance(subject, str | os.PathLike):
            parse_candidate(subject)  # refuses what leads nowhere before an hour of work and not after it
    if dataset is not None:
        dataset = levels.some_identities(dataset, num_ids, seed)
        check_rankable(dataset)
    tell = progress or (lambda what, done, total: None)
    name, runtime = _open(reference, device)
    paths, pixels, left_out, source = _read(images, runtime, num_images, seed, tell)
    proof = _Proof(name, runtime, paths, pixels, dataset, batch_size, tell)
    results = tuple(_compare(proof, subject, device, is_only=len(candidates) == 1) for subject in candidates)
    info = artifact_info(runtime)
    described = None
    if dataset is not None and proof.figures is not None:
        described = {"name": dataset.name, "notes": list(dataset.notes), "reference": proof.figures.to_dict()}
    return VerificationReport(
        reference=name,
        reference_runtime=runtime.name,
        reference_fingerprint=None if info is None else info.fingerprint,
        candidates=results,
        source=source,
        paths=tuple(paths),
        num_queries=proof.num_queries,
        seed=seed,
        left_out=tuple(left_out),
        dataset=described,
        machine=describe_machine(),
        versions=_versions(),
        pixels=pixels,
    )


@dataclass
class _Proof:
    """A reference with its embeddings, and with its figures once a candidate is to be held against them."""

    name: str
    runtime: Runtime
    paths: Sequence[str]
    pixels: npt.NDArray[np.uint8]
    dataset: ReIDDataset | None
    batch_size: int
    tell: Progress
    figures: RankingResult | None = None

    def __post_init__(self) -> None:
        self.num_queries = max(1, len(self.paths) // 4)
        self.rows = self.embed(f"reference {self.name}", self.runtime)
        if not np.isfinite(self.rows).all():
            raise WorkError(f"the reference {self.name} gives NaN or infinite values: nothing can be compared with it")
        if levels.spread(self.rows) < _MIN_SPREAD:
            raise WorkError(f"the reference {self.name} gives one embedding for all images: nothing can be compared with it")

    def embed(self, name: str, runtime: Runtime) -> Rows:
        """Return the embeddings of the images, in batches of the size that the file is tuned for."""
        sizes = levels.batch_sizes(runtime)
        size = sizes[1] if len(sizes) > 2 else sizes[0]
        parts = []
        for start in range(0, len(self.pixels), size):
            parts.append(runtime.run(self.pixels[start : start + size]))
            self.tell(name, min(start + size, len(self.pixels)), len(self.pixels))
        rows, expected = np.concatenate(parts), (len(self.pixels), runtime.embed_dim)
        if rows.shape != expected:
            raise WorkError(
                f"{len(self.pixels)} images in batches of {size} gave an array of shape {rows.shape}, expected {expected}"
            )
        return rows

    def rank(self, name: str, runtime: Runtime, dataset: ReIDDataset) -> RankingResult:
        """Return the metrics on the data set."""
        advance = _counter(self.tell, f"{name} on {dataset.name}", len(dataset.query) + len(dataset.gallery))
        query, gallery = embed_dataset(Embedder(runtime, batch_size=self.batch_size), dataset, advance=advance)
        return rank_dataset(query, gallery, dataset).result

    def compare(self, name: str, runtime: Runtime) -> CandidateResult:
        """Hold a candidate against the reference."""
        ours, theirs = artifact_info(self.runtime), artifact_info(runtime)
        precisions: list[ArtifactPrecision] = ["fp32" if info is None else info.precision for info in (ours, theirs)]
        decides, tolerance = tolerance_for(*precisions)
        about: dict[str, Any] = {"name": name, "runtime": runtime.name, "precision": precisions[1], "tolerance": decides}
        about["fingerprint"] = None if theirs is None else theirs.fingerprint
        if problems := _differences(self.runtime, runtime):
            return CandidateResult(**about, problems=tuple(f"not comparable: {problem}" for problem in problems))
        try:
            rows = self.embed(name, runtime)
            checks = levels.inspect_rows(self.rows, rows)
            if np.isfinite(rows).all():
                both = levels.similarities(self.rows, rows, self.num_queries)
                checks += levels.compare_embeddings(self.rows, rows, tolerance)
                checks += levels.check_batches(runtime, self.pixels, tolerance)
                checks += levels.compare_rankings(both, tolerance)
                about["worst_images"] = levels.worst_images(self.rows, rows, self.paths, _NUM_WORST)
                about["worst_pairs"] = levels.worst_pairs(both, self.paths, _NUM_WORST)
                about["similarities"] = levels.sample_pairs(both, _NUM_DRAWN_PAIRS)
                if self.dataset is not None:
                    self.figures = self.figures or self.rank("reference", self.runtime, self.dataset)
                    after = self.rank(name, runtime, self.dataset)
                    checks += levels.compare_retrieval(self.figures, after, tolerance)
                    about["figures"] = {"retrieval": after.to_dict()}
            hints = []
            if any(not check.passed for check in checks):
                if ours is not None and theirs is not None and ours.source_sha256 != theirs.source_sha256:
                    hashes = f"{ours.source_sha256[:12]} in the reference, {theirs.source_sha256[:12]} here"
                    hints.append(f"it was made from other weights: sha256 {hashes}")
                hints += self.failure_hints(runtime, rows, checks, tolerance)
        except HatError as error:
            return CandidateResult(**about, problems=(f"it failed while it ran: {error}",))
        return CandidateResult(**about, checks=tuple(checks), hints=tuple(hints))

    def failure_hints(self, runtime: Runtime, rows: Rows, checks: Sequence[Check], tolerance: Tolerance) -> list[str]:
        """Return what a failure looks like: swapped channels, a missing L2 norm, mixed rows, where it can be tried."""
        if not np.isfinite(rows).all():
            return ["values overflow: in float16 this is a norm or a softmax that was not left in float32"]

        def agree(reference: Rows, candidate: Rows) -> bool:
            return bool(len(candidate)) and bool(levels.row_cosines(reference, candidate).min() >= tolerance.worst_cosine.value)

        hints = []
        if agree(self.rows, rows):
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
            if np.abs(lengths - 1).max() > UNIT_LENGTH.value:
                hints.append("directions are right and lengths are not: the L2 norm at the end is missing")
        else:
            swapped = runtime.run(np.ascontiguousarray(self.pixels[:_NUM_PROBES, ::-1]))
            if agree(self.rows[: len(swapped)], swapped):
                hints.append("it agrees once red and blue are swapped: it takes its images as BGR")
            if any(agree(self.rows[1:-1], np.roll(rows, shift, axis=0)[1:-1]) for shift in (1, -1)):
                hints.append("rows are those of the neighboring image: it is off by one")
        if any(check.name in ("batch max abs", "wrong rows") and not check.passed for check in checks):
            hints.append("the embedding of an image depends on the batch that it travels in or on its place there")
        return hints


def _differences(reference: Runtime, candidate: Runtime) -> list[str]:
    """Return why two models cannot be compared: they take their images in another way, or give embeddings of another width."""
    ours, theirs = (
        [f"{taken.height} x {taken.width}", f"mean {taken.mean}", f"std {taken.std}", f"{taken.resize} resize"]
        for taken in (reference.preprocessing, candidate.preprocessing)
    )
    found = [
        f"preprocessing differs: {one} in the reference, {other} in the candidate"
        for one, other in zip(ours, theirs, strict=True)
        if one != other
    ]
    if reference.embed_dim != candidate.embed_dim:
        widths = f"{reference.embed_dim} in the reference, {candidate.embed_dim} in the candidate"
        found.append(f"embeddings are of another width: {widths}")
    return found


def _compare(proof: _Proof, subject: Subject, device: str | None, *, is_only: bool) -> CandidateResult:
    """Hold a candidate against the reference; one that cannot be opened is a result too, so that it costs no other its own."""
    try:
        name, runtime = _open(subject, device)
    except HatError as error:
        if is_only:
            raise
        return CandidateResult(str(subject), "not opened", "unknown", "none", problems=(f"it cannot be opened: {error}",))
    return proof.compare(name, runtime)


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

    advance = _counter(tell, "reading images", len(chosen))
    pixels = load_images(chosen, runtime.preprocessing, on_bad=note, progress=advance).numpy()
    good = [index for index in range(len(chosen)) if index not in bad]
    if len(good) < MIN_IMAGES:
        unreadable = f", {len(bad)} more cannot be read ({next(iter(bad.values()))})" if bad else ""
        raise WorkError(f"nothing was compared: {source} has {len(good)} images{unreadable}, at least {MIN_IMAGES} are needed")
    return [chosen[index] for index in good], pixels[good] if bad else pixels, list(bad.values()), source


def _counter(tell: Progress, what: str, total: int) -> Callable[[int], None]:
    """Return a function that takes how many more images are done."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tell(what, done, total)

    return advance


def _versions() -> dict[str, str]:
    from importlib.metadata import distributions

    libraries = ("hat-reid", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
    return {found.name: found.version for found in distributions() if found.name in libraries}
