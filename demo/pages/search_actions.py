"""What happens on the Search page: taking a query, searching, looking closer at a match."""

import time
from typing import Any

import gradio as gr

from hat.data import read_image
from hat.errors import UsageError

from ..app_state import AppState
from ..events import clicked, event_data, typed_identity, whole_number
from ..ranking import SearchOptions, format_time, parse_time, rank
from ..session import QueryImage, Session, Upload
from ..uploads import files_at_hand, forget_files, reduce_image, uploaded_image
from ..view.cards import match_cards, match_details, outcome_summary, query_tiles, timing_line
from ..view.crop import crop_box_html, cropped
from ..view.markup import empty_state

WELCOME = empty_state(
    "Who are you looking for?",
    "Give a picture of one person, from head to foot. The gallery is then ranked by how similar its people look.",
)

Values = tuple[Any, ...]


class SearchActions:
    """Handlers of the Search page. Those that search take the page's fields last and give the values of its outputs.

    The fields are parsed, images read and the gallery searched before the session changes, so that a failure changes nothing.

    Args:
        state: What visitors share.
    """

    def __init__(self, state: AppState) -> None:
        self._state = state

    def upload(self, session: Session, paths: list[str] | None, adds: bool, *fields: Any) -> Values:
        """Read uploaded images, delete the files, and search: people become queries, a wide picture waits to be cropped."""
        at_hand = files_at_hand(paths)
        try:
            options = _options(fields) if adds else _options(fields, pid=None, camid=None)
            queries, photo = self._read(at_hand, len(session.queries) if adds else 0)
        finally:
            forget_files(at_hand)
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
        decode_s = time.perf_counter() - started
        query = self._state.query(f"person {sample.pid}, camera {sample.camid}", image, decode_s)
        return self._search(session, (query,), options, None)

    def take_out(self, session: Session, event: gr.EventData, *fields: Any) -> Values:
        """Take one image out of the query."""
        index = clicked(event)
        queries = tuple(query for place, query in enumerate(session.queries) if place != index)
        if queries:
            return self._search(session, queries, _options(fields), session.photo)
        session.forget_query()
        return self.shown(session)

    def use_crop(self, session: Session, event: gr.EventData, adds: bool, *fields: Any) -> Values:
        """Search for the person who was marked in a larger picture."""
        if session.photo is None:
            raise UsageError("there is no picture to crop: give one first")
        image = cropped(session.photo.image, event_data(event))
        self._check_count(len(session.queries) + 1 if adds else 1)
        options = _options(fields) if adds else _options(fields, pid=None, camid=None)
        query = self._state.query(session.photo.name, image, session.photo.decode_s)
        return self._search(session, (*session.queries, query) if adds else (query,), options, None)

    def search_again(self, session: Session, *fields: Any) -> Values:
        """Search with other options, or with what a visitor typed about the query."""
        return self._search(session, session.queries, _options(fields), session.photo)

    def choose(self, session: Session, event: gr.EventData) -> Values:
        """Look closer at a match."""
        session.chosen = clicked(event)
        return (self._details(session),)

    def shown(self, session: Session) -> Values:
        """Return the values of the page's outputs for a session."""
        outcome, photo = session.outcome, session.photo
        return (
            query_tiles(session.queries),
            gr.update(visible=photo is not None),
            "" if photo is None else crop_box_html(photo.image),
            _text(session.query_pid),
            _text(session.query_camid),
            "" if outcome is None else outcome_summary(outcome) + timing_line(outcome.timings),
            WELCOME if outcome is None else match_cards(outcome, session.chosen),
            self._details(session),
        )

    def filter_choices(self, session: Session) -> Values:
        """Return the values of the page's filters for the gallery that a session works with."""
        counts = self._state.gallery(session.gallery).counts()
        cameras = sorted(camid for camid in counts.by_camid if camid is not None)
        times = [format_time(time_s) for time_s in (counts.first_seen_s, counts.last_seen_s) if time_s is not None]
        return (
            gr.update(choices=[(f"camera {camid}", camid) for camid in cameras], value=[]),
            *(gr.update(visible=bool(times), placeholder=times[place] if times else "", value="") for place in (0, -1)),
        )

    def _read(self, paths: list[str], num_before: int) -> tuple[tuple[QueryImage, ...], Upload | None]:
        """Return the people in uploaded images as queries, and the one picture that has to be cropped first."""
        if not paths:
            raise UsageError("the image did not arrive: give it once more")
        limits = self._state.limits
        self._check_count(len(paths) + num_before)
        uploads = [uploaded_image(path, limits) for path in paths]
        photos = [upload for upload in uploads if _is_photo(*upload.image.size)]
        if len(photos) > 1:
            raise UsageError("several of these pictures are wide: give them one at a time, and mark the person in each")
        queries = tuple(self._state.query(*upload) for upload in uploads if not _is_photo(*upload.image.size))
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
        name = session.gallery or self._state.first_gallery
        outcome = rank(self._state.gallery(name), name, queries, options) if queries else None
        session.queries, session.query_pid, session.query_camid = queries, options.query_pid, options.query_camid
        session.outcome, session.photo, session.chosen = outcome, photo, 0
        return self.shown(session)

    def _details(self, session: Session) -> str:
        outcome = session.outcome
        if outcome is None or not 0 <= session.chosen < len(outcome.matches):
            return ""
        calibration = self._state.calibration(outcome.gallery)
        chance = ""
        if calibration is not None:
            rate = calibration.point_at(outcome.matches[session.chosen].similarity).false_match_rate
            share = f"{100 * rate:.2g} %" if rate else f"fewer than {100 * calibration.lowest_rate:.1g} %"
            chance = f"{share} of pairs of different people in this gallery look as similar"
        return match_details(outcome, session.chosen, chance)


def _options(fields: Values, **known: Any) -> SearchOptions:
    """Parse the page's fields; ``pid`` and ``camid`` replace what was typed about the query.

    Raises:
        UsageError: A field is wrong.
    """
    top, rerank, leave_out, cameras, since, until, pid, camid = fields
    labels = known or {"pid": typed_identity(pid), "camid": whole_number(camid, "a camera")}
    return SearchOptions(
        top=int(top),
        rerank=bool(rerank),
        leave_out_camera=bool(leave_out),
        camids=frozenset(int(camera) for camera in cameras or ()),
        since_s=parse_time(since or ""),
        until_s=parse_time(until or ""),
        query_pid=labels["pid"],
        query_camid=labels["camid"],
    )


def _is_photo(width: int, height: int) -> bool:
    """Return whether a picture is too wide to be of one person who stands or walks."""
    return width > 0.8 * height


def _text(label: object) -> str:
    return "" if label is None else str(label)
