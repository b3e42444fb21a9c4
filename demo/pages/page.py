"""The whole page: a header, a page for each thing to do, and one gallery that they all work with."""

from pathlib import Path

import gradio as gr

from hat.errors import UsageError
from hat.runtime import runtime_info

from ..app_state import AppState, Session
from ..events import Values, bind
from ..uploads import files_at_hand, forget_files
from ..view.blocks import html_block
from ..view.markup import fragments
from .about import about_page
from .compare import compare_page
from .gallery import gallery_page
from .inside import inside_page
from .report import report_page
from .search import search_page

SESSION_S = 7200
"""A visitor's images and embeddings are forgotten this long after they were last used; what the page showed of them is
remembered until `hat.demo.launching` makes room for another visitor."""


def build_page(state: AppState) -> gr.Blocks:
    """Build the application; `hat.demo.launching` serves it."""
    with gr.Blocks(title="HAT · person search", analytics_enabled=False, delete_cache=(60, 600)) as page:
        session_state = gr.State(Session(), time_to_live=SESSION_S)
        with gr.Row(elem_id="hat-header"):
            runtime = state.embedder.runtime
            html_block(fragments("about").header(runtime_info(runtime).name, runtime.name), min_width=300)
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
                search, of_search, filters = search_page(state, session_state)
            with gr.Tab("Gallery", id="gallery"):
                browse, of_browse, (new_name, make_it, gallery_file) = gallery_page(state, session_state)
            with gr.Tab("Compare", id="compare"):
                compare_page(state, session_state)
            with gr.Tab("Look inside", id="inside") as inside_tab:
                inside_page(state, session_state, inside_tab)
            with gr.Tab("Report", id="report") as report_tab:
                report_page(state, session_state, report_tab)
            with gr.Tab("About and limits", id="about"):
                about_page(state)
        with gr.Row(elem_id="hat-footer"):
            html_block(fragments("about").footer())
            limits = gr.Button("What it must not be used for", size="sm", scale=0, min_width=220, elem_id="hat-limits")
        limits.click(lambda: gr.Tabs(selected="about"), None, tabs, api_visibility="private", show_progress="hidden")

        of_gallery = [gallery, *filters, *of_browse]
        everything = [*of_search, *of_gallery]

        def gallery_shown(session: Session) -> Values:
            choice = gr.update(choices=list(state.galleries), value=session.gallery or state.first_gallery)
            return (choice, *search.filter_choices(session), *browse.shown(session))

        def switch(session: Session, name: str) -> Values:
            state.gallery(name)
            session.gallery = name
            session.forget_query()
            return (*search.shown(session), *gallery_shown(session))

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
        bind(make_it.click, make, session_state, [new_name], [new_name, *everything])
        taken = bind(gallery_file.upload, take, session_state, [gallery_file], everything)
        taken.then(None, None, gallery_file, js="() => null")
    page.queue(max_size=64, default_concurrency_limit=4)
    return page
