"""Proof that another file of a gallery's weights ranks alike: the report of ``hat verify``, read and not believed blindly."""

import json
import math
from pathlib import Path
from typing import Any

from hat.errors import UsageError, WorkError

from .binding import Binding, CompatibleModel

_MAX_BYTES = 64 * 2**20
_MIN_IMAGES = 32
"""Images that a worst case must have been sought among."""

_WORST_COSINE = "worst cosine"


def read_compatible_model(path: Path, gallery: Binding, candidate: Binding, *, min_cosine: float) -> CompatibleModel:
    """Return what a report says of a file, once it is certain that it is about this gallery's model and this very file.

    Args:
        path: JSON of ``hat verify --report-json``.
        gallery: The model that made the gallery.
        candidate: The file that is to be used as well.
        min_cosine: Least cosine between the two embeddings of any image.

    Raises:
        UsageError: The report cannot be read or is of other files, or the file has other weights or another preprocessing.
        WorkError: The file did not pass, or its worst cosine is below ``min_cosine``.
    """
    if candidate.fingerprint == gallery.fingerprint:
        raise UsageError(f"{candidate.name} is the model that made the gallery: there is nothing to accept")
    if candidate.source_sha256 != gallery.source_sha256 or candidate.embed_dim != gallery.embed_dim:
        raise UsageError(
            f"{candidate.name} is of other weights than {gallery.name}: rebuild the gallery with hat gallery re-embed"
        )
    if candidate.preprocessing != gallery.preprocessing:
        raise UsageError(f"{candidate.name} prepares images in another way than {gallery.name}")
    report = _read(path)
    if report.get("reference_fingerprint") != gallery.fingerprint:
        raise UsageError(
            f"{path}: its reference {report.get('reference')} is not the model that made the gallery "
            f"(fingerprint {gallery.fingerprint[:16]}): verify against {gallery.name}"
        )
    entries = [one for one in report.get("candidates", []) if isinstance(one, dict)]
    entry = next((one for one in entries if one.get("fingerprint") == candidate.fingerprint), None)
    if entry is None:
        names = ", ".join(str(one.get("name")) for one in entries) or "none"
        raise UsageError(f"{path}: none of its candidates is this file (fingerprint {candidate.fingerprint[:16]}): {names}")
    num_images = report.get("num_images")
    if not isinstance(num_images, int) or num_images < _MIN_IMAGES:
        raise UsageError(f"{path}: {num_images} images were compared, and the worst of fewer than {_MIN_IMAGES} says little")
    worst = _worst_cosine(entry)
    if entry.get("passed") is not True:
        raise WorkError(f"{path}: {entry.get('name')} did not pass: it does not rank as {gallery.name} does")
    if not worst >= min_cosine:
        raise WorkError(
            f"{path}: {entry.get('name')} embeds an image with a cosine of {worst:.4f} to the embedding of {gallery.name}, the "
            f"limit is {min_cosine:g} (--min-cosine)"
        )
    return CompatibleModel(fingerprint=candidate.fingerprint, precision=candidate.precision, worst_cosine=worst)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: larger than {_MAX_BYTES:,} bytes, no report of hat verify")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("candidates"), list):
        raise UsageError(f"{path}: no report of hat verify --report-json")
    if content.get("reference_fingerprint") is None:
        raise UsageError(f"{path}: names no fingerprints; make it again with this version of hat verify")
    return content


def _worst_cosine(entry: dict[str, Any]) -> float:
    checks = entry.get("checks")
    for check in checks if isinstance(checks, list) else []:
        if isinstance(check, dict) and check.get("name") == _WORST_COSINE and isinstance(check.get("value"), int | float):
            return min(1.0, float(check["value"]))
    return math.nan
