"""What happens on the Search page: taking a query, searching, looking closer at a match."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from hat.data import read_image
from hat.errors import UsageError

from .app_state import Workbench
from .events import clicked, event_data, whole_number
from .ranking import SearchOptions, format_time, parse_time, rank
from .session import Session
from .uploads import files_at_hand, forget_files, reduce_image, uploaded_image
from .view.cards import match_cards, match_details, outcome_summary, query_tiles, timing_line
from .view.crop import crop_box_html, cropped
from .view.markup import empty_state

__all__ = ["WELCOME", "SearchActions"]

WELCOME = empty_state(
    "Who are you looking for?",
    "Give a picture of one person, from head to foot. The gallery is then ranked by how alike its people look.",
)

Values = tuple[Any, ...]


class SearchActions:
    """Handlers of the Search page. Those that search take the page's options last and give the values of its outputs.

    Args:
        bench: What visitors work with.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def upload(self, state: Session, paths: list[str] | None, adds: bool, *chosen: Any) -> Values:
        """Read uploaded images, delete the files, and search: people become queries, a wide picture waits to be cropped."""
        at_hand = files_at_hand(paths)
        try:
            self._take(state, at_hand, adds)
        finally:
            forget_files(at_hand)
        return self._search(state, chosen, reads_labels=adds)

    def try_sample(self, state: Session, happened: gr.EventData, *chosen: Any) -> Values:
        """Search for one of the examples."""
        index = clicked(happened)
        if index >= len(self._bench.samples):
            raise UsageError("this example is not here any more: reload the page")
        sample = self._bench.samples[index]
        started = time.perf_counter()
        image = read_image(sample.path)
        decode_s = time.perf_counter() - started
        query = self._bench.query(f"person {sample.pid}, camera {sample.camid}", image, decode_s)
        state.forget_query()
        state.queries, state.query_pid, state.query_camid = (query,), sample.pid, sample.camid
        return self._search(state, chosen, reads_labels=False)

    def take_out(self, state: Session, happened: gr.EventData, *chosen: Any) -> Values:
        """Take one image out of the query."""
        index = clicked(happened)
        state.queries = tuple(query for place, query in enumerate(state.queries) if place != index)
        if not state.queries:
            state.forget_query()
        return self._search(state, chosen, reads_labels=bool(state.queries))

    def use_crop(self, state: Session, happened: gr.EventData, adds: bool, *chosen: Any) -> Values:
        """Search for the person who was marked in a larger picture."""
        if state.photo is None:
            raise UsageError("there is no picture to crop: give one first")
        image = cropped(state.photo, event_data(happened))
        self._check_count(len(state.queries) + 1 if adds else 1)
        query = self._bench.query(state.photo_name, image, state.photo_decode_s)
        queries = (*state.queries, query) if adds else (query,)
        if not adds:
            state.forget_query()
        state.queries, state.photo = queries, None
        return self._search(state, chosen, reads_labels=adds)

    def search_again(self, state: Session, *chosen: Any) -> Values:
        """Search with other options, or with what a visitor typed about the query."""
        return self._search(state, chosen, reads_labels=True)

    def choose(self, state: Session, happened: gr.EventData) -> Values:
        """Look closer at a match."""
        state.chosen = clicked(happened)
        return (self._details(state),)

    def shown(self, state: Session) -> Values:
        """Values of the page's outputs for the state that a session is in."""
        outcome, photo = state.outcome, state.photo
        return (
            query_tiles(state.queries),
            gr.update(visible=photo is not None),
            "" if photo is None else crop_box_html(photo),
            _text(state.query_pid),
            _text(state.query_camid),
            "" if outcome is None else outcome_summary(outcome) + timing_line(outcome.timings),
            WELCOME if outcome is None else match_cards(outcome, state.chosen),
            self._details(state),
        )

    def filter_choices(self, state: Session) -> Values:
        """Values of the page's filters for the gallery that a session works with."""
        counts = self._bench.gallery(state.gallery).counts()
        cameras = sorted(camid for camid in counts.by_camid if camid is not None)
        times = [format_time(time_s) for time_s in (counts.first_seen_s, counts.last_seen_s) if time_s is not None]
        return (
            gr.update(choices=[(f"camera {camid}", camid) for camid in cameras], value=[]),
            *(gr.update(visible=bool(times), placeholder=times[place] if times else "", value="") for place in (0, -1)),
        )

    def _take(self, state: Session, paths: list[str], adds: bool) -> None:
        if not paths:
            raise UsageError("the image did not arrive: give it once more")
        limits = self._bench.limits
        self._check_count(len(paths) + (len(state.queries) if adds else 0))
        read = [uploaded_image(path, limits) for path in paths]
        people = [one for one in read if not _is_photo(*one[1].size)]
        photos = [one for one in read if _is_photo(*one[1].size)]
        if len(photos) > 1:
            raise UsageError("several of these pictures are wide: give them one at a time, and mark the person in each")
        queries = tuple(self._bench.query(*one) for one in people)
        if not adds:
            state.forget_query()
        state.queries = (*state.queries, *queries)
        for name, photo, decode_s in photos:
            state.photo_name, state.photo_decode_s = name, decode_s
            state.photo = reduce_image(photo, limits.photo_pixels)

    def _check_count(self, count: int) -> None:
        most = self._bench.limits.query_images
        if count > most:
            raise UsageError(f"a query has at most {most} images of one person, got {count}")

    def _search(self, state: Session, chosen: Values, *, reads_labels: bool) -> Values:
        """Search for the session's query; ``reads_labels`` takes what is known of it from the page."""
        top, rerank, leave_out, cameras, since, until, pid, camid = chosen
        if reads_labels:
            state.query_pid, state.query_camid = whole_number(pid, "an identity"), whole_number(camid, "a camera")
        options = SearchOptions(
            top=int(top),
            rerank=bool(rerank),
            leave_out_camera=bool(leave_out),
            camids=frozenset(int(one) for one in cameras or ()),
            since_s=parse_time(since or ""),
            until_s=parse_time(until or ""),
            query_pid=state.query_pid,
            query_camid=state.query_camid,
        )
        state.chosen = 0
        name = state.gallery or self._bench.first_gallery
        state.outcome = rank(self._bench.gallery(name), name, state.queries, options) if state.queries else None
        return self.shown(state)

    def _details(self, state: Session) -> str:
        outcome = state.outcome
        if outcome is None or not 0 <= state.chosen < len(outcome.matches):
            return ""
        calibration = self._bench.calibration(outcome.gallery)
        chance = ""
        if calibration is not None:
            rate = calibration.false_match_rate_at(outcome.matches[state.chosen].similarity)
            share = f"{100 * rate:.2g} %" if rate else f"fewer than {100 * calibration.lowest_rate:.1g} %"
            chance = f"{share} of pairs of different people in this gallery look as alike"
        return match_details(outcome, state.chosen, chance)


def _is_photo(width: int, height: int) -> bool:
    """Whether a picture is too wide to be of one person who stands or walks."""
    return width > 0.8 * height


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
