"""The gallery: images come in with their labels, go for good, and a gallery of another model stays out."""

import asyncio
import re
import time
import zipfile
from collections import Counter
from dataclasses import replace

import gradio as gr
import pytest

from hat.data.datasets import Split
from hat.demo.app_state import NEW_GALLERY_LIMIT, Session
from hat.demo.pages.gallery import PAGE_SIZE, GalleryActions
from hat.demo.pages.page import build_page
from hat.demo.pages.search import SearchActions
from hat.demo.people import enroll_dataset, gallery_sample, sample_queries
from hat.errors import UsageError, WorkError
from hat.serve import Filter, Gallery


def nothing(*_, **__):
    """A progress bar that nobody sees."""


@pytest.fixture
def actions(state):
    return GalleryActions(state)


def mark(actions, session, *ids, pressed=True):
    for one in ids:
        actions.mark(session, gr.EventData(None, {"index": one, "pressed": pressed}))


def test_counts_and_records_are_shown_page_by_page(state, actions):
    overview, people, cameras, records, _ = actions.shown(Session())
    assert "32" in overview and "temporary file" in overview
    assert ("person 2 (4)", "2") in people["choices"] and ("camera 1 (16)", "1") in cameras["choices"]
    assert records.count('class="hat-card"') == min(PAGE_SIZE, 32)
    (one,) = actions.browse(Session(), "2", "1")
    assert one.count('class="hat-card"') == 2 and "1 to 2 of 2 images" in one
    (none,) = actions.browse(Session(), "77", "")
    assert "Nobody is enrolled" in none


def test_pages_are_turned_and_those_that_are_not_there_are_not(state, actions, monkeypatch):
    monkeypatch.setattr("hat.demo.pages.gallery.PAGE_SIZE", 10)

    def turn(page):
        (html,) = actions.turn(Session(), gr.EventData(None, {"index": page}), "", "")
        return [int(one) for one in re.findall(r"· #(\d+)<", html)], html

    assert turn(1)[0] == list(range(1, 11)) and turn(4)[0] == [31, 32] == turn(99)[0]
    assert "page 1 of 4" in turn(0)[1] and turn(1)[1].count(" disabled") == 1 == turn(4)[1].count(" disabled")
    assert turn(2)[1].count(" disabled") == 0


def test_images_are_added_with_their_labels_and_the_files_deleted(state, actions, make_image, tmp_path):
    single = make_image(tmp_path / "someone.png", seed=1)
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(make_image(tmp_path / "x.png", seed=2), "0042_c7s1_000001_00.png")
        file.writestr("broken.jpg", b"no image")
    session = Session()
    said, overview, *_ = actions.add(session, nothing, [single, str(archive)], "", "3", True)
    assert "2 images added" in said and "broken.jpg" in said and "34" in overview
    found = {(record.pid, record.camid) for record in state.gallery("").records() if record.id > 32}
    assert found == {(None, 3), (42, 3)} and not archive.exists()
    again, *_ = actions.add(session, nothing, [make_image(tmp_path / "someone.png", seed=1)], "", "", True)
    assert "0 images added, 1 known already." in again and "hat-good" in again
    other, *_ = actions.add(session, nothing, [make_image(tmp_path / "someone.png", seed=1)], "50", "", True)
    assert "1 known already, 1 with other labels, which stay" in other and "hat-bad" in other
    # A page may name files that are gone by now: none of them is left out without a word.
    with pytest.raises(UsageError, match="1 of 2 files are not here any more"):
        actions.add(session, nothing, [make_image(tmp_path / "new.png", seed=3), str(archive)], "", "", True)
    assert len(state.gallery("")) == 34
    with pytest.raises(UsageError, match="no image yet"):
        actions.add(session, nothing, None, "", "", True)


def test_marked_records_are_removed_after_a_question(state, actions):
    session = Session()
    mark(actions, session, 3, 4, 5)
    mark(actions, session, 5, pressed=False)
    box, question, _ = actions.ask_marked(session)
    assert box["visible"] and "2 marked images" in question and len(state.gallery("")) == 32
    actions.keep(session)
    with pytest.raises(UsageError, match="nothing to remove"):
        actions.remove(session)
    actions.ask_marked(session)
    said, *_ = actions.remove(session)
    assert "2 images removed" in said and not {3, 4} & set(state.gallery("").ids().tolist())
    assert session.marked == set() and len(state.gallery("")) == 30
    with pytest.raises(UsageError, match="mark some"):
        actions.ask_marked(session)


