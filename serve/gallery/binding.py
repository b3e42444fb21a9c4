"""Binding of a gallery to a model: embeddings of two models mean different things and must never be compared unproven."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from hat.config import config_dataclass, config_from_dict, config_to_dict, differences
from hat.errors import ConfigError, UsageError, WorkError
from hat.preprocessing import Preprocessing

if TYPE_CHECKING:
    from hat.io.artifact import ArtifactInfo  # it brings torch, which a gallery does without

_MIN_IMAGES = 32  # that a worst case must have been sought among


@config_dataclass
class CompatibleModel:
    """Another file of the same weights, shown by ``hat verify`` to rank as the one that made the gallery.

    Attributes:
        fingerprint: Of the file that may be used beside the gallery's own.
        precision: In which it computes.
        worst_cosine: The worst cosine similarity between its embeddings and those of the gallery's model, as it was measured.
    """

    fingerprint: str
    precision: str
    worst_cosine: float


@config_dataclass
class Binding:
    """The model that made a gallery's embeddings.

    Attributes:
        fingerprint: Hash of architecture, weights, preprocessing and precision.
        name: What the model is called, for people.
        model: The architecture, or what is known of an adopted model, as plain data.
        preprocessing: How images become input.
        source_sha256: Hash of the trained weights, which files of one checkpoint share.
        precision: In which the model computed.
        embed_dim: Width of an embedding.
        compatible_models: Other files of the same weights that may be used as well.
    """

    fingerprint: str
    name: str
    model: dict[str, Any]
    preprocessing: Preprocessing
    source_sha256: str
    precision: str
    embed_dim: int
    compatible_models: tuple[CompatibleModel, ...] = ()

    def differences(self, other: Binding) -> list[str]:
        """Return what tells another model from this one, each as "what: here, there"; empty where this gallery takes it."""
        if other.fingerprint in {self.fingerprint, *(model.fingerprint for model in self.compatible_models)}:
            return []
        mine, theirs = config_to_dict(self), config_to_dict(other)
        lines = []
        for part in ("model", "preprocessing"):
            by_name = sorted(differences(mine[part], theirs[part], part), key=lambda difference: difference[0].split("."))
            lines += [f"{name}: {here}, {there}" for name, here, there in by_name]
        if self.embed_dim != other.embed_dim:
            lines.append(f"width of an embedding: {self.embed_dim}, {other.embed_dim}")
        if self.source_sha256 != other.source_sha256:
            lines.append(f"trained weights: {self.name} ({self.source_sha256[:12]}), {other.name} ({other.source_sha256[:12]})")
        if self.precision != other.precision:
            lines.append(f"precision: {self.precision}, {other.precision}")
        return lines or ["fingerprint"]

    def accepting(self, compatible: CompatibleModel) -> Binding:
        """Return this binding with another compatible model, in place of what was said of the same file before."""
        others = (model for model in self.compatible_models if model.fingerprint != compatible.fingerprint)
        return replace(self, compatible_models=(*others, compatible))

    def check(self, other: Binding, gallery: str) -> None:
        """Make sure that a model's embeddings may be added to a gallery (``gallery`` names it) or compared with it.

        Raises:
            UsageError: It is another model; every difference is spelled out.
        """
        changes = self.differences(other)
        if not changes:
            return
        advice = "use the gallery's model, or rebuild the gallery with `hat gallery re-embed`"
        if self.source_sha256 == other.source_sha256 and self.preprocessing == other.preprocessing:
            advice += (
                "; a file of the same weights may be used once `hat verify` has shown that it ranks alike: `hat gallery accept`"
            )
        raise UsageError(f"{gallery} was made by another model; gallery's, given: {'; '.join(changes)}; {advice}")


def binding_of(info: ArtifactInfo) -> Binding:
    """Return the binding of a model's embeddings, from its metadata (`hat.runtime.runtime_info`)."""
    return Binding(
        fingerprint=info.fingerprint,
        name=info.name,
        model=config_to_dict(info.architecture),
        preprocessing=info.preprocessing,
        source_sha256=info.source_sha256,
        precision=info.precision,
        embed_dim=info.embed_dim,
    )


