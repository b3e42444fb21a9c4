"""The Compare page: what other files of the model make of the same query, ranked side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from hat.data import decode_image
from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.gallery.identities import Identity
from hat.serve.search.searching import person_embedding

from ..app_state import AppState, Session, SharedEmbedder
from ..events import Values, bind
from ..view.blocks import html_block
from ..view.markup import Cell, fragments

COMPARE_LIMIT = 500
"""Gallery images that every file embeds at most."""


@dataclass(frozen=True)
class Pictures:
    """Records of a gallery, known by a name, that have a picture, the first of them up to `COMPARE_LIMIT`."""

    name: str
    gallery: Gallery
    ids: tuple[int, ...]
    num_left_out: int

    @classmethod
    def of(cls, name: str, gallery: Gallery, where: Filter | None = None) -> "Pictures":
        """Find the records that pass a filter; a UsageError where the gallery keeps no pictures."""
        ids = gallery.ids(where).tolist()
        shown = ids[:COMPARE_LIMIT]
        with_picture = tuple(record.id for record in gallery.get(shown, thumbnails=True) if record.thumbnail is not None)
        if shown and not with_picture:
            raise UsageError("this gallery keeps no pictures, and only pictures can be compared: enroll with --thumbnails")
        return cls(name, gallery, with_picture, len(ids) - len(with_picture))

    def image(self, id_: int) -> Image.Image:
        """Return the picture of a record."""
        (record,) = self.gallery.get([id_], thumbnails=True)
        if record.thumbnail is None:
            raise UsageError(f"record #{id_} has lost its picture: compare again")
        return decode_image(record.thumbnail, f"the picture of record #{id_}")


@dataclass(frozen=True)
class ComparedMatch:
    """A match of one file: the record, its similarity by this file, and its rank, from 1, by the first file."""

    id: int
    similarity: float
    reference_rank: int


@dataclass(frozen=True)
class ComparedList:
    """Ranking of the query by one file."""

    name: str
    precision: str
    matches: tuple[ComparedMatch, ...]
    cosine: float | None  # between its query and the first file's; None where the two are of different weights
    query_s: float  # median seconds to embed one image
    images_per_s: float | None  # at which it embedded gallery images
    num_shared: int  # of its matches, those that are among the first file's


def compare_page(state: AppState, session_state: gr.State, removed: Any) -> None:
    """Build the page; the event ``removed`` empties it, since pictures of those who were removed may be among its own."""
    if len(state.artifacts) < 2:
        html_block(fragments("compare").how_to())
        return
    html_block(fragments("compare").lead(state.artifacts, COMPARE_LIMIT))
    with gr.Row(elem_classes="hat-controls"):
        top = gr.Slider(3, 20, value=6, step=1, label="List length", min_width=200)
        go = gr.Button("Compare", variant="primary", scale=0, min_width=180, elem_id="hat-compare")
    result = html_block(elem_id="hat-compared")

    def compare(session: Session, progress: Any, length: float) -> Values:
        name = session.gallery or state.first_gallery
        where = session.outcome.options.where if session.outcome is not None else None
        pictures = Pictures.of(name, state.gallery(name), where)

        def advance(artifact: SharedEmbedder, done: int, total: int) -> None:
            progress((done, total), desc=f"{artifact.name}: embedding the gallery", unit="images")

        query_images = [query.image for query in session.queries]
        lists = compare_artifacts(state.artifacts, query_images, pictures, top=int(length), advance=advance)
        return (compared_html(pictures, lists, session.query_pid),)

    bind(go.click, compare, session_state, [top], [result], shows_progress=True)
    bind(removed.success, lambda _: ("",), session_state, [], [result], show_progress="hidden")


def compare_artifacts(
    artifacts: Sequence[SharedEmbedder],
    query_images: Sequence[Image.Image],
    pictures: Pictures,
    *,
    top: int = 5,
    advance: Callable[[SharedEmbedder, int, int], None] = lambda *_: None,
) -> list[ComparedList]:
    """Rank the same pictures for the same person with several files; the first is what the others are compared with."""
    if not query_images:
        raise UsageError("there is no query yet: choose one on the Search page")
    if not pictures.ids:
        raise UsageError("the gallery has no pictures to compare on")
    lists: list[ComparedList] = []
    persons, ranks = [], dict.fromkeys(pictures.ids, 0)
    for artifact in artifacts:
        rows = artifact.embed_records(pictures.name, pictures.ids, pictures.image, partial(advance, artifact))
        query_rows, query_s = artifact.embed_query(query_images)
        persons.append(person_embedding(query_rows))
        similarities = rows @ persons[-1]
        order = np.argsort(-similarities, kind="stable").tolist()
        if not lists:
            ranks = {pictures.ids[place]: rank for rank, place in enumerate(order, start=1)}
        nearest = [(pictures.ids[place], float(similarities[place])) for place in order[:top]]
        matches = tuple(ComparedMatch(id_, similarity, ranks[id_]) for id_, similarity in nearest)
        same_weights = artifact.info.source_sha256 == artifacts[0].info.source_sha256
        cosine = float(persons[-1] @ persons[0]) if same_weights and persons[-1].shape == persons[0].shape else None
        num_shared = sum(match.reference_rank <= top for match in matches)
        precision, rate = artifact.info.precision, artifact.images_per_s
        lists.append(ComparedList(artifact.name, precision, matches, cosine, query_s, rate, num_shared))
    return lists


def compared_html(pictures: Pictures, lists: Sequence[ComparedList], query_pid: Identity | None) -> str:
    """Return figures of each file, and the ranked lists one under the other."""
    ids = sorted({match.id for ranking in lists for match in ranking.matches})
    records = {record.id: record for record in pictures.gallery.get(ids, thumbnails=True)}
    figures = [_figures(ranking, lists[0]) for ranking in lists]
    view = fragments("compare")
    return str(view.compared(len(pictures.ids), pictures.num_left_out, figures, lists, records, query_pid))


def _figures(one: ComparedList, first: ComparedList) -> list[Cell]:
    is_first = one is first
    cosine = "reference" if is_first else "other weights" if one.cosine is None else f"{one.cosine:.6f}"
    return [
        Cell(one.name),
        Cell(one.precision),
        Cell(cosine),
        Cell("" if is_first else f"{one.num_shared} of {len(one.matches)}"),
        Cell(f"{1000 * one.query_s:.1f} ms", "" if is_first else f"{first.query_s / one.query_s:.1f}×"),
        Cell("" if one.images_per_s is None else f"{one.images_per_s:.1f}"),
    ]