def test_a_person_is_removed_whole_and_nothing_of_them_is_kept(state, actions):
    session = Session()
    with pytest.raises(UsageError, match="choose a person"):
        actions.ask_person(session, "")
    state.calibration("")
    _, question, _ = actions.ask_person(session, "5")
    assert "4 images, all of person 5" in question
    actions.remove(session)
    gallery = state.gallery("")
    assert len(gallery.ids(Filter(pids=frozenset({5})))) == 0 and len(gallery) == 28
    assert state.calibration("").num_records == 28


def test_what_was_removed_is_forgotten_also_where_the_file_cannot_be_rewritten(state, actions, monkeypatch):
    def busy():
        raise WorkError("another process reads it")

    monkeypatch.setattr(state.gallery(""), "vacuum", busy)
    session = Session()
    SearchActions(state).try_sample(session, gr.EventData(None, {"index": 0}), 12, False, True, False, [], "", "", "", "")
    actions.ask_person(session, "5")
    said, overview, *_ = actions.remove(session)
    assert "4 images removed; the file could not be rewritten yet: another process reads it" in said and "hat-bad" in said
    assert "28" in overview and session.outcome is None and session.queries == ()


def test_the_search_page_follows_what_the_gallery_page_changes(state, make_image, tmp_path):
    async def build():  # gradio asks for an event loop, and would leave one of its own open
        return build_page(state)

    state.others = (state.embedder,)  # or there is nothing to compare

    page, session = asyncio.run(build()), Session()

    def click(button, *values):
        """What a click, and what the page does after it, gives its components, by their ids."""
        (block,) = (one for one in page.blocks.values() if isinstance(one, gr.Button) and one.value == button)
        (first,) = (event for event in page.fns.values() if (block._id, "click") in event.targets)
        after = [event for event in page.fns.values() if event.trigger_after == first._id and event.fn is not None]
        shown = {}
        for event, given in [(first, values), *((event, ()) for event in after)]:
            shown.update(zip((one.elem_id for one in event.outputs), event.fn(session, *given), strict=True))
        return shown

    picture = make_image(tmp_path / "a.png")
    cameras = click("Add to the gallery", nothing, [picture], "", "9", True)["hat-cameras"]
    assert ("camera 9", 9) in cameras["choices"] and "value" not in cameras  # what is chosen stays chosen
    SearchActions(state).try_sample(session, gr.EventData(None, {"index": 0}), 12, False, True, False, [], "", "", "", "")
    session.removal = {"ids": [33]}
    shown = click("Remove for good")
    assert "hat-card" not in shown["hat-results"] and "<img" not in shown["hat-query"] and shown["hat-details"] == ""
    assert [camid for _, camid in shown["hat-cameras"]["choices"]] == [1, 2] and shown["hat-cameras"]["value"] == []
    assert shown["hat-compared"] == "" and shown["hat-match"]["choices"] == [] and "<img" not in shown["hat-maps"]


def test_gallery_actions_know_people_by_name(state, actions, make_image, tmp_path):
    session = Session()
    said, *_ = actions.add(session, nothing, [make_image(tmp_path / "a.png")], "all", "1", True)
    assert "1 image added" in said
    overview, people, *_ = actions.shown(session)
    assert people["choices"][-1] == ("all (1)", "all") and "unknown people" not in overview
    (shown,) = actions.browse(session, "all", "")
    assert "1 to 1 of 1 image" in shown and ">all<" in shown
    _, question, _ = actions.ask_person(session, "all")
    assert "1 image, all of all" in question
    actions.remove(session)
    assert len(state.gallery("")) == 32


def test_what_is_old_is_removed(state, actions):
    session = Session()
    with pytest.raises(UsageError, match="no image is that old"):
        actions.ask_old(session, "30")
    for wrong in ("", "soon", "-1"):
        with pytest.raises(UsageError):
            actions.ask_old(session, wrong)
    time.sleep(0.01)
    _, question, _ = actions.ask_old(session, "0")
    assert "32 images that were enrolled more than 0 days ago" in question
    actions.remove(session)
    assert len(state.gallery("")) == 0


