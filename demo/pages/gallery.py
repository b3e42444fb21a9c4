"""The Gallery page: what is enrolled, adding to it, and removing from it for good."""

import time
from pathlib import Path
from typing import Any

import gradio as gr

from hat.data.images import IMAGE_SUFFIXES
from hat.errors import HatError, UsageError
from hat.serve import Filter
from hat.serve.enroll.enrolling import Enrollment, enroll_images
from hat.serve.gallery.timestamps import format_timestamp

from ..app_state import AppState, Session
from ..events import CLICKS, Values, bind, clicked, event_data, typed_identity, whole_number
from ..people import THUMBNAIL_HEIGHT
from ..uploads import received_files, upload_items
from ..view.blocks import html_block, text_field, upload_field
from ..view.markup import camera_name, fragments, person_name, plural

PAGE_SIZE = 35
"""Records that are shown at once."""

_ALL = ""
_SHOWN_BAD = 5
_MOST_BARS = 5
_DAY_S = 86_400.0


def gallery_page(
    state: AppState, session_state: gr.State
) -> tuple["GalleryActions", list[Any], tuple[Any, Any, Any], tuple[Any, Any]]:
    """Build the page.

    Returns its handlers; the components that show the gallery, whose values ``actions.shown`` gives; what another gallery is
    had by: the name of a new one, the button that makes it, and the field for a gallery's file; and the events that change a
    gallery, adding and removing, to be followed by others.
    """
    view, writable = fragments("gallery"), not state.read_only
    with gr.Row(elem_classes="hat-columns"):
        with gr.Column(scale=0, min_width=320, elem_classes="hat-side", visible=writable):
            with gr.Column(elem_classes=["hat-panel", "hat-plain"]):
                html_block(view.heading("Add images"))
                files = upload_field("Images, or a zip file of them", [*IMAGE_SUFFIXES, ".zip"], "hat-enroll-files")
                with gr.Row():
                    pid, camid = text_field("Identity", 80), text_field("Camera", 12)
                labels_in_names = gr.Checkbox(label="Names like 0002_c1s1 tell both", value=True, container=False)
                add = gr.Button("Add to the gallery", variant="primary", elem_id="hat-enroll")
                enrolled = html_block(elem_id="hat-enrolled")
            with gr.Accordion("Another gallery", open=False):
                new_name = text_field("Name of a new, empty gallery", 60)
                make = gr.Button("Make it")
                gallery_file = upload_field("Or open a .gallery file", [".gallery"], "hat-gallery-file", is_single=True)
                html_block(view.temporary())
        with gr.Column(min_width=320):
            overview = html_block()
            with gr.Row(elem_classes="hat-controls"):
                person = gr.Dropdown(label="Person", choices=[], value=None, min_width=160, elem_id="hat-person")
                camera = gr.Dropdown(label="Camera", choices=[], value=None, min_width=160)
            with gr.Accordion("Remove for good", open=False, visible=writable, elem_id="hat-removal", elem_classes="hat-plain"):
                html_block(view.removal())
                with gr.Row():
                    ask_marked, ask_person, ask_old = (
                        gr.Button(name, size="md", min_width=130) for name in ("Marked images", "Person shown", "Old images")
                    )
                    days = text_field("Old after (days)", 6, "30", min_width=130)
                with gr.Column(visible=False, elem_id="hat-confirm") as confirm:
                    question = html_block()
                    with gr.Row():
                        yes = gr.Button("Remove for good", variant="stop", size="md", min_width=120)
                        no = gr.Button("Keep", size="md", min_width=120)
                removed = html_block(elem_id="hat-removed")
            records = html_block(js_on_load=CLICKS, elem_id="hat-records")
    actions = GalleryActions(state)
    outputs = [overview, person, camera, records, confirm]

    bind(records.submit, actions.turn, session_state, [person, camera], [records], reads_click=True)
    for choice in (person, camera):
        bind(choice.input, actions.browse, session_state, [person, camera], [records])
    # One at a time and in their order, so that a question asked right after a click knows of it.
    in_order: dict[str, Any] = {"concurrency_id": "removal", "concurrency_limit": 1}
    bind(records.select, actions.mark, session_state, [], [], reads_click=True, show_progress="hidden", **in_order)
    progress: dict[str, Any] = {"shows_progress": True, "show_progress_on": [enrolled]}
    added = bind(add.click, actions.add, session_state, [files, pid, camid, labels_in_names], [enrolled, *outputs], **progress)
    added.then(None, None, files, js="() => null")
    asked = [confirm, question, removed]
    bind(ask_marked.click, actions.ask_marked, session_state, [], asked, **in_order)
    bind(ask_person.click, actions.ask_person, session_state, [person], asked, **in_order)
    bind(ask_old.click, actions.ask_old, session_state, [days], asked, **in_order)
    bind(no.click, actions.keep, session_state, [], asked, **in_order)
    gone = bind(yes.click, actions.remove, session_state, [], [removed, *outputs], **in_order)
    return actions, outputs, (new_name, make, gallery_file), (added, gone)


