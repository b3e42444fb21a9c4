"""Whose embeddings a gallery holds: embeddings of two models mean different things and must never be compared unproven."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import ConfigError, UsageError
from hat.preprocessing import Preprocessing

if TYPE_CHECKING:
    from hat.io.artifact import ArtifactInfo  # it brings torch, which a gallery does without


@config_dataclass
class CompatibleModel:
    """Another file of the same weights, shown by ``hat verify`` to rank as the one that made the gallery."""

    fingerprint: str
    """Of the file that may be used beside the gallery's own."""

    precision: str
    """In which it computes."""

    worst_cosine: float
    """The worst cosine similarity between its embeddings and those of the gallery's model, as it was measured."""


@config_dataclass
class Binding:
    """The model that made a gallery's embeddings."""

    fingerprint: str
    """Hash of architecture, weights, preprocessing and precision."""

    name: str
    """What the model is called, for people."""

    model: dict[str, Any]
    """The architecture, or what is known of an adopted model, as plain data."""

    preprocessing: Preprocessing
    """How images become input."""

    source_sha256: str
    """Hash of the trained weights, which files of one checkpoint share."""

    precision: str
    """In which the model computed."""

    embed_dim: int
    """Width of an embedding."""

    compatible_models: tuple[CompatibleModel, ...] = Field(default=())
    """Other files of the same weights that may be used as well."""

    def differences(self, other: Binding) -> list[str]:
        """Return what tells another model from this one, each as "what: here, there"; empty where this gallery takes it."""
        if other.fingerprint == self.fingerprint or any(other.fingerprint == one.fingerprint for one in self.compatible_models):
            return []
        found = []
        mine, theirs = config_to_dict(self), config_to_dict(other)
        for section in ("model", "preprocessing"):
            found += _differences(mine[section], theirs[section], section)
        if self.embed_dim != other.embed_dim:
            found.append(f"width of an embedding: {self.embed_dim}, {other.embed_dim}")
        if self.source_sha256 != other.source_sha256:
            found.append(f"trained weights: {self.name} ({self.source_sha256[:12]}), {other.name} ({other.source_sha256[:12]})")
        if self.precision != other.precision:
            found.append(f"precision: {self.precision}, {other.precision}")
        return found or ["fingerprint"]

    def check(self, other: Binding, gallery: str) -> None:
        """Make sure that a model's embeddings may be added to a gallery or compared with it.

        Args:
            other: The model that is to be used.
            gallery: What the gallery is called, for the message.

        Raises:
            UsageError: It is another model; every difference is spelled out.
        """
        found = self.differences(other)
        if not found:
            return
        advice = "use the gallery's model, or rebuild the gallery with `hat gallery re-embed`"
        if self.source_sha256 == other.source_sha256 and self.preprocessing == other.preprocessing:
            advice += (
                "; a file of the same weights may be used once `hat verify` has shown that it ranks alike: `hat gallery accept`"
            )
        raise UsageError(f"{gallery} was made by another model; gallery's, given: {'; '.join(found)}; {advice}")


def binding_of(info: ArtifactInfo) -> Binding:
    """Return the binding of embeddings that a model makes, from the facts about it (`hat.runtime.runtime_info`)."""
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
    """Read a binding.

    Raises:
        UsageError: It is no such JSON.
    """
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            if "siblings" in content:  # what galleries of earlier versions call them
                content["compatible_models"] = content.pop("siblings")
            return config_from_dict(Binding, content, where=source)
    except (ValueError, ConfigError) as error:
        raise UsageError(f"{source}: cannot be read which model made it: {error}") from None
    raise UsageError(f"{source}: cannot be read which model made it: expected a JSON object")


def _differences(mine: dict[str, Any], theirs: dict[str, Any], where: str) -> list[str]:
    found = []
    for key in sorted(mine.keys() | theirs.keys()):
        ours, other = mine.get(key), theirs.get(key)
        if isinstance(ours, dict) and isinstance(other, dict):
            found += _differences(ours, other, f"{where}.{key}")
        elif ours != other:
            found.append(f"{where}.{key}: {ours}, {other}")
    return found
