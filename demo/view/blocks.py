"""Look of the pages: a theme of two grays and one blue, the style sheet beside this file, and the blocks they are built of."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

STYLE_SHEET = (files(__package__) / "page.css").read_text(encoding="utf-8")

CROP_BOX = (files(__package__) / "crop_box.js").read_text(encoding="utf-8")

PAGE_HEAD = "<style>@media (max-width: 600px) { .gradio-container > .main { padding: 12px 14px !important; } }</style>"
"""A rule about what lies around the page, which the style sheet cannot reach."""

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_BLUE = "#eef3fe #dbe5fd #bccffb #90aef6 #6389ee #3f68dd #2d52c2 #26449e #233c80 #21366a #172244"
_GRAY = "#f8f9fb #f0f2f5 #e2e5ea #cbd0d8 #98a0ad #667080 #4a5361 #363e4a #232932 #171b22 #0f1217"

_COLORS = {
    "body_background_fill": ("*neutral_50", "*neutral_950"),
    "body_text_color": ("*neutral_900", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_600", "#a3abb8"),
    "background_fill_primary": ("#ffffff", "*neutral_900"),
    "background_fill_secondary": ("*neutral_50", "*neutral_800"),
    "border_color_primary": ("*neutral_200", "*neutral_800"),
    "block_background_fill": ("#ffffff", "*neutral_900"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("*neutral_600", "#a3abb8"),
    "block_title_text_color": ("*neutral_700", "*neutral_200"),
    "input_background_fill": ("#ffffff", "*neutral_950"),
    "input_placeholder_color": ("*neutral_500", "*neutral_400"),
    "input_border_color": ("*neutral_300", "*neutral_700"),
    "checkbox_border_color": ("*neutral_500", "*neutral_500"),
    "checkbox_background_color_selected": ("*primary_600", "*primary_500"),
    "checkbox_border_color_selected": ("*primary_600", "*primary_500"),
    "slider_color": ("*primary_600", "*primary_400"),
    "button_primary_background_fill": ("*primary_600", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_700"),
    "button_primary_border_color": ("*primary_600", "*primary_600"),
    "button_secondary_background_fill": ("#ffffff", "*neutral_800"),
    "button_secondary_background_fill_hover": ("*neutral_100", "*neutral_700"),
    "button_secondary_border_color": ("*neutral_300", "*neutral_700"),
    "button_secondary_text_color": ("*neutral_800", "*neutral_100"),
    "button_cancel_background_fill": ("#b3261e", "#b3261e"),
    "button_cancel_background_fill_hover": ("#93201a", "#93201a"),
    "button_cancel_border_color": ("#b3261e", "#b3261e"),
    "button_cancel_text_color": ("#ffffff", "#ffffff"),
}
"""Differences from the library's base theme, in light and in dark."""


def page_theme() -> Any:
    """Return the theme of the page; it names no font that would have to be fetched."""
    blue, gray = gr.themes.Color(*_BLUE.split()), gr.themes.Color(*_GRAY.split())
    theme = gr.themes.Base(primary_hue=blue, secondary_hue=blue, neutral_hue=gray, font=_FONT, font_mono=_MONO)
    light = {name: color for name, (color, _) in _COLORS.items()}
    dark = {f"{name}_dark": color for name, (_, color) in _COLORS.items()}
    return theme.set(**light, **dark, block_label_border_width="0px", input_border_width="1px")


def html_block(value: str = "", **options: Any) -> gr.HTML:
    """Return a block of our own markup, which the page's style sheet alone gives its looks."""
    return gr.HTML(value, apply_default_css=False, **options)


def text_field(label: str, max_length: int, value: str = "", *, min_width: int = 100) -> gr.Textbox:
    """Return a field of one line."""
    return gr.Textbox(value, label=label, max_lines=1, max_length=max_length, min_width=min_width)


def upload_field(label: str, endings: Sequence[str], elem_id: str, *, is_single: bool = False) -> gr.File:
    """Return a field that files are dropped on."""
    return gr.File(
        label=label,
        file_count="single" if is_single else "multiple",
        file_types=list(endings),
        height=130 if is_single else 150,
        elem_id=elem_id,
        elem_classes="hat-drop",
    )
