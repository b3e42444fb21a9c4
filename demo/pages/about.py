"""The About page: what the model is, what it must not be used for, and what happens to what a visitor hands in."""

import re
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from hat.console import metric_rows
from hat.runtime import runtime_info

from ..app_state import AppState
from ..view.blocks import html_block
from ..view.markup import fragments

LIMITS_OF_USE = (
    "Re-identification is biometric processing. It finds a person again by clothes and build, it errs, and it errs more for "
    "people who look alike to it. Do not use it to identify or track people without a legal basis and their knowledge, to "
    "decide anything about a person without human review, or for covert surveillance. In the European Union the GDPR and the "
    "AI Act apply."
)
"""What the model must not be used for, in the words of the project's front page."""

MAX_CARD_BYTES = 256 * 1024


def about_page(state: AppState) -> None:
    """Build the page."""
    with gr.Column(elem_classes="hat-text"):
        html_block(fragments("about").about(Markup(LIMITS_OF_USE), _model_facts(state)))
        card = card_text(Path(state.model).expanduser())
        if card is not None:
            with gr.Accordion("Model card", open=False):
                gr.Markdown(card)


def card_text(model_path: Path) -> str | None:
    """Return the model card beside a checkpoint as Markdown that asks nobody for anything: no pictures and no raw HTML."""
    path = model_path / "MODEL_CARD.md"
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return None
    text = path.read_text(encoding="utf-8", errors="replace").replace("<", "&lt;")
    return re.sub(r"!\s*\[", "[", text)


def _model_facts(state: AppState) -> list[tuple[str, str]]:
    info = runtime_info(state.embedder.runtime)
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