class GalleryActions:
    """Handlers of the Gallery page."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._view = fragments("gallery")

    def shown(self, session: Session) -> Values:
        """Return values of the page's outputs for the gallery that a session works with, from its first record on."""
        counts = self._state.gallery(session.gallery).counts()
        session.marked, session.removal = set(), {}
        # Numbers first, then names.
        people = sorted((pid for pid in counts.by_pid if pid is not None), key=lambda pid: (isinstance(pid, str), pid))
        cameras = sorted(camid for camid in counts.by_camid if camid is not None)
        by_person = [(f"{person_name(pid)} ({counts.by_pid[pid]:,})", str(pid)) for pid in people]
        by_camera = [(f"camera {camid} ({counts.by_camid[camid]:,})", str(camid)) for camid in cameras]
        return (
            self._overview(session),
            gr.update(choices=[("everybody", _ALL), *by_person], value=_ALL),
            gr.update(choices=[("all cameras", _ALL), *by_camera], value=_ALL),
            self._records(session, _ALL, _ALL, 1),
            gr.update(visible=False),
        )

    def browse(self, session: Session, person: Any, camera: Any) -> Values:
        """Show the first records of a person or a camera."""
        return (self._records(session, person, camera, 1),)

    def turn(self, session: Session, event: gr.EventData, person: Any, camera: Any) -> Values:
        """Turn to another page of them."""
        return (self._records(session, person, camera, clicked(event)),)

    def mark(self, session: Session, event: gr.EventData) -> Values:
        """Mark a record for removal, or take the mark back."""
        index = clicked(event)
        session.marked = session.marked | {index} if event_data(event).get("pressed") else session.marked - {index}
        return ()

    def add(
        self, session: Session, progress: Any, paths: list[str] | None, pid: Any, camid: Any, labels_in_names: bool
    ) -> Values:
        """Enroll uploaded images and delete the files."""
        with received_files(paths) as at_hand:
            if gone := set(paths or ()) - set(at_hand):
                given = plural(len(paths or ()), "file")
                raise UsageError(f"{len(gone)} of {given} are not here any more: give all of them again")
            done = self._enroll(session, progress, at_hand, pid, camid, labels_in_names)
        kept = f", {len(done.conflicts):,} with other labels, which stay: `hat gallery label` changes them"
        known = f", {done.num_known:,} known already{kept if done.conflicts else ''}" if done.num_known else ""
        message = self._view.enrollment(
            f"{plural(done.num_added, 'image')} added{known}.",
            "good" if (done.num_added or not done.bad) and not done.conflicts else "bad",
            [(Path(source).name, reason) for source, reason in done.bad[:_SHOWN_BAD]],
            len(done.bad) - _SHOWN_BAD,
        )
        return (message, *self.shown(session))

    def ask_marked(self, session: Session) -> Values:
        """Ask whether the marked records are to be removed."""
        ids = sorted(session.marked & set(self._state.gallery(session.gallery).ids().tolist()))
        return self._ask(session, {"ids": ids}, len(ids), plural(len(ids), "marked image"), "mark some images first")

    def ask_person(self, session: Session, person: Any) -> Values:
        """Ask whether all records of the person who is shown are to be removed."""
        pid = typed_identity(person)
        if pid is None:
            raise UsageError("choose a person above first")
        count = len(self._state.gallery(session.gallery).ids(Filter(pids=frozenset({pid}))))
        what = f"{plural(count, 'image')}, all of {person_name(pid)}"
        return self._ask(session, {"pid": pid}, count, what, "this person is not enrolled any more")

    def ask_old(self, session: Session, days: Any) -> Values:
        """Ask whether the records that were enrolled long ago are to be removed."""
        num_days = whole_number(days, "a number of days")
        if num_days is None:
            raise UsageError("say after how many days an image is old")
        before = time.time() - _DAY_S * num_days
        count = sum(record.enrolled_s < before for record in self._state.gallery(session.gallery).records())
        what = f"{plural(count, 'image')} that were enrolled more than {plural(num_days, 'day')} ago"
        return self._ask(session, {"enrolled_before_s": before}, count, what, "no image is that old")

    def keep(self, session: Session) -> Values:
        """Remove nothing."""
        session.removal = {}
        return (gr.update(visible=False), "", "")

    def remove(self, session: Session) -> Values:
        """Remove what was asked for, and every trace of it in the gallery's file."""
        self._check_writable()
        condition, session.removal = session.removal, {}
        if not condition:
            raise UsageError("there is nothing to remove any more")
        gallery = self._state.gallery(session.gallery)
        count = gallery.remove(**condition)
        self._state.forget_embeddings(session.gallery)
        session.forget_query()
        left, kind = "nothing of them is left in the gallery's file.", "good"
        try:
            gallery.vacuum()
        except HatError as error:  # they are removed all the same
            left, kind = f"the file could not be rewritten yet: {error}", "bad"
        notice = fragments("components").notice(f"{plural(count, 'image')} removed; {left}", kind)
        return (notice, *self.shown(session))

    def _ask(self, session: Session, condition: dict[str, Any], count: int, what: str, reason: str) -> Values:
        self._check_writable()
        if not count:
            raise UsageError(f"there is nothing to remove: {reason}")
        session.removal = condition
        question = fragments("components").notice(f"Remove {what}? This cannot be undone.", "bad")
        return (gr.update(visible=True), question, "")

    def _check_writable(self) -> None:
        if self._state.read_only:
            raise UsageError("this demo is read-only: nothing can be changed")

    def _enroll(
        self, session: Session, progress: Any, paths: list[str], pid: Any, camid: Any, labels_in_names: bool
    ) -> Enrollment:
        self._check_writable()
        if not paths:
            raise UsageError("there is no image yet: choose some, or a zip file of them")
        items = upload_items(
            paths,
            pid=typed_identity(pid),
            camid=whole_number(camid, "a camera"),
            parse_labels_from_names=bool(labels_in_names),
            limits=self._state.limits,
        )
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress((done, len(items)), desc="Embedding", unit="images")

        advance(0)
        gallery = self._state.gallery(session.gallery)
        return enroll_images(gallery, self._state.embedder, items, thumbnail_height=THUMBNAIL_HEIGHT, progress=advance)

    def _overview(self, session: Session) -> str:
        """Numbers and bars of a gallery, and how long it lasts."""
        gallery = self._state.gallery(session.gallery)
        counts = gallery.counts()
        people = {person_name(pid): count for pid, count in counts.by_pid.items() if pid is not None}
        cameras = {camid: count for camid, count in counts.by_camid.items() if camid is not None}
        nouns = (("image", "images"), ("person", "people"), ("camera", "cameras"))
        totals = (counts.num_records, len(people), len(cameras))
        numbers = [(f"{total:,}", one if total == 1 else many) for total, (one, many) in zip(totals, nouns, strict=True)]
        notes = []
        if counts.first_seen_s is not None and counts.last_seen_s is not None:
            notes.append(f"seen {format_timestamp(counts.first_seen_s)} to {format_timestamp(counts.last_seen_s)} UTC")
        is_kept = self._state.is_kept(session.gallery)
        notes.append("kept until they are removed" if is_kept else "in a temporary file that goes with the demo")
        if unknown := counts.by_pid.get(None, 0):
            notes.append(f"{plural(unknown, 'image')} of unknown people")
        by_camera = {camera_name(camid): cameras[camid] for camid in sorted(cameras)}
        if unknown := counts.by_camid.get(None, 0):
            by_camera["unknown"] = unknown
        most_first = dict(sorted(people.items(), key=lambda one: -one[1]))
        return str(self._view.overview(gallery.binding, numbers, notes, _bars(by_camera), _bars(most_first)))

    def _records(self, session: Session, person: Any, camera: Any, page: int) -> str:
        gallery = self._state.gallery(session.gallery)
        pid, camid = typed_identity(person), whole_number(camera, "a camera")
        ids = gallery.ids(Filter.of(pids=None if pid is None else [pid], camids=None if camid is None else [camid]))
        num_pages = max(1, -(-len(ids) // PAGE_SIZE))
        page = min(max(1, page), num_pages)
        start = (page - 1) * PAGE_SIZE
        records = self._state.pictured(session.gallery, gallery.get(ids[start : start + PAGE_SIZE].tolist(), thumbnails=True))
        span = f"{start + 1:,} to {start + len(records):,} of {plural(len(ids), 'image')}"
        return str(self._view.records(records, session.marked, not self._state.read_only, span, page, num_pages))


def _bars(counts: dict[str, int]) -> tuple[list[tuple[str, float, str, bool]], str]:
    """Return the first few counts as bars, the largest of all as the whole width; and how many more there are."""
    most, num_more = max(counts.values(), default=1), len(counts) - _MOST_BARS
    bars = [(name, count / most, f"{count:,}", False) for name, count in list(counts.items())[:_MOST_BARS]]
    return bars, f"and {num_more:,} more" if num_more > 0 else ""
