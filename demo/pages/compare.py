"""The Compare page: what other files of the model make of the same query."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from hat.data import decode_image
from hat.errors import UsageError
from hat.serve import Filter, Gallery, Record
from hat.serve.gallery.identities import Identity

from ..app_state import AppState
from ..comparison import ComparedList, ComparedMatch, compare_artifacts
from ..events import bind
from ..session import Session
from ..view.cards import person_name, picture, short_source, verdict
from ..view.markup import empty_state, escaped, plural, table

COMPARE_LIMIT = 500
"""Gallery images that every file embeds at most."""

Values = tuple[Any, ...]

_HOW_TO = empty_state(
    "Nothing to compare with",
    "Start the demo with other files of the model: <code>hat demo runs/market --compare market.onnx --compare market-int8.xml"
    "</code>. Export them with <code>hat export</code>.",
)


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
        gr.HTML(_HOW_TO, apply_default_css=False)
        return
    names = ", ".join(f"<strong>{escaped(one.name)}</strong>" for one in state.artifacts)
    gr.HTML(
        f'<p class="hat-lead">The query of the Search page, ranked by {names}. A gallery is bound to one model, so each file '
        f"embeds the gallery's small pictures again here, at most {COMPARE_LIMIT:,} of them and once each. The cameras and "
        "the time chosen there hold here too; re-ranking does not.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="hat-controls"):
        top = gr.Slider(3, 20, value=6, step=1, label="List length", min_width=200)
        go = gr.Button("Compare", variant="primary", scale=0, min_width=180, elem_id="hat-compare")
    result = gr.HTML(apply_default_css=False, elem_id="hat-compared")

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
    columns = "".join(_column(one, records, query_pid, is_first=place == 0) for place, one in enumerate(lists))
    left_out = f"; {plural(pictures.num_left_out, 'image')} left out" if pictures.num_left_out else ""
    return (
        f'<p class="hat-summary" role="status">{plural(len(pictures.ids), "gallery image")} compared{left_out}</p>'
        f"{_figures(lists)}"
        f'<div class="hat-scroll" tabindex="0" role="region" aria-label="Ranked lists side by side">'
        f'<div class="hat-compared">{columns}</div></div>'
        '<p class="hat-hint">Times of a few runs on this machine while it serves this page; <code>hat bench</code> measures '
        "properly, <code>hat verify</code> says whether two files rank alike.</p>"
    )


def _figures(lists: Sequence[ComparedList]) -> str:
    first = lists[0]
    rows = []
    for place, one in enumerate(lists):
        cosine = "reference" if place == 0 else "other weights" if one.cosine is None else f"{one.cosine:.6f}"
        shared = "" if place == 0 else f"{one.num_shared} of {len(one.matches)}"
        faster = "" if place == 0 else f" <span class='hat-quiet-text'>({first.query_s / one.query_s:.1f}×)</span>"
        rate = "" if one.images_per_s is None else f"{one.images_per_s:.1f}"
        rows.append([escaped(one.name), one.precision, cosine, shared, f"{1000 * one.query_s:.1f} ms{faster}", rate])
    return table(
        ["file", "precision", "cosine of the query", "shared matches", "one image", "images/s"],
        rows,
        caption="Figures of each file",
        numeric=frozenset({2, 3, 4, 5}),
    )


def _column(one: ComparedList, records: dict[int, Record], query_pid: Identity | None, *, is_first: bool) -> str:
    card = functools.partial(_card, records=records, query_pid=query_pid, is_first=is_first)
    cards = "".join(card(rank, match) for rank, match in enumerate(one.matches, start=1))
    return (
        f'<section class="hat-compared-list"><h3 class="hat-heading">{escaped(one.name)}</h3>'
        f'<ol class="hat-cards hat-row-cards">{cards}</ol></section>'
    )


def _card(rank: int, match: ComparedMatch, *, records: dict[int, Record], query_pid: Identity | None, is_first: bool) -> str:
    record = records[match.id]
    kind, mark, spoken = verdict(record.pid, query_pid)
    change = ""
    if not is_first and match.reference_rank != rank:
        up = match.reference_rank > rank
        change = (
            f'<span class="hat-move {"hat-up" if up else "hat-down"}"><span aria-hidden="true">{"▲" if up else "▼"} '
            f'{abs(match.reference_rank - rank)}</span><span class="hat-unseen">rank {match.reference_rank} by the first file'
            "</span></span>"
        )
    alt = f"Rank {rank}: {escaped(person_name(record.pid))}"
    return (
        f'<li><div class="hat-card{kind}" title="{short_source(record.source)}"><span class="hat-rank">{rank}</span>'
        f'{mark}{picture(record.thumbnail, alt)}<span class="hat-caption"><span class="hat-line">'
        f'<span class="hat-value">{match.similarity:.3f}</span>{change}</span>'
        f'<span class="hat-quiet-text">{escaped(person_name(record.pid, starts=True))}</span>'
        f"{spoken}</span></div></li>"
    )
