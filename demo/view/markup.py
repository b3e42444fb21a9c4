"""Pieces of HTML. Whatever did not come from this package's own code passes `escaped` on its way into the page."""

import base64
import html
import io

from PIL import Image

MAX_TEXT = 400
"""Longest text of a record that is shown, in characters; a file's name has no business being longer."""

# A page's template engines look for braces and dollars; as references they are text wherever they land.
_TEMPLATE_SIGNS = {ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"}


def escaped(text: object) -> str:
    """Return text as text: safe between tags and in a quoted attribute, without control characters, of bounded length."""
    shown = "".join(character if character.isprintable() else " " for character in str(text)[: MAX_TEXT + 1])
    if len(shown) > MAX_TEXT:
        shown = shown[: MAX_TEXT - 1] + "…"
    return html.escape(shown, quote=True).translate(_TEMPLATE_SIGNS)


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a URI that holds it, so that a page shows it and no file is written or served."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def jpeg_bytes(image: Image.Image, *, max_height: int = 256, max_width: int = 512, quality: int = 88) -> bytes:
    """Encode an image, made smaller where it is larger than a page needs; proportions are kept."""
    rgb = image.convert("RGB")
    scale = min(1.0, max_height / rgb.height, max_width / rgb.width)
    if scale < 1:
        size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    rgb.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: "1 image", "1,204 images", "2 people"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def notice(text: str, *, kind: str = "quiet") -> str:
    """Return a sentence in a box: ``"quiet"``, ``"good"`` or ``"bad"``; the text is trusted markup."""
    return f'<p class="hat-notice hat-{kind}" role="status">{text}</p>'


def empty_state(title: str, text: str) -> str:
    """Return what stands where there is nothing yet, and what to do about it; both are trusted markup."""
    return f'<div class="hat-empty"><p class="hat-empty-title">{title}</p><p>{text}</p></div>'


def table(columns: list[str], rows: list[list[str]], *, caption: str, numeric: frozenset[int] = frozenset()) -> str:
    """Return a table that scrolls sideways where the page is narrow.

    Args:
        columns: Headings, trusted markup.
        rows: Cells, trusted markup.
        caption: What the table holds, for those who hear the page; not shown.
        numeric: Columns whose cells stand to the right.
    """

    def cell(tag: str, place: int, content: str) -> str:
        kind = ' class="hat-number"' if place in numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    head = "".join(cell("th", place, content) for place, content in enumerate(columns))
    body = "".join(f"<tr>{''.join(cell('td', place, content) for place, content in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="hat-scroll" tabindex="0" role="region" aria-label="{caption}"><table class="hat-table">'
        f'<caption class="hat-unseen">{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
