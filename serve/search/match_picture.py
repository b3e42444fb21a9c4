"""The picture of a search: each query with its matches, from thumbnails or from the images' own files."""

from collections.abc import Sequence

from PIL import Image

from hat.data.images import read_image
from hat.errors import ImageError, UsageError

from ..gallery.gallery import Gallery
from ..gallery.record_images import record_image
from .query_embeddings import Query
from .searching import Match


def draw_matches(gallery: Gallery, queries: Sequence[Query], found: Sequence[Sequence[Match]], *, title: str) -> Image.Image:
    """Draw a row for each query: the query, then its matches, best first.

    Where the identities of query and match are known, the frame is green with a tick where they are the same and red with a
    cross where they are not. A record whose picture is not there any more has an empty tile.

    Args:
        gallery: Where records that are queries are read from.
        queries: What was searched for; of several images of one person the first is shown.
        found: The matches of each, whose records were read with their thumbnails.
        title: One line above.

    Returns:
        An RGB picture.

    Raises:
        UsageError: No match has a picture, or the whole would be enormous.
        MissingExtraError: matplotlib is not installed.
    """
    from hat.visual import Tile, draw_grid  # the package imports torch, which a search by record does not need

    pictures = [[record_image(match.record) for match in matches] for matches in found]
    if any(found) and not any(picture for row in pictures for picture in row):
        raise UsageError(
            "none of the matches has a picture: the gallery keeps no thumbnails (hat enroll --thumbnails), and the files that "
            "were enrolled are not there any more"
        )
    rows = []
    for query, matches, images in zip(queries, found, pictures, strict=True):
        name = query.paths[0].rpartition("/")[2] if query.paths else query.name
        lines = [f"id {query.pid}", name] if query.pid is not None else [name, ""]
        caption = _caption(lines[0], next(iter(query.camids), None), lines[1])
        tiles = [Tile(_query_image(gallery, query), caption, is_query=True)]
        for match, image in zip(matches, images, strict=True):
            record = match.record
            described = record.source.rpartition("/")[2] if record.pid is None else f"id {record.pid}"
            is_match = None if query.pid is None or record.pid is None else query.pid == record.pid
            tiles.append(Tile(image, _caption(f"{match.similarity:.2f}", record.camid, described), is_match))
        rows.append(tiles)
    labels = ["Query", *map(str, range(1, max(map(len, rows), default=1)))]
    return draw_grid(rows, title, ["Ranked by similarity, best first"], column_labels=labels)


def _query_image(gallery: Gallery, query: Query) -> Image.Image | None:
    for path in query.paths[:1]:
        try:
            return read_image(path)
        except ImageError:
            return None
    (record,) = gallery.get([min(query.ids)], thumbnails=True)
    return record_image(record)


def _caption(first: str, camid: int | None, second: str) -> str:
    return f"{first}{'' if camid is None else f' · cam {camid}'}\n{second}"
