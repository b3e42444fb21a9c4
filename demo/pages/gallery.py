"""The Gallery page: what is enrolled, adding to it, and removing from it for good."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from hat.data.images import IMAGE_SUFFIXES

from ..app_state import AppState
from ..events import CLICKS, bind
from .gallery_actions import GalleryActions

_TEMPORARY_HINT = (
    '<p class="hat-hint">Galleries that are made or opened here are seen by everyone who uses this demo, and end with it.</p>'
)


_REMOVAL_HINT = (
    '<p class="hat-hint">Click images to mark them, or choose a person above. Nothing is removed before you confirm it.</p>'
)


@dataclass(frozen=True)
class GalleryPage:
    """What others need of the page.

    Attributes:
        actions: Its handlers.
        outputs: Components that show the gallery; ``actions.shown`` gives their values.
        new_name: Name of a gallery that is to be made.
        make: Makes it.
        gallery_file: A gallery's file that is handed in.
    """

    actions: GalleryActions
    outputs: list[Any]
    new_name: Any
    make: Any
    gallery_file: Any


def gallery_page(state: AppState, session_state: gr.State) -> GalleryPage:
    """Build the page."""
    with gr.Row(elem_classes="hat-columns"):
        with gr.Column(scale=0, min_width=320, elem_classes="hat-side", visible=not state.read_only):
            with gr.Column(elem_classes=["hat-panel", "hat-plain"]):
                gr.HTML('<h2 class="hat-heading">Add images</h2>', apply_default_css=False)
                files = gr.File(
                    label="Images, or a zip file of them",
                    file_count="multiple",
                    file_types=[*IMAGE_SUFFIXES, ".zip"],
                    height=150,
                    elem_id="hat-enroll-files",
                    elem_classes="hat-drop",
                )
                with gr.Row():
                    pid = gr.Textbox(label="Identity", max_lines=1, max_length=80, min_width=100)
                    camid = gr.Textbox(label="Camera", max_lines=1, max_length=12, min_width=100)
                labels_in_names = gr.Checkbox(label="Names like 0002_c1s1 tell both", value=True, container=False)
                add = gr.Button("Add to the gallery", variant="primary", elem_id="hat-enroll")
                enrolled = gr.HTML(apply_default_css=False, elem_id="hat-enrolled")
            with gr.Accordion("Another gallery", open=False):
                new_name = gr.Textbox(label="Name of a new, empty gallery", max_lines=1, max_length=60)
                make = gr.Button("Make it")
                gallery_file = gr.File(
                    label="Or open a .gallery file",
                    file_count="single",
                    file_types=[".gallery"],
                    height=130,
                    elem_id="hat-gallery-file",
                    elem_classes="hat-drop",
                )
                gr.HTML(_TEMPORARY_HINT, apply_default_css=False)
        with gr.Column(min_width=320):
            overview = gr.HTML(apply_default_css=False)
            with gr.Row(elem_classes="hat-controls"):
                person = gr.Dropdown(label="Person", choices=[], value=None, min_width=160, elem_id="hat-person")
                camera = gr.Dropdown(label="Camera", choices=[], value=None, min_width=160)
            with gr.Accordion(
                "Remove for good", open=False, visible=not state.read_only, elem_id="hat-removal", elem_classes="hat-plain"
            ):
                gr.HTML(_REMOVAL_HINT, apply_default_css=False)
                with gr.Row():
                    ask_marked = gr.Button("Marked images", size="md", min_width=130)
                    ask_person = gr.Button("Person shown", size="md", min_width=130)
                    ask_old = gr.Button("Old images", size="md", min_width=130)
                    days = gr.Textbox("30", label="Old after (days)", max_lines=1, max_length=6, min_width=130)
                with gr.Column(visible=False, elem_id="hat-confirm") as confirm:
                    question = gr.HTML(apply_default_css=False)
                    with gr.Row():
                        yes = gr.Button("Remove for good", variant="stop", size="md", min_width=120)
                        no = gr.Button("Keep", size="md", min_width=120)
                removed = gr.HTML(apply_default_css=False, elem_id="hat-removed")
            records = gr.HTML(js_on_load=CLICKS, apply_default_css=False, elem_id="hat-records")
    actions = GalleryActions(state)
    outputs = [overview, person, camera, records, confirm]

    bind(records.submit, actions.turn, session_state, [person, camera], [records], reads_click=True)
    for choice in (person, camera):
        bind(choice.input, actions.browse, session_state, [person, camera], [records])
    # One at a time and in their order, so that a question asked right after a click knows of it.
    in_order: dict[str, Any] = {"concurrency_id": "removal", "concurrency_limit": 1}
    bind(records.select, actions.mark, session_state, [], [], reads_click=True, show_progress="hidden", **in_order)
    added = bind(
        add.click,
        actions.add,
        session_state,
        [files, pid, camid, labels_in_names],
        [enrolled, *outputs],
        shows_progress=True,
        show_progress_on=[enrolled],
    )
    added.then(None, None, files, js="() => null")
    asked = [confirm, question, removed]
    bind(ask_marked.click, actions.ask_marked, session_state, [], asked, **in_order)
    bind(ask_person.click, actions.ask_person, session_state, [person], asked, **in_order)
    bind(ask_old.click, actions.ask_old, session_state, [days], asked, **in_order)
    bind(no.click, actions.keep, session_state, [], asked, **in_order)
    bind(yes.click, actions.remove, session_state, [], [removed, *outputs], **in_order)
    return GalleryPage(actions, outputs, new_name, make, gallery_file)
