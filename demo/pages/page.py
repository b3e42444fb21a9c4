"""The whole page: a header, a page for each thing to do, and one gallery that they all work with."""

from pathlib import Path
from typing import Any

import gradio as gr

from hat.errors import UsageError
from hat.runtime import runtime_info

from ..app_state import AppState
from ..events import bind
from ..session import Session
from ..uploads import files_at_hand, forget_files
from ..view.markup import escaped
from .about import about_page
from .compare import compare_page
from .gallery import gallery_page
from .inside import inside_page
from .report import report_page
from .search import search_page

SESSION_S = 7200
"""A visitor's images and embeddings are forgotten this long after they were last used; what the page showed of them is
remembered until `hat.demo.launching` makes room for another visitor."""

_MARK = (
    '<svg class="hat-logo" viewBox="0 0 32 32" aria-hidden="true"><rect x="2" y="3" width="7" height="26" rx="2"/>'
    '<rect x="12.5" y="3" width="7" height="26" rx="2"/><rect x="23" y="3" width="7" height="26" rx="2"/></svg>'
)

Values = tuple[Any, ...]


def build_page(state: AppState) -> gr.Blocks:
    """Build the application; `hat.demo.launching` serves it."""
    with gr.Blocks(title="HAT · person search", analytics_enabled=False, delete_cache=(60, 600)) as page:
        session_state = gr.State(Session(), time_to_live=SESSION_S)
        with gr.Row(elem_id="hat-header"):
            gr.HTML(_header(state), apply_default_css=False, min_width=300)
            gallery = gr.Dropdown(
                label="Gallery",
                choices=list(state.galleries),
                value=state.first_gallery,
                scale=0,
                min_width=240,
                elem_id="hat-gallery",
                elem_classes="hat-bare",
                filterable=False,
            )
        with gr.Tabs(elem_id="hat-tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab("Search", id="search"):
                search = search_page(state, session_state)
            with gr.Tab("Gallery", id="gallery"):
                browse = gallery_page(state, session_state)
            with gr.Tab("Compare", id="compare"):
                compare_page(state, session_state)
            with gr.Tab("Look inside", id="inside") as inside_tab:
                inside_page(state, session_state, inside_tab)
            with gr.Tab("Report", id="report") as report_tab:
                report_page(state, session_state, report_tab)
            with gr.Tab("About and limits", id="about"):
                about_page(state)
        with gr.Row(elem_id="hat-footer"):
            gr.HTML(
                "<p>Re-identification is biometric processing, and it errs.</p>",
                apply_default_css=False,
            )
            limits = gr.Button("What it must not be used for", size="sm", scale=0, min_width=220, elem_id="hat-limits")
        limits.click(lambda: gr.Tabs(selected="about"), None, tabs, api_visibility="private", show_progress="hidden")

        of_gallery = [gallery, *search.filters, *browse.outputs]
        everything = [*search.outputs, *of_gallery]

        def gallery_shown(session: Session) -> Values:
            choice = gr.update(choices=list(state.galleries), value=session.gallery or state.first_gallery)
            return (choice, *search.actions.filter_choices(session), *browse.actions.shown(session))

        def switch(session: Session, name: str) -> Values:
            state.gallery(name)
            session.gallery = name
            session.forget_query()
            return (*search.actions.shown(session), *gallery_shown(session))

        def make(session: Session, name: str) -> Values:
            return ("", *switch(session, state.new_gallery(name or "")))

        def take(session: Session, path: str | None) -> Values:
            at_hand = files_at_hand([path] if path else [])
            if not at_hand:
                raise UsageError("the gallery's file did not arrive: give it once more")
            try:
                return switch(session, state.import_gallery(Path(at_hand[0])))
            finally:
                forget_files(at_hand)

        bind(page.load, gallery_shown, session_state, [], of_gallery, show_progress="hidden")
        bind(gallery.input, switch, session_state, [gallery], everything)
        bind(browse.make.click, make, session_state, [browse.new_name], [browse.new_name, *everything])
        taken = bind(browse.gallery_file.upload, take, session_state, [browse.gallery_file], everything)
        taken.then(None, None, browse.gallery_file, js="() => null")
    page.queue(max_size=64, default_concurrency_limit=4)
    return page


def _header(state: AppState) -> str:
    info = runtime_info(state.embedder.runtime)
    return (
        f'<div class="hat-brand">{_MARK}<div><h1>Person search</h1><p>HAT model <strong>{escaped(info.name)}</strong>, '
        f"{escaped(state.embedder.runtime.name)}</p></div></div>"
    )
