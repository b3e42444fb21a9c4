"""How the page looks: a theme of two grays and one blue, system fonts alone, and the style sheet beside this file."""

from importlib.resources import files
from typing import Any

import gradio as gr

STYLE_SHEET = (files(__package__) / "page.css").read_text(encoding="utf-8")

PAGE_HEAD = "<style>@media (max-width: 600px) { .gradio-container > .main { padding: 12px 14px !important; } }</style>"
"""A rule about what lies around the page, which the style sheet cannot reach."""

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_BLUE = [
    "#eef3fe", "#dbe5fd", "#bccffb", "#90aef6", "#6389ee", "#3f68dd",
    "#2d52c2", "#26449e", "#233c80", "#21366a", "#172244",
]  # fmt: skip
_GRAY = [
    "#f8f9fb", "#f0f2f5", "#e2e5ea", "#cbd0d8", "#98a0ad", "#667080",
    "#4a5361", "#363e4a", "#232932", "#171b22", "#0f1217",
]  # fmt: skip


def page_theme() -> Any:
    """Return the theme of the page; it names no font that would have to be fetched."""
    color = gr.themes.Color
    theme = gr.themes.Base(
        primary_hue=color(*_BLUE, name="hat-blue"),
        secondary_hue=color(*_BLUE, name="hat-blue-2"),
        neutral_hue=color(*_GRAY, name="hat-gray"),
        font=_FONT,
        font_mono=_MONO,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="#a3abb8",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="#a3abb8",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="#a3abb8",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_950",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_shadow="none",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_500",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_border_color_selected="*primary_600",
        checkbox_border_color_selected_dark="*primary_500",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        button_border_width="1px",
        button_large_radius="*radius_md",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_border_color="*primary_600",
        button_primary_border_color_dark="*primary_600",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_cancel_background_fill="#b3261e",
        button_cancel_background_fill_hover="#93201a",
        button_cancel_background_fill_dark="#b3261e",
        button_cancel_background_fill_hover_dark="#93201a",
        button_cancel_border_color="#b3261e",
        button_cancel_border_color_dark="#b3261e",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
    )