def binding_to_json(binding: Binding) -> str:
    """Return a binding as one line of JSON."""
    return json.dumps(config_to_dict(binding), sort_keys=True)


def binding_from_json(text: str, source: str) -> Binding:
    """Read a binding; ``source`` is what a `UsageError` says where it is no such JSON."""
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            if "siblings" in content:  # what galleries of earlier versions call them
                content["compatible_models"] = content.pop("siblings")
            return config_from_dict(Binding, content, where=source)
    except (ValueError, ConfigError) as error:
        raise UsageError(f"{source}: cannot be read which model made it: {error}") from None
    raise UsageError(f"{source}: cannot be read which model made it: expected a JSON object")


def read_compatible_model(path: Path, gallery: Binding, candidate: Binding, *, min_cosine: float) -> CompatibleModel:
    """Return what a report says of a file, once it is certain that it is about this gallery's model and this very file.

    ``path`` is the JSON of ``hat verify --report-json``, ``candidate`` the file that is to be used beside the model of the
    ``gallery``, ``min_cosine`` the least cosine between the two embeddings of any image. A report that cannot be read or is of
    other files is a `UsageError`; a file that did not pass, or whose worst cosine is less, a `WorkError`.
    """
    if candidate.fingerprint == gallery.fingerprint:
        raise UsageError(f"{candidate.name} is the model that made the gallery: there is nothing to accept")
    if candidate.source_sha256 != gallery.source_sha256 or candidate.embed_dim != gallery.embed_dim:
        raise UsageError(
            f"{candidate.name} is of other weights than {gallery.name}: rebuild the gallery with hat gallery re-embed"
        )
    if candidate.preprocessing != gallery.preprocessing:
        raise UsageError(f"{candidate.name} prepares images in another way than {gallery.name}")
    report = _read_report(path)
    if report.reference_fingerprint != gallery.fingerprint:
        raise UsageError(
            f"{path}: its reference {report.reference} is not the model that made the gallery "
            f"(fingerprint {gallery.fingerprint[:16]}): verify against {gallery.name}"
        )
    entry = next((entry for entry in report.candidates if entry.fingerprint == candidate.fingerprint), None)
    if entry is None:
        names = ", ".join(entry.name for entry in report.candidates) or "none"
        raise UsageError(f"{path}: none of its candidates is this file (fingerprint {candidate.fingerprint[:16]}): {names}")
    if report.num_images < _MIN_IMAGES:
        raise UsageError(
            f"{path}: {report.num_images} images were compared, and the worst of fewer than {_MIN_IMAGES} says little"
        )
    if not entry.passed:
        raise WorkError(f"{path}: {entry.name} did not pass: it does not rank as {gallery.name} does")
    worst = next((check.value for check in entry.checks if check.name == "worst cosine"), None)
    if worst is None or not worst >= min_cosine:  # written so that NaN is wrong too
        raise WorkError(
            f"{path}: {entry.name} embeds an image with a cosine of {math.nan if worst is None else worst:.4f} to the "
            f"embedding of {gallery.name}, the limit is {min_cosine:g} (--min-cosine)"
        )
    return CompatibleModel(fingerprint=candidate.fingerprint, precision=candidate.precision, worst_cosine=min(1.0, worst))


class _Check(BaseModel, strict=True):
    name: str
    value: float | None = None


class _Candidate(BaseModel, strict=True):
    name: str
    fingerprint: str | None = None
    passed: bool
    checks: list[_Check]


class _Report(BaseModel, strict=True):
    """Fields that are read of a report of ``hat verify``."""

    reference: str
    reference_fingerprint: str | None = None
    num_images: int
    candidates: list[_Candidate]


def _read_report(path: Path) -> _Report:
    try:
        if path.stat().st_size > 2**26:
            raise UsageError(f"{path}: larger than 64 MiB, no report of hat verify")
        report = _Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError:
        raise UsageError(f"{path}: no report of hat verify --report-json") from None
    if report.reference_fingerprint is None:
        raise UsageError(f"{path}: names no fingerprints; make it again with this version of hat verify")
    return report
