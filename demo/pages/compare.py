"""The Compare page: what other files of the model make of the same query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from hat.data import decode_image
from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.gallery.identities import Identity

from ..app_state import AppState, Session
from ..comparison import ComparedList, compare_artifacts
from ..events import Values, bind
from ..view.blocks import html_block
from ..view.markup import Cell, fragments

COMPARE_LIMIT = 500
"""Gallery images that every file embeds at most."""


@dataclass(frozen=True)
class Pictures:
    """Records of a gallery that have a picture, the first of them up to a limit."""

    gallery: Gallery
    ids: tuple[int, ...]
    num_left_out: int

    def image(self, place: int) -> Image.Image:
        """Return the picture of a record, by its place among ``ids``."""
        (record,) = self.gallery.get([self.ids[place]], thumbnails=True)
        if record.thumbnail is None:
            raise UsageError(f"record #{record.id} has lost its picture: compare again")
        return decode_image(record.thumbnail, f"the picture of record #{record.id}")


def compare_page(state: AppState, session_state: gr.State) -> None:
    """Build the page."""
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
        pictures = pictures_of(state.gallery(name), session.outcome.where if session.outcome is not None else None)
        keys = [(name, one) for one in pictures.ids]
        totals = {artifact.name: len(artifact.missing(keys)) for artifact in state.artifacts}
        done = dict.fromkeys(totals, 0)

        def advance(artifact: str, count: int) -> None:
            done[artifact] += count
            progress((done[artifact], totals[artifact]), desc=f"{artifact}: embedding the gallery", unit="images")

        lists = compare_artifacts(
            state.artifacts,
            [query.image for query in session.queries],
            keys,
            pictures.image,
            top=int(length),
            advance=advance,
        )
        return (compared_html(pictures, lists, session.query_pid),)

    bind(go.click, compare, session_state, [top], [result], shows_progress=True)


def pictures_of(gallery: Gallery, where: Filter | None) -> Pictures:
    """Return the records of a gallery that pass a filter and have a picture, up to `COMPARE_LIMIT`.

    Raises:
        UsageError: The gallery keeps no pictures.
    """
    ids = [int(one) for one in gallery.ids(where)]
    shown = ids[:COMPARE_LIMIT]
    with_picture = tuple(record.id for record in gallery.get(shown, thumbnails=True) if record.thumbnail is not None)
    if shown and not with_picture:
        raise UsageError("this gallery keeps no pictures, and only pictures can be compared: enroll with --thumbnails")
    return Pictures(gallery, with_picture, len(ids) - len(with_picture))


def compared_html(pictures: Pictures, lists: Sequence[ComparedList], query_pid: Identity | None) -> str:
    """Return figures of each file, and the ranked lists one under the other."""
    ids = sorted({match.id for one in lists for match in one.matches})
    records = {record.id: record for record in pictures.gallery.get(ids, thumbnails=True)}
    figures = [_figures(one, lists[0]) for one in lists]
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
