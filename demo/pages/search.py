"""The Search page: who is looked for, where, and who was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from hat.data.images import IMAGE_SUFFIXES

from ..app_state import Workbench
from ..events import CLICKS, listen
from ..ranking import MAX_TOP
from ..search_actions import WELCOME, SearchActions
from ..view.cards import sample_strip
from ..view.crop import CROP_BOX

__all__ = ["SearchPage", "search_page"]

_KNOWN_HINT = (
    '<p class="hat-hint">With an identity, right and wrong matches are told apart. With a camera, what it saw can be left '
    "out.</p>"
)


@dataclass(frozen=True)
class SearchPage:
    """What others need of the page.

    Attributes:
        actions: Its handlers.
        outputs: Components that show a query and its result; ``actions.shown`` gives their values.
        filters: Components whose choices depend on the gallery; ``actions.filter_choices`` gives their values.
    """

    actions: SearchActions
    outputs: list[Any]
    filters: list[Any]


@dataclass(frozen=True)
class _Query:
    """Components of the left column."""

    files: Any
    add: Any
    tiles: Any
    crop_group: Any
    crop: Any
    samples: Any
    pid: Any
    camid: Any


@dataclass(frozen=True)
class _Result:
    """Components of the right column."""

    top: Any
    rerank: Any
    leave_out: Any
    cameras: Any
    since: Any
    until: Any
    summary: Any
    cards: Any
    details: Any


def search_page(bench: Workbench, session: gr.State) -> SearchPage:
    """Build the page."""
    with gr.Row(elem_classes="hat-columns"):
        with gr.Column(scale=0, min_width=320, elem_classes="hat-side"):
            query = _query_column(bench)
        with gr.Column(min_width=320):
            result = _result_column()
    actions = SearchActions(bench)
    filters = [result.cameras, result.since, result.until]
    options = [result.top, result.rerank, result.leave_out, *filters, query.pid, query.camid]
    outputs = [query.tiles, query.crop_group, query.crop, query.pid, query.camid]
    outputs += [result.summary, result.cards, result.details]

    taken = listen(query.files.upload, actions.upload, session, [query.files, query.add, *options], outputs)
    taken.then(None, None, query.files, js="() => null")  # the field is free again, also after a file that was refused
    listen(query.samples.select, actions.try_sample, session, options, outputs, reads_click=True)
    listen(query.tiles.delete, actions.take_out, session, options, outputs, reads_click=True)
    listen(query.crop.submit, actions.use_crop, session, [query.add, *options], outputs, reads_click=True)
    listen(result.cards.select, actions.choose, session, [], [result.details], reads_click=True, show_progress="hidden")
    for changed in (result.top.release, result.rerank.input, result.leave_out.input, result.cameras.input):
        listen(changed, actions.search_again, session, options, outputs)
    for typed in (result.since, result.until, query.pid, query.camid):
        listen(typed.submit, actions.search_again, session, options, outputs)
    return SearchPage(actions, outputs, filters)


def _query_column(bench: Workbench) -> _Query:
    files = gr.File(
        label="Images of one person",
        file_count="multiple",
        file_types=list(IMAGE_SUFFIXES),
        height=150,
        elem_id="hat-query-files",
        elem_classes="hat-drop",
    )
    add = gr.Checkbox(label="Add to the query", value=False, container=False, elem_classes="hat-bare")
    tiles = gr.HTML(js_on_load=CLICKS, apply_default_css=False, elem_id="hat-query")
    with gr.Column(visible=False, elem_id="hat-crop", elem_classes="hat-panel") as crop_group:
        crop = gr.HTML(js_on_load=CROP_BOX, apply_default_css=False)
    samples = gr.HTML(sample_strip(bench.samples), js_on_load=CLICKS, apply_default_css=False, visible=bool(bench.samples))
    with gr.Accordion("What is known of the query", open=False):
        with gr.Row():
            pid = gr.Textbox(label="Identity", max_lines=1, max_length=12, min_width=100)
            camid = gr.Textbox(label="Camera", max_lines=1, max_length=12, min_width=100)
        gr.HTML(_KNOWN_HINT, apply_default_css=False)
    return _Query(files, add, tiles, crop_group, crop, samples, pid, camid)


def _result_column() -> _Result:
    with gr.Row(elem_classes="hat-controls"):
        top = gr.Slider(1, MAX_TOP, value=12, step=1, label="List length", min_width=180)
        with gr.Column(min_width=220, elem_classes="hat-switches"):
            rerank = gr.Checkbox(label="Re-rank by common neighbors", value=False, container=False)
            leave_out = gr.Checkbox(label="Leave out the query's own camera", value=True, container=False)
    with gr.Accordion("Cameras and time", open=False):
        cameras = gr.Dropdown(label="Only these cameras", multiselect=True, choices=[], value=[], elem_id="hat-cameras")
        with gr.Row():
            since = gr.Textbox(label="Seen from (UTC)", max_lines=1, max_length=40, min_width=150)
            until = gr.Textbox(label="Seen before (UTC)", max_lines=1, max_length=40, min_width=150)
    summary = gr.HTML(apply_default_css=False)
    cards = gr.HTML(WELCOME, js_on_load=CLICKS, apply_default_css=False, elem_id="hat-results")
    details = gr.HTML(apply_default_css=False, elem_id="hat-details")
    return _Result(top, rerank, leave_out, cameras, since, until, summary, cards, details)
