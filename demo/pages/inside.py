"""The Look inside page: where the model looks in the query and in the chosen match."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import gradio as gr
from PIL import Image

from hat.data import decode_image
from hat.errors import UsageError
from hat.model import HAT
from hat.visual import branch_activations, cls_attention, color_table, colorize, overlay, scale_to_unit, token_maps

from ..app_state import AppState, Session
from ..events import Values, bind
from ..view.blocks import html_block
from ..view.markup import fragments, person_name

_TILE_HEIGHT = 256


@dataclass(frozen=True, eq=False)
class MapColumn:
    """One kind of map, of every image: a group of several, its own name, and a tile for each image."""

    group: str
    name: str
    tiles: tuple[Image.Image, ...]


def look_inside(model: HAT, images: Sequence[Image.Image]) -> list[MapColumn]:
    """Compute maps of every kind for several images of people; nothing else may run the model meanwhile.

    These are the images as the model gets them, class activation of the MFE and the DSA, the attention of each stage's CLS, and
    the averaged map of each stage. Every map is scaled to its own range.
    """
    height, width = model.preprocessing.size
    size = (max(1, round(_TILE_HEIGHT * width / height)), _TILE_HEIGHT)
    columns = [MapColumn("", "Image", tuple(image.convert("RGB").resize(size, Image.Resampling.LANCZOS) for image in images))]
    for name, maps in branch_activations(model, images).items():
        tiles = tuple(overlay(image, values, size) for image, values in zip(images, maps, strict=True))
        columns.append(MapColumn("class activation", "MFE" if name == "mfe" else "DSA", tiles))
    for name, maps in cls_attention(model, images).items():
        tiles = tuple(overlay(image, values, size) for image, values in zip(images, scale_to_unit(maps), strict=True))
        columns.append(MapColumn("attention of CLS", name.upper(), tiles))
    for name, maps in token_maps(model, images).items():
        tiles = tuple(colorize(values, size) for values in scale_to_unit(maps))
        columns.append(MapColumn("averaged map", name.upper(), tiles))
    return columns


def inside_page(state: AppState, session_state: gr.State, tab: Any, removed: Any) -> None:
    """Build the page; opening it looks into the match chosen on the Search page, which the event ``removed`` leaves without."""
    runtime = state.inspectable()
    if runtime is None:
        html_block(fragments("inside").exported())
        return
    with gr.Row(elem_classes="hat-controls"):
        match = gr.Dropdown(label="Match", choices=[], value=None, scale=0, min_width=340, elem_id="hat-match")
    maps = html_block(fragments("inside").nothing_yet(), elem_id="hat-maps")

    def look(session: Session, chosen: Any) -> Values:
        outcome = session.outcome
        if outcome is None or not session.queries or not outcome.matches:
            raise UsageError("there is no query and match yet: search on the Search page first")
        index = chosen if isinstance(chosen, int) and 0 <= chosen < len(outcome.matches) else 0
        record = outcome.matches[index].record
        images, labels = [session.queries[0].image], ["Query"]
        if record.thumbnail is not None:
            images.append(decode_image(record.thumbnail, "the match's picture"))
            labels.append(f"Rank {index + 1}, {person_name(record.pid)}")
        with state.embedder.lock:
            columns = look_inside(runtime.model, images)
        return (maps_html(columns, labels, is_missing=record.thumbnail is None),)

    def begin(session: Session) -> Values:
        outcome = session.outcome
        if outcome is None or not outcome.matches:
            return (gr.update(choices=[], value=None), fragments("inside").nothing_yet())
        choices = [
            (f"rank {rank}: {person_name(match.record.pid)}, similarity {match.similarity:.3f}", rank - 1)
            for rank, match in enumerate(outcome.matches, start=1)
        ]
        index = min(session.chosen, len(choices) - 1)
        return (gr.update(choices=choices, value=index), *look(session, index))

    bind(tab.select, begin, session_state, [], [match, maps])
    bind(removed.success, begin, session_state, [], [match, maps], show_progress="hidden")
    bind(match.input, look, session_state, [match], [maps])


def maps_html(columns: Sequence[MapColumn], labels: Sequence[str], *, is_missing: bool = False) -> str:
    """Return the maps as a table: a row for each image, columns in groups; ``is_missing`` where a match has no picture."""
    groups = [(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)]
    return str(fragments("inside").maps(columns, groups, labels, color_table()[::51].tolist(), is_missing))