def test_a_read_only_demo_changes_nothing(make_state, make_image, tmp_path):
    state = make_state(tmp_path, read_only=True)
    actions, session = GalleryActions(state), Session()
    mark(actions, session, 1)
    adding = (actions.add, session, nothing, [make_image(tmp_path / "a.png")], "", "", True)
    removing = (actions.ask_marked, session), (actions.ask_person, session, "5"), (actions.remove, session)
    for act, *arguments in (adding, *removing, (state.new_gallery, "another")):
        with pytest.raises(UsageError, match="read-only"):
            act(*arguments)
    assert len(state.gallery("")) == 32 and "<button" not in actions.shown(session)[3]
    state.close()


def test_galleries_are_made_by_name(state):
    assert state.new_gallery("  my   people ") == "my people"
    assert len(state.gallery("my people")) == 0 and not state.is_kept("my people")
    for name in ("my people", "", "x" * 61):
        with pytest.raises(UsageError):
            state.new_gallery(name)
    for number in range(NEW_GALLERY_LIMIT - 1):
        state.new_gallery(f"number {number}")
    with pytest.raises(UsageError, match="no more"):
        state.new_gallery("one too many")
    with pytest.raises(UsageError, match="not here any more"):
        state.gallery("unheard of")


def test_a_gallery_of_this_model_is_taken_in_and_one_of_another_refused(state, foreign_gallery, tmp_path):
    with Gallery.open(tmp_path / "mine.gallery", binding=state.binding, create=True) as mine:
        mine.add(state.gallery("").embeddings([1]), state.gallery("").get([1], thumbnails=True))
    name = state.import_gallery(tmp_path / "mine.gallery")
    assert name == "mine" and len(state.gallery("mine")) == 1
    assert state.import_gallery(tmp_path / "mine.gallery") == "mine (2)"

    with pytest.raises(UsageError, match=r"theirs\.gallery was made by another model.*width of an embedding"):
        state.import_gallery(foreign_gallery)
    (tmp_path / "junk.gallery").write_bytes(b"SQLite format 3\0 and then junk" * 100)
    with pytest.raises(UsageError, match=r"junk\.gallery"):
        state.import_gallery(tmp_path / "junk.gallery")
    assert set(state.galleries) == {"people", "mine", "mine (2)"}
    assert {path.name for path in state.folder.glob("imported-*.gallery")} == {"imported-1.gallery", "imported-2.gallery"}


def test_a_large_gallery_is_taken_in_whole_identities(people):
    chosen = gallery_sample(people, 10)
    assert len(chosen) <= 10 and set(Counter(sample.pid for sample in chosen).values()) == {4}
    assert gallery_sample(people, 10) == chosen and len(gallery_sample(people, 1000)) == 32
    assert len(gallery_sample(people, 3)) == 3


def test_cameras_that_a_data_set_does_not_know_are_not_made_up(state, people):
    unknown = people.without_cameras()
    gallery = state.gallery(state.new_gallery("unknown"))
    enroll_dataset(gallery, state.embedder, unknown, unknown.gallery[:4])
    assert gallery.counts().by_camid == {None: 4}
    assert {sample.camid for sample in sample_queries(unknown, people.gallery.pids.tolist())} == {None}


def test_images_that_cannot_be_read_are_passed_over_with_a_word(state, people, capsys):
    first, *others = people.gallery
    asked = [replace(one, path="gone.png") if one.pid == first.pid else one for one in people.query]
    samples = sample_queries(replace(people, query=Split("query", asked)), people.gallery.pids.tolist())
    assert {sample.pid for sample in samples} == set(people.gallery.pids.tolist()) - {first.pid}
    gallery = state.gallery(state.new_gallery("some"))
    enroll_dataset(gallery, state.embedder, people, [replace(first, path="people/gone.png"), *others[:2]])
    assert len(gallery) == 2 and "left out: 1 image, the first: people/gone.png: " in capsys.readouterr().err
