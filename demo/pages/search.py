"""The Search page: who is looked for, where, and who was found."""

import time
from typing import Any

import gradio as gr
from PIL import Image

from hat.console import share_text
from hat.data import read_image
from hat.data.images import IMAGE_SUFFIXES
from hat.errors import UsageError
from hat.serve.gallery.timestamps import format_timestamp, parse_timestamp

from ..app_state import AppState, Session
from ..events import CLICKS, Values, bind, clicked, event_data, typed_identity, whole_number
from ..ranking import MAX_TOP, Outcome, QueryImage, SearchOptions
from ..uploads import Upload, UploadLimits, received_files, reduce_image, uploaded_image
from ..view.blocks import CROP_BOX, html_block, text_field, upload_field
from ..view.markup import camera_name, fragments, jpeg_bytes, person_name

_MIN_CROP_SIDE = 16
_MAX_ATTRIBUTES = 12


def search_page(state: AppState, session_state: gr.State) -> tuple["SearchActions", list[Any], list[Any]]:
    """Build the page.

    Returns its handlers; the components that show a query and its result, whose values ``actions.shown`` gives; and those
    whose choices depend on the gallery, whose values ``actions.filter_choices`` gives.
    """
    view = fragments("search")
    with gr.Row(elem_classes="hat-columns"):
        with gr.Column(scale=0, min_width=320, elem_classes="hat-side"):
            files = upload_field("Images of one person", IMAGE_SUFFIXES, "hat-query-files")
            add = gr.Checkbox(label="Add to the query", value=False, container=False, elem_classes="hat-bare")
            tiles = html_block(js_on_load=CLICKS, elem_id="hat-query")
            with gr.Column(visible=False, elem_id="hat-crop", elem_classes="hat-panel") as crop_group:
                crop = html_block(js_on_load=CROP_BOX)
            samples = html_block(view.samples(state.samples), js_on_load=CLICKS, visible=bool(state.samples))
            with gr.Accordion("What is known of the query", open=False):
                with gr.Row():
                    pid, camid = text_field("Identity", 80), text_field("Camera", 12)
                html_block(view.hint())
        with gr.Column(min_width=320):
            with gr.Row(elem_classes="hat-controls"):
                top = gr.Slider(1, MAX_TOP, value=12, step=1, label="List length", min_width=180)
                with gr.Column(min_width=220, elem_classes="hat-switches"):
                    rerank = gr.Checkbox(label="Re-rank by common neighbors", value=False, container=False)
                    leave_out = gr.Checkbox(label="Leave out the query's own camera", value=True, container=False)
                    center = gr.Checkbox(label="Subtract each camera's mean", value=False, container=False, visible=False)
            with gr.Accordion("Cameras and time", open=False):
                cameras = gr.Dropdown(label="Only these cameras", multiselect=True, choices=[], value=[], elem_id="hat-cameras")
                with gr.Row():
                    since = text_field("Seen from (UTC)", 40, min_width=150)
                    until = text_field("Seen before (UTC)", 40, min_width=150)
            summary = html_block()
            cards = html_block(view.welcome(), js_on_load=CLICKS, elem_id="hat-results")
            details = html_block(elem_id="hat-details")
    actions = SearchActions(state)
    filters = [center, cameras, since, until]
    options = [top, rerank, leave_out, *filters, pid, camid]
    outputs = [tiles, crop_group, crop, pid, camid, summary, cards, details]

    uploaded = bind(files.upload, actions.upload, session_state, [files, add, *options], outputs)
    uploaded.then(None, None, files, js="() => null")  # the field is free again, also after a file that was refused
    bind(samples.select, actions.try_sample, session_state, options, outputs, reads_click=True)
    bind(tiles.delete, actions.take_out, session_state, options, outputs, reads_click=True)
    bind(crop.submit, actions.use_crop, session_state, options, outputs, reads_click=True)
    bind(cards.select, actions.choose, session_state, [], [details], reads_click=True, show_progress="hidden")
    for changed in (top.release, rerank.input, leave_out.input, center.input, cameras.input):
        bind(changed, actions.search_again, session_state, options, outputs)
    for typed in (since, until, pid, camid):
        bind(typed.submit, actions.search_again, session_state, options, outputs)
    return actions, outputs, filters


