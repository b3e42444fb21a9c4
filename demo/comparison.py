"""The same query on several files of a model: ranked lists side by side, embeddings against each other, speed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.errors import UsageError
from hat.runtime import runtime_info
from hat.serve.enroll.enrolling import ImageEmbedder
from hat.serve.search.searching import person_embedding

Embeddings = npt.NDArray[np.float32]

_TIMED_RUNS = 5


@dataclass(eq=False)
class Artifact:
    """A model or an exported file, with the embeddings of gallery images that it has made so far.

    Attributes:
        name: What it is called on the page.
        embedder: The file, open.
    """

    name: str
    embedder: ImageEmbedder
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _rows: dict[tuple[str, int], Embeddings] = field(default_factory=dict, repr=False)
    _rates: list[tuple[int, float]] = field(default_factory=list, repr=False)

    @property
    def weights(self) -> str:
        """Hash of the trained weights: files of the same weights share it."""
        return runtime_info(self.embedder.runtime).source_sha256

    @property
    def precision(self) -> str:
        """In which it computes."""
        return runtime_info(self.embedder.runtime).precision

    @property
    def images_per_s(self) -> float | None:
        """Rate at which gallery images were embedded; None before there were any."""
        images, seconds = sum(count for count, _ in self._rates), sum(spent for _, spent in self._rates)
        return images / seconds if seconds else None

    def forget(self, gallery: str) -> None:
        """Forget the embeddings of a gallery's images."""
        with self._lock:
            self._rows = {key: row for key, row in self._rows.items() if key[0] != gallery}

    def missing(self, keys: Sequence[tuple[str, int]]) -> list[int]:
        """Return the places of the images that it has not embedded yet."""
        return [place for place, key in enumerate(keys) if key not in self._rows]

    def gallery_embeddings(
        self,
        keys: Sequence[tuple[str, int]],
        images: Callable[[int], Image.Image],
        advance: Callable[[int], None] | None = None,
    ) -> Embeddings:
        """Return (n, embed_dim) unit rows of gallery images; those that were embedded before are not embedded again.

        Args:
            keys: Gallery and record of each image.
            images: Place -> image, called for those that are missing.
            advance: Called with the number of images that were just embedded.
        """
        with self._lock:
            missing = self.missing(keys)
            for start in range(0, len(missing), 16):
                places = missing[start : start + 16]
                batch = [images(place) for place in places]
                began = time.perf_counter()
                rows = self.embedder.embed(batch)
                self._rates.append((len(batch), time.perf_counter() - began))
                self._rows.update({keys[place]: row for place, row in zip(places, rows, strict=True)})
                if advance is not None:
                    advance(len(places))
            return np.stack([self._rows[key] for key in keys])

    def query_embedding(self, images: Sequence[Image.Image]) -> tuple[Embeddings, float]:
        """Return (n, embed_dim) unit rows of a query's images, and the median seconds of one of them alone."""
        with self._lock:
            rows = self.embedder.embed(images)
            spent = []
            for _ in range(_TIMED_RUNS):
                began = time.perf_counter()
                self.embedder.embed(images[:1])
                spent.append(time.perf_counter() - began)
        return rows, float(np.median(spent))


@dataclass(frozen=True)
class ComparedMatch:
    """A match of one file.

    Attributes:
        id: The record.
        similarity: To the query, by this file.
        reference_rank: Its rank, from 1, by the first file.
    """

    id: int
    similarity: float
    reference_rank: int


@dataclass(frozen=True)
class ComparedList:
    """What one file made of the query.

    Attributes:
        name: The file.
        precision: In which it computes.
        matches: Its nearest records.
        cosine: Between its embedding of the query and the first file's; None where the two are of different weights.
        query_s: Median seconds to embed one image.
        images_per_s: Rate at which it embedded gallery images.
        num_shared: How many of its matches are among the first file's.
    """

    name: str
    precision: str
    matches: tuple[ComparedMatch, ...]
    cosine: float | None
    query_s: float
    images_per_s: float | None
    num_shared: int


def compare_artifacts(
    artifacts: Sequence[Artifact],
    query_images: Sequence[Image.Image],
    keys: Sequence[tuple[str, int]],
    images: Callable[[int], Image.Image],
    *,
    top: int = 5,
    advance: Callable[[str, int], None] | None = None,
) -> list[ComparedList]:
    """Rank the same images for the same query with several files.

    Args:
        artifacts: The files; the first is what the others are compared with.
        query_images: Images of one person.
        keys: Gallery and record of each gallery image.
        images: Place among ``keys`` -> image.
        top: Length of the lists.
        advance: Called with a file's name and the number of gallery images that it just embedded.

    Raises:
        UsageError: There is no query or no gallery image, or the query's images have nothing in common.
    """
    if not query_images:
        raise UsageError("there is no query yet: choose one on the Search page")
    if not keys:
        raise UsageError("the gallery has no pictures to compare on")
    lists: list[ComparedList] = []
    first_person: Embeddings | None = None
    first_ranks: dict[int, int] = {}
    for artifact in artifacts:
        rows = artifact.gallery_embeddings(keys, images, None if advance is None else partial(advance, artifact.name))
        query_rows, query_s = artifact.query_embedding(query_images)
        person = person_embedding(query_rows)
        similarities = rows @ person
        order = np.argsort(-similarities, kind="stable")
        if first_person is None:
            first_person = person
            first_ranks = {keys[place][1]: rank for rank, place in enumerate(order.tolist(), start=1)}
        matches = tuple(
            ComparedMatch(keys[place][1], float(similarities[place]), first_ranks[keys[place][1]])
            for place in order[:top].tolist()
        )
        comparable = artifact.weights == artifacts[0].weights and person.shape == first_person.shape
        lists.append(
            ComparedList(
                name=artifact.name,
                precision=artifact.precision,
                matches=matches,
                cosine=float(person @ first_person) if comparable else None,
                query_s=query_s,
                images_per_s=artifact.images_per_s,
                num_shared=sum(match.reference_rank <= top for match in matches),
            )
        )
    return lists
