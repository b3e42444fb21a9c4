"""The Search page: who is looked for, where, and who was found."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from hat.data.images import IMAGE_SUFFIXES

from ..app_state import AppState
from ..events import CLICKS, bind
from ..ranking import MAX_TOP
from ..view.cards import sample_strip
from ..view.crop import CROP_BOX
from .search_actions import WELCOME, SearchActions

_KNOWN_HINT = (
    '<p class="hat-hint">With an identity, right and wrong matches are marked. With a camera, what it saw can be left out.</p>'
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


def search_page(state: AppState, session_state: gr.State) -> SearchPage:
    """Build the page."""
    with gr.Row(elem_classes="hat-columns"):
        with gr.Column(scale=0, min_width=320, elem_classes="hat-side"):
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
            samples = gr.HTML(
                sample_strip(state.samples), js_on_load=CLICKS, apply_default_css=False, visible=bool(state.samples)
            )
            with gr.Accordion("What is known of the query", open=False):
                with gr.Row():
                    pid = gr.Textbox(label="Identity", max_lines=1, max_length=80, min_width=100)
                    camid = gr.Textbox(label="Camera", max_lines=1, max_length=12, min_width=100)
                gr.HTML(_KNOWN_HINT, apply_default_css=False)
        with gr.Column(min_width=320):
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
    actions = SearchActions(state)
    filters = [cameras, since, until]
    options = [top, rerank, leave_out, *filters, pid, camid]
    outputs = [tiles, crop_group, crop, pid, camid, summary, cards, details]

    uploaded = bind(files.upload, actions.upload, session_state, [files, add, *options], outputs)
    uploaded.then(None, None, files, js="() => null")  # the field is free again, also after a file that was refused
    bind(samples.select, actions.try_sample, session_state, options, outputs, reads_click=True)
    bind(tiles.delete, actions.take_out, session_state, options, outputs, reads_click=True)
    bind(crop.submit, actions.use_crop, session_state, [add, *options], outputs, reads_click=True)
    bind(cards.select, actions.choose, session_state, [], [details], reads_click=True, show_progress="hidden")
    for changed in (top.release, rerank.input, leave_out.input, cameras.input):
        bind(changed, actions.search_again, session_state, options, outputs)
    for typed in (since, until, pid, camid):
        bind(typed.submit, actions.search_again, session_state, options, outputs)
    return SearchPage(actions, outputs, filters)