class SearchActions:
    """Handlers of the Search page. Those that search take the page's fields last and give the values of its outputs.

    The fields are parsed, images read and the gallery searched before the session changes, so that a failure changes nothing.
    """

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._view = fragments("search")

    def upload(self, session: Session, paths: list[str] | None, adds: bool, *fields: Any) -> Values:
        """Read uploaded images, delete the files, and search: people become queries, a larger picture waits to be cropped."""
        # What was typed about a query that is replaced is not about the new one.
        keeps_labels = adds or not (session.queries or session.photo)
        with received_files(paths) as at_hand:
            options = _options(fields) if keeps_labels else _options(fields, pid=None, camid=None)
            queries, photo = self._read(at_hand, len(session.queries) if adds else 0)
        # Told and not refused: a page may name a file again that was refused before, and deleted.
        if num_gone := len(paths or ()) - len(at_hand):
            gr.Warning(f"{num_gone} of {len(paths or ())} files did not arrive: the search is with the others.")
        if adds:
            queries, photo = (*session.queries, *queries), photo or session.photo
        return self._search(session, queries, options, photo)

    def try_sample(self, session: Session, event: gr.EventData, *fields: Any) -> Values:
        """Search for one of the examples."""
        index = clicked(event)
        if index >= len(self._state.samples):
            raise UsageError("this example is not here any more: reload the page")
        sample = self._state.samples[index]
        options = _options(fields, pid=sample.pid, camid=sample.camid)
        started = time.perf_counter()
        image = read_image(sample.path)
        spent = time.perf_counter() - started
        query = self._state.query(Upload(f"{person_name(sample.pid)}, {camera_name(sample.camid)}", image, spent))
        return self._search(session, (query,), options, None)

    def take_out(self, session: Session, event: gr.EventData, *fields: Any) -> Values:
        """Take one image out of the query."""
        index = clicked(event)
        queries = tuple(query for place, query in enumerate(session.queries) if place != index)
        if queries:
            return self._search(session, queries, _options(fields), session.photo)
        session.forget_query()
        return self.shown(session)

    def use_crop(self, session: Session, event: gr.EventData, *fields: Any) -> Values:
        """Search for the person who was marked in a larger picture, and in the images that came with it."""
        if session.photo is None:
            raise UsageError("there is no picture to crop: give one first")
        image = cropped(session.photo.image, event_data(event))
        self._check_count(len(session.queries) + 1)
        options = _options(fields)
        query = self._state.query(session.photo._replace(image=image))
        return self._search(session, (*session.queries, query), options, None)

    def search_again(self, session: Session, *fields: Any) -> Values:
        """Search with other options, or with what a visitor typed about the query."""
        return self._search(session, session.queries, _options(fields), session.photo)

    def choose(self, session: Session, event: gr.EventData) -> Values:
        """Look closer at a match."""
        session.chosen = clicked(event)
        return (self._details(session),)

    def shown(self, session: Session) -> Values:
        """Return the values of the page's outputs for a session."""
        outcome, view = session.outcome, self._view
        photo = None if session.photo is None else session.photo.image
        small = None if photo is None else jpeg_bytes(photo, max_height=900, max_width=900, quality=80)
        return (
            view.tiles(session.queries),
            gr.update(visible=photo is not None),
            "" if photo is None else view.crop_box(small, photo.width, photo.height),
            *("" if label is None else str(label) for label in (session.query_pid, session.query_camid)),
            "" if outcome is None else _summary(outcome),
            view.welcome() if outcome is None else view.matches(outcome, session.chosen),
            self._details(session),
        )

    def filter_choices(self, session: Session, *, keeps_values: bool = False) -> Values:
        """Return the values of the page's filters for the gallery that a session works with: as if new, or as they are set."""
        counts = self._state.gallery(session.gallery).counts()
        cameras = {camid: count for camid, count in counts.by_camid.items() if camid is not None}
        times = [format_timestamp(time_s) for time_s in (counts.first_seen_s, counts.last_seen_s) if time_s is not None]
        new = (
            gr.update(visible=any(count > 1 for count in cameras.values()), value=False),
            gr.update(choices=[(f"camera {camid}", camid) for camid in sorted(cameras)], value=[]),
            *(gr.update(visible=bool(times), placeholder=times[place] if times else "", value="") for place in (0, -1)),
        )
        if keeps_values:
            return tuple({name: value for name, value in update.items() if name != "value"} for update in new)
        return new

    def _read(self, paths: list[str], num_before: int) -> tuple[tuple[QueryImage, ...], Upload | None]:
        """Return the people in uploaded images as queries, and the one picture that has to be cropped first."""
        if not paths:
            raise UsageError("the image did not arrive: give it once more")
        limits = self._state.limits
        self._check_count(len(paths) + num_before)
        uploads = [uploaded_image(path, limits) for path in paths]
        photos = [upload for upload in uploads if _may_show_more(upload.image, limits)]
        if len(photos) > 1:
            raise UsageError(
                "several of these pictures are wide or large: give them one at a time, and mark the person in each"
            )
        queries = tuple(self._state.query(upload) for upload in uploads if upload not in photos)
        photo = photos[0]._replace(image=reduce_image(photos[0].image, limits.photo_pixels)) if photos else None
        return queries, photo

    def _check_count(self, count: int) -> None:
        most = self._state.limits.query_images
        if count > most:
            raise UsageError(f"a query has at most {most} images of one person, got {count}")

    def _search(
        self, session: Session, queries: tuple[QueryImage, ...], options: SearchOptions, photo: Upload | None
    ) -> Values:
        """Search, and only then make all of it the session's."""
        outcome = self._state.rank(session.gallery, queries, options) if queries else None
        session.queries, session.query_pid, session.query_camid = queries, options.query_pid, options.query_camid
        session.outcome, session.photo, session.chosen = outcome, photo, 0
        return self.shown(session)

    def _details(self, session: Session) -> str:
        """Return the metadata of the chosen match, with the meaning of its similarity where that was calibrated."""
        outcome = session.outcome
        if outcome is None or not 0 <= session.chosen < len(outcome.matches):
            return ""
        calibration = None if outcome.options.center_cameras else self._state.calibration(outcome.gallery)
        chance = ""
        if calibration is not None:
            rate = calibration.point_at(outcome.matches[session.chosen].similarity).false_match_rate
            share = share_text(rate) if rate else f"fewer than {share_text(calibration.lowest_rate)}"
            chance = f" · {share} of pairs of different people in this gallery look as similar"
        return str(self._view.details(_match_metadata(outcome, session.chosen, chance)))


