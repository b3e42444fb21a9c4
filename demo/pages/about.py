"""The About page: what the model is, what it must not be used for, and what happens to what a visitor hands in."""

import re
from pathlib import Path

import gradio as gr

from hat.console import metric_rows
from hat.io.artifact import ArtifactInfo
from hat.runtime import runtime_info

from ..app_state import AppState
from ..view.markup import escaped

LIMITS_OF_USE = (
    "Re-identification is biometric processing. It finds a person again by clothes and build, it errs, and it errs more for "
    "people who look alike to it. Do not use it to identify or track people without a legal basis and their knowledge, to "
    "decide anything about a person without human review, or for covert surveillance. In the European Union the GDPR and the "
    "AI Act apply."
)
"""What the model must not be used for, in the words of the project's front page."""

MAX_CARD_BYTES = 256 * 1024

_PRIVACY = (
    "What you hand in is read into memory, and the uploaded file is deleted at once. A query and its result belong to your "
    "page alone; they are in memory and nowhere else, and go when the demo ends, or when many others have come after you. "
    "Images that you add to a gallery are seen by everyone who uses this demo, until they are removed. The page asks no other "
    "server for anything, and no image and no embedding is logged."
)


def about_page(state: AppState) -> None:
    """Build the page."""
    info = runtime_info(state.embedder.runtime)
    with gr.Column(elem_classes="hat-text"):
        gr.HTML(
            '<h2 class="hat-title">What it must not be used for</h2>'
            f'<p>{LIMITS_OF_USE}</p><h2 class="hat-title">What happens to your images</h2><p>{_PRIVACY}</p>'
            f'<h2 class="hat-title">The model</h2>{_facts(info, state.embedder.runtime.name)}',
            apply_default_css=False,
        )
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


def _architecture(info: ArtifactInfo) -> list[tuple[str, str]]:
    if info.model is None:
        return [("adopted from", escaped(info.adopted.file if info.adopted else ""))]
    blocks = ", ".join(map(str, info.model.depths))
    return [("backbone", escaped(info.model.backbone.name)), ("transformer blocks", escaped(blocks))]


def _facts(info: ArtifactInfo, runtime_name: str) -> str:
    height, width = info.preprocessing.size
    rows = [
        ("name", escaped(info.name)),
        ("runs in", escaped(runtime_name)),
        *_architecture(info),
        ("input", f"{height} × {width} pixels"),
        ("embedding", f"{info.embed_dim:,} numbers"),
        ("precision", info.precision),
        ("weights", f"<code>{info.source_sha256[:16]}</code>"),
        ("fingerprint", f"<code>{info.fingerprint[:16]}</code>"),
    ]
    rows += [(escaped(label), escaped(value)) for label, value in metric_rows(info.metrics)]
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<dl class="hat-facts">{facts}</dl>'
