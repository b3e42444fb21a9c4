"""Search with each camera's mean embedding subtracted, so that what a camera adds to every image decides no rank."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError
from hat.metrics import CameraMeans

from ..gallery.gallery import Gallery
from ..gallery.records import Filter, Neighbors, Record
from .exact_search import nearest_rows
from .query_embeddings import Query


class CenteredGallery:
    """A gallery's embeddings without the means of their cameras, in memory; it is searched as a gallery is.

    A record or a query whose camera is not known, or of whose camera there is a single record, has the mean of all records
    subtracted. Records that come later are not found.

    Raises:
        UsageError: Not one camera of the gallery has two records.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.location = gallery.location
        self._gallery = gallery
        records = list(gallery.records())
        self._ids = np.array([record.id for record in records], dtype=np.int64)
        numbers = {camid: number for number, camid in enumerate(sorted({r.camid for r in records if r.camid is not None}))}
        self._numbers = numbers
        # Behind the last camera: a number that no mean belongs to.
        cameras = np.array([self._number(record.camid) for record in records], dtype=np.int64)
        counts = np.bincount(cameras[cameras < len(numbers)])
        if not len(counts) or counts.max() < 2:
            raise UsageError(f"{gallery.location}: no camera has two images, so that there is no mean of one to subtract")
        embeddings = gallery.embeddings(self._ids.tolist())
        means = CameraMeans.of(embeddings, cameras)
        known = means.camids < len(numbers)
        self._means = replace(means, camids=means.camids[known], means=means.means[np.append(known, True)])
        self._rows = self._means.subtract(embeddings, cameras)

    def center(self, query: Query) -> Query:
        """Return a query without the mean of its camera.

        Raises:
            UsageError: Nothing is left of it.
        """
        camid = next(iter(query.camids)) if len(query.camids) == 1 else None
        cameras = np.array([self._number(camid)])
        return replace(query, embedding=self._means.subtract(query.embedding[None], cameras)[0])

    def search(self, embeddings: npt.NDArray[np.floating], top: int = 10, where: Filter | None = None) -> Neighbors:
        """Return the nearest records of each centered query; see `Gallery.search`."""
        mask = np.isin(self._ids, self._gallery.ids(where))
        rows, similarities = nearest_rows([self._rows], embeddings.astype(np.float32), top, mask)
        return Neighbors(ids=np.where(rows < 0, -1, self._ids[rows]), similarities=similarities)

    def embeddings(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the centered embeddings (n, embed_dim) of records."""
        return self._rows[np.searchsorted(self._ids, ids)]

    def get(self, ids: Sequence[int], *, thumbnails: bool = False) -> list[Record]:
        """Return records by id; see `Gallery.get`."""
        return self._gallery.get(ids, thumbnails=thumbnails)

    def _number(self, camid: int | None) -> int:
        return len(self._numbers) if camid is None else self._numbers.get(camid, len(self._numbers))