def _may_show_more(image: Image.Image, limits: UploadLimits) -> bool:
    # A picture of one person who stands or walks is higher than wide, and seldom of more pixels than a query keeps.
    return image.width > 0.8 * image.height or image.width * image.height > limits.query_pixels


def cropped(photo: Image.Image, box: Any) -> Image.Image:
    """Return the part of a picture that a page's box marks: ``left``, ``top``, ``right``, ``bottom`` as shares in [0, 1]."""
    sent = box if isinstance(box, dict) else {}
    left, right = (round(_share(sent.get(side)) * photo.width) for side in ("left", "right"))
    top, bottom = (round(_share(sent.get(side)) * photo.height) for side in ("top", "bottom"))
    if min(right - left, bottom - top) < _MIN_CROP_SIDE:
        raise UsageError(
            f"the box is too small: it has to hold at least {_MIN_CROP_SIDE} x {_MIN_CROP_SIDE} pixels of the picture"
        )
    return photo.crop((left, top, right, bottom))


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError("the page sent a box that means nothing: mark the person again")
    return float(value)


def _options(fields: Values, **known: Any) -> SearchOptions:
    """Parse the page's fields; ``pid`` and ``camid`` replace what was typed about the query."""
    top, rerank, leave_out, center, cameras, since, until, pid, camid = fields
    labels = known or {"pid": typed_identity(pid), "camid": whole_number(camid, "a camera")}
    return SearchOptions(
        top=int(top),
        rerank=bool(rerank),
        center_cameras=bool(center),
        leave_out_camera=bool(leave_out),
        camids=frozenset(int(camera) for camera in cameras or ()),
        since_s=parse_timestamp(since, "Seen from") if (since or "").strip() else None,
        until_s=parse_timestamp(until, "Seen before") if (until or "").strip() else None,
        query_pid=labels["pid"],
        query_camid=labels["camid"],
    )


def _summary(outcome: Outcome) -> str:
    """Return what was found, in a sentence with what re-ranking changed, and how long each step took."""
    shown, parts = len(outcome.matches), []
    if outcome.options.query_pid is not None and shown:
        parts.append(f"{outcome.num_right} of {shown} show {person_name(outcome.options.query_pid)}")
    if "re-rank" in outcome.seconds:
        moved = sum(match.rank_before not in (None, rank) for rank, match in enumerate(outcome.matches, start=1))
        came = sum(match.rank_before is not None and match.rank_before > shown for match in outcome.matches)
        change = f"re-ranking moved {moved} of {shown}" if moved else "re-ranking changed nothing"
        parts.append(change + (f", {came} from below the list" if came else ""))
    spent = [(step, f"{1000 * s:.0f} ms" if s >= 0.01 else f"{1000 * s:.1f} ms") for step, s in outcome.seconds.items()]
    return str(fragments("search").summary(parts, shown, outcome.num_searched, spent))


def _match_metadata(outcome: Outcome, chosen: int, chance: str) -> list[tuple[str, Any]]:
    match = outcome.matches[chosen]
    record, before = match.record, match.rank_before
    kind = "similarity, cameras' means subtracted" if outcome.options.center_cameras else "similarity"
    rows: list[tuple[str, Any]] = [
        ("rank", f"{chosen + 1}" + (f", by similarity alone {before}" if before not in (None, chosen + 1) else "")),
        (kind, f"{match.similarity:.4f}{chance}"),
    ]
    if match.distance is not None:
        rows.append(("re-ranked distance", f"{match.distance:.4f}"))
    rows += [("identity", person_name(record.pid)), ("camera", "unknown" if record.camid is None else record.camid)]
    if record.time_s is not None:
        rows.append(("seen", f"{format_timestamp(record.time_s)} UTC"))
    for name, value in list(record.attributes.items())[:_MAX_ATTRIBUTES]:
        rows.append((name, ("yes" if value else "no") if isinstance(value, bool) else value))
    rows += [("source", record.source), ("enrolled", f"{format_timestamp(record.enrolled_s)} UTC")]
    return [*rows, ("record", f"#{record.id}")]
