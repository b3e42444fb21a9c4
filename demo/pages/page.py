"""The whole page: a header, a page for each thing to do, one gallery that they all work with, and the limits of their use."""

import re
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from hat.console import metric_rows
from hat.errors import UsageError
from hat.io.checkpoint import locate_model

from ..app_state import AppState, Session
from ..events import Values, bind
from ..uploads import received_files
from ..view.blocks import html_block
from ..view.markup import fragments
from .compare import compare_page
from .gallery import gallery_page
from .inside import inside_page
from .report import report_page
from .search import search_page

SESSION_S = 7200
"""A visitor's images and embeddings are forgotten this long after they were last used; what the page showed of them is
remembered until `hat.demo.launching` makes room for another visitor."""

LIMITS_OF_USE = (
    "Re-identification is biometric processing. It finds a person again by clothes and build, it errs, and it errs more for "
    "people who look alike to it. Do not use it to identify or track people without a legal basis and their knowledge, to "
    "decide anything about a person without human review, or for covert surveillance. In the European Union the GDPR and the "
    "AI Act apply."
)
"""Limits of use, in the words of the project's front page."""

_MAX_CARD_BYTES = 256 * 1024


def build_page(state: AppState) -> gr.Blocks:
    """Build the application; `hat.demo.launching` serves it."""
    with gr.Blocks(title="HAT · person search", analytics_enabled=False, delete_cache=(60, 600)) as page:
        session_state = gr.State(Session(), time_to_live=SESSION_S)
        with gr.Row(elem_id="hat-header"):
            html_block(fragments("about").header(state.embedder.info.name, state.embedder.runtime.name), min_width=300)
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
                browse, of_browse, (new_name, make_it, gallery_file), (added, removed) = gallery_page(state, session_state)
            with gr.Tab("Compare", id="compare"):
                compare_page(state, session_state, removed)
            with gr.Tab("Look inside", id="inside") as inside_tab:
                inside_page(state, session_state, inside_tab, removed)
            with gr.Tab("Report", id="report") as report_tab:
                report_page(state, session_state, report_tab)
            with gr.Tab("About and limits", id="about"), gr.Column(elem_classes="hat-text"):
                html_block(fragments("about").about(Markup(LIMITS_OF_USE), _model_metadata(state)))
                if (card := card_text(locate_model(state.model))) is not None:
                    with gr.Accordion("Model card", open=False):
                        gr.Markdown(card, elem_classes="hat-model-card")
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
            with received_files([path] if path else []) as at_hand:
                if not at_hand:
                    raise UsageError("the gallery's file did not arrive: give it once more")
                return switch(session, state.import_gallery(Path(at_hand[0])))

        def offer_added(session: Session) -> Values:
            return search.filter_choices(session, keeps_values=True)

        def forget_removed(session: Session) -> Values:
            return (*search.shown(session), *search.filter_choices(session))

        bind(page.load, gallery_shown, session_state, [], of_gallery, show_progress="hidden")
        bind(added.success, offer_added, session_state, [], filters, show_progress="hidden")
        bind(removed.success, forget_removed, session_state, [], [*of_search, *filters], show_progress="hidden")
        bind(gallery.input, switch, session_state, [gallery], everything)
        bind(make_it.click, make, session_state, [new_name], [new_name, *everything])
        taken = bind(gallery_file.upload, take, session_state, [gallery_file], everything)
        taken.then(None, None, gallery_file, js="() => null")
    page.queue(max_size=64, default_concurrency_limit=4)
    return page


def card_text(model_path: Path) -> str | None:
    """Return the model card beside a checkpoint as Markdown that asks nobody for anything: no pictures and no raw HTML."""
    path = model_path / "MODEL_CARD.md"
    if not path.is_file() or path.stat().st_size > _MAX_CARD_BYTES:
        return None
    text = path.read_text(encoding="utf-8", errors="replace").replace("<", "&lt;")
    return re.sub(r"!\s*\[", "[", text)


def _model_metadata(state: AppState) -> list[tuple[str, str]]:
    info = state.embedder.info
    if info.model is None:
        architecture = [("adopted from", info.adopted.file if info.adopted else "")]
    else:
        blocks = ", ".join(map(str, info.model.depths))
        architecture = [("backbone", info.model.backbone.name), ("transformer blocks", blocks)]
    height, width = info.preprocessing.size
    return [
        ("name", info.name),
        ("runs in", state.embedder.runtime.name),
        *architecture,
        ("input", f"{height} × {width} pixels"),
        ("embedding", f"{info.embed_dim:,} numbers"),
        ("precision", info.precision),
        ("weights", info.source_sha256[:16]),
        ("fingerprint", info.fingerprint[:16]),
        *metric_rows(info.metrics),
    ]
