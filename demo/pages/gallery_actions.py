"""What happens on the Gallery page: looking through records, adding images, removing records for good."""

import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt

from hat.errors import UsageError
from hat.serve import Filter, Gallery
from hat.serve.enroll.enrolling import Enrollment, enroll_images
from hat.serve.gallery.identities import Identity

from ..app_state import AppState
from ..events import clicked, event_data, typed_identity, whole_number
from ..session import Session
from ..uploads import files_at_hand, forget_files, upload_items
from ..view.cards import person_name, record_cards
from ..view.gallery_overview import gallery_overview
from ..view.markup import empty_state, escaped, notice, plural

PAGE_SIZE = 35
"""Records that are shown at once."""

THUMBNAIL_HEIGHT = 256

_ALL = ""
_SHOWN_BAD = 5
_DAY_S = 86_400.0

Values = tuple[Any, ...]


class GalleryActions:
    """Handlers of the Gallery page.

    Args:
        state: What visitors work with.
    """

    def __init__(self, state: AppState) -> None:
        self._state = state

    def shown(self, session: Session) -> Values:
        """Return values of the page's outputs for the gallery that a session works with, from its first record on."""
        gallery = self._state.gallery(session.gallery)
        counts = gallery.counts()
        session.marked, session.removal = set(), {}
        # Numbers first, then names.
        people = sorted((pid for pid in counts.by_pid if pid is not None), key=lambda pid: (isinstance(pid, str), pid))
        cameras = sorted(camid for camid in counts.by_camid if camid is not None)
        by_person = [(f"{person_name(pid)} ({counts.by_pid[pid]:,})", str(pid)) for pid in people]
        by_camera = [(f"camera {camid} ({counts.by_camid[camid]:,})", str(camid)) for camid in cameras]
        return (
            gallery_overview(counts, gallery, is_kept=self._state.is_kept(session.gallery)),
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
        at_hand = files_at_hand(paths)
        try:
            done = self._enroll(session, progress, at_hand, pid, camid, labels_in_names)
        finally:
            forget_files(at_hand)
        return (_enrollment_notice(done), *self.shown(session))

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
        what = f"{plural(count, 'image')}, all of {escaped(person_name(pid))}"
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
        gallery.vacuum()
        self._state.forget_embeddings(session.gallery)
        session.forget_query()
        text = notice(f"{plural(count, 'image')} removed; nothing of them is left in the gallery's file.", kind="good")
        return (text, *self.shown(session))

    def _ask(self, session: Session, condition: dict[str, Any], count: int, what: str, reason: str) -> Values:
        self._check_writable()
        if not count:
            raise UsageError(f"there is nothing to remove: {reason}")
        session.removal = condition
        return (gr.update(visible=True), notice(f"Remove {what}? This cannot be undone.", kind="bad"), "")

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

    def _records(self, session: Session, person: Any, camera: Any, page: int) -> str:
        gallery = self._state.gallery(session.gallery)
        ids = _shown_ids(gallery, typed_identity(person), whole_number(camera, "a camera"))
        if not len(ids):
            return empty_state("Nobody is enrolled here yet", "Add images of people, or choose another camera or person.")
        num_pages = -(-len(ids) // PAGE_SIZE)
        page = min(max(1, page), num_pages)
        start = (page - 1) * PAGE_SIZE
        records = gallery.get([int(one) for one in ids[start : start + PAGE_SIZE]], thumbnails=True)
        span = f"{start + 1:,} to {start + len(records):,} of {plural(len(ids), 'image')}"
        cards = record_cards(records, session.marked, can_mark=not self._state.read_only)
        return f'<p class="hat-summary" role="status">{span}</p>{cards}{_pager(page, num_pages)}'


def _shown_ids(gallery: Gallery, pid: Identity | None, camid: int | None) -> npt.NDArray[np.int64]:
    pids = None if pid is None else frozenset({pid})
    return gallery.ids(Filter(pids=pids, camids=None if camid is None else frozenset({camid})))


def _pager(page: int, num_pages: int) -> str:
    """Buttons to the pages before and after this one."""
    if num_pages == 1:
        return ""
    buttons = [
        f'<button type="button" class="hat-button" data-event="submit" data-index="{target}"'
        f"{'' if 1 <= target <= num_pages else ' disabled'}>{name}</button>"
        for target, name in ((page - 1, "Previous"), (page + 1, "Next"))
    ]
    return f'<div class="hat-pager">{buttons[0]}<span>page {page:,} of {num_pages:,}</span>{buttons[1]}</div>'


def _enrollment_notice(done: Enrollment) -> str:
    parts = [f"{plural(done.num_added, 'image')} added"]
    if done.num_known:
        parts.append(f"{done.num_known:,} known already")
    text = notice(", ".join(parts) + ".", kind="good" if done.num_added or not done.bad else "bad")
    if done.bad:
        shown = "".join(
            f"<li><strong>{escaped(Path(source).name)}</strong>: {escaped(reason)}</li>"
            for source, reason in done.bad[:_SHOWN_BAD]
        )
        more = f"<li>and {len(done.bad) - _SHOWN_BAD:,} more</li>" if len(done.bad) > _SHOWN_BAD else ""
        text += f'<p class="hat-hint">Left out:</p><ul class="hat-list">{shown}{more}</ul>'
    return text
