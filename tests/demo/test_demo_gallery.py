"""The gallery: images come in with their labels, go for good, and a gallery of another model stays out."""

import re
import shutil
import time
import zipfile

import gradio as gr
import pytest

import hat
from hat.demo.app_state import NEW_GALLERY_LIMIT
from hat.demo.gallery_actions import PAGE_SIZE, GalleryActions
from hat.demo.people import gallery_sample
from hat.demo.session import Session
from hat.embedder import Embedder
from hat.errors import UsageError
from hat.runtime import runtime_info
from hat.serve import Filter, Gallery, binding_of


def nothing(*_, **__):
    """A progress bar that nobody sees."""


@pytest.fixture
def actions(bench):
    return GalleryActions(bench)


def mark(actions, state, *ids, pressed=True):
    for one in ids:
        actions.mark(state, gr.EventData(None, {"index": one, "pressed": pressed}))


def test_counts_and_records_are_shown_page_by_page(bench, actions):
    overview, people, cameras, records, _ = actions.shown(Session())
    assert "32" in overview and "temporary file" in overview
    assert ("person 2 (4)", "2") in people["choices"] and ("camera 1 (16)", "1") in cameras["choices"]
    assert records.count('class="hat-card"') == min(PAGE_SIZE, 32)
    (one,) = actions.browse(Session(), "2", "1")
    assert one.count('class="hat-card"') == 2 and "1 to 2 of 2 images" in one
    (none,) = actions.browse(Session(), "77", "all")
    assert "Nobody is enrolled" in none


def test_people_with_names_are_chosen_and_shown_escaped(bench, actions):
    bench.gallery("").update([1, 2], {"pid": "<b>Al</b>"})
    overview, people, _, records, _ = actions.shown(Session())
    assert people["choices"][-1] == ("<b>Al</b> (2)", "named <b>Al</b>") and "<b>" not in overview + records
    (html,) = actions.browse(Session(), "named <b>Al</b>", "all")
    assert html.count("&lt;b&gt;Al&lt;/b&gt;") >= 2 and "1 to 2 of 2 images" in html
    _, question, _ = actions.ask_person(Session(), "named <b>Al</b>")
    assert "2 images, all of &lt;b&gt;Al&lt;/b&gt;" in question


def test_pages_are_turned_and_those_that_are_not_there_are_not(bench, actions, monkeypatch):
    monkeypatch.setattr("hat.demo.gallery_actions.PAGE_SIZE", 10)

    def turn(page):
        (html,) = actions.turn(Session(), gr.EventData(None, {"index": page}), "all", "all")
        return [int(one) for one in re.findall(r"· #(\d+)<", html)], html

    assert turn(1)[0] == list(range(1, 11)) and turn(4)[0] == [31, 32] == turn(99)[0]
    assert "page 1 of 4" in turn(0)[1] and turn(1)[1].count(" disabled") == 1 == turn(4)[1].count(" disabled")
    assert turn(2)[1].count(" disabled") == 0


def test_images_are_added_with_their_labels_and_the_files_deleted(bench, actions, make_image, tmp_path):
    single = make_image(tmp_path / "someone.png", seed=1)
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(make_image(tmp_path / "x.png", seed=2), "0042_c7s1_000001_00.png")
        file.writestr("broken.jpg", b"no image")
    state = Session()
    said, overview, *_ = actions.add(state, nothing, [single, str(archive)], "50", "3", True)
    assert "2 images added" in said and "broken.jpg" in said and "34" in overview
    found = {(record.pid, record.camid) for record in bench.gallery("").records() if record.id > 32}
    assert found == {(50, 3), (42, 7)} and not archive.exists()
    again, *_ = actions.add(state, nothing, [make_image(tmp_path / "someone.png", seed=1)], "", "", True)
    assert "0 images added, 1 known already" in again
    with pytest.raises(UsageError, match="no image yet"):
        actions.add(state, nothing, None, "", "", True)


def test_marked_records_are_removed_after_a_question(bench, actions):
    state = Session()
    mark(actions, state, 3, 4, 5)
    mark(actions, state, 5, pressed=False)
    box, question, _ = actions.ask_marked(state)
    assert box["visible"] and "2 marked images" in question and len(bench.gallery("")) == 32
    actions.keep(state)
    with pytest.raises(UsageError, match="nothing to remove"):
        actions.remove(state)
    actions.ask_marked(state)
    said, *_ = actions.remove(state)
    assert "2 images removed" in said and not {3, 4} & set(bench.gallery("").ids().tolist())
    assert state.marked == set() and len(bench.gallery("")) == 30
    with pytest.raises(UsageError, match="mark some"):
        actions.ask_marked(state)


def test_a_person_is_removed_whole_and_nothing_of_them_is_kept(bench, actions):
    state = Session()
    with pytest.raises(UsageError, match="choose a person"):
        actions.ask_person(state, "all")
    bench.calibration("")
    _, question, _ = actions.ask_person(state, "5")
    assert "4 images, all of person 5" in question
    actions.remove(state)
    gallery = bench.gallery("")
    assert len(gallery.ids(Filter(pids=frozenset({5})))) == 0 and len(gallery) == 28
    assert bench.calibration("").num_records == 28


def test_what_is_old_is_removed(bench, actions):
    state = Session()
    with pytest.raises(UsageError, match="no image is that old"):
        actions.ask_old(state, "30")
    for wrong in ("", "soon", "-1"):
        with pytest.raises(UsageError):
            actions.ask_old(state, wrong)
    time.sleep(0.01)
    _, question, _ = actions.ask_old(state, "0")
    assert "32 images that were enrolled more than 0 days ago" in question
    actions.remove(state)
    assert len(bench.gallery("")) == 0


def test_a_read_only_demo_changes_nothing(make_bench, make_image, tmp_path):
    bench = make_bench(tmp_path, read_only=True)
    actions, state = GalleryActions(bench), Session()
    mark(actions, state, 1)
    refused = [
        lambda: actions.add(state, nothing, [make_image(tmp_path / "a.png")], "", "", True),
        lambda: actions.ask_marked(state),
        lambda: actions.ask_person(state, "5"),
        lambda: actions.remove(state),
        lambda: bench.new_gallery("another"),
    ]
    for act in refused:
        with pytest.raises(UsageError, match="read-only"):
            act()
    assert len(bench.gallery("")) == 32 and "<button" not in actions.shown(state)[3]
    bench.close()


def test_galleries_are_made_by_name(bench):
    assert bench.new_gallery("  my   people ") == "my people"
    assert len(bench.gallery("my people")) == 0 and not bench.is_kept("my people")
    for name in ("my people", "", "x" * 61):
        with pytest.raises(UsageError):
            bench.new_gallery(name)
    for number in range(NEW_GALLERY_LIMIT - 1):
        bench.new_gallery(f"number {number}")
    with pytest.raises(UsageError, match="no more"):
        bench.new_gallery("one too many")
    with pytest.raises(UsageError, match="not here any more"):
        bench.gallery("unheard of")


def test_a_gallery_of_this_model_is_taken_in_and_one_of_another_refused(bench, tmp_path):
    with Gallery.open(tmp_path / "mine.gallery", binding=bench.binding, create=True) as mine:
        mine.add(bench.gallery("").embeddings([1]), bench.gallery("").get([1], thumbnails=True))
    name = bench.take_gallery(tmp_path / "mine.gallery")
    assert name == "mine" and len(bench.gallery("mine")) == 1

    other = hat.create_model("hat_mobilenet_v2", 3, image_size=(64, 32), widths=(16, 16, 16, 16), depths=(1, 0, 0, 0))
    hat.save_checkpoint(other.eval(), tmp_path / "other")
    binding = binding_of(runtime_info(Embedder.open(tmp_path / "other", device="cpu").runtime))
    Gallery.open(tmp_path / "theirs.gallery", binding=binding, create=True).close()
    with pytest.raises(UsageError, match=r"theirs\.gallery was made by another model.*width of an embedding"):
        bench.take_gallery(tmp_path / "theirs.gallery")
    (tmp_path / "junk.gallery").write_bytes(b"SQLite format 3\0 and then junk" * 100)
    with pytest.raises(UsageError, match=r"junk\.gallery"):
        bench.take_gallery(tmp_path / "junk.gallery")
    assert set(bench.galleries) == {"people", "mine"}
    assert [path.name for path in bench.folder.glob("taken-*") if "-1" not in path.name] == []


def test_a_large_gallery_is_taken_in_whole_identities(people):
    chosen = gallery_sample(people, 10)
    counts = {pid: sum(sample.pid == pid for sample in chosen) for pid in {sample.pid for sample in chosen}}
    assert len(chosen) <= 10 and set(counts.values()) == {4}
    assert gallery_sample(people, 10) == chosen and len(gallery_sample(people, 1000)) == 32
    assert len(gallery_sample(people, 3)) == 3


def test_a_copy_of_a_gallery_has_a_name_of_its_own(bench, tmp_path):
    with Gallery.open(tmp_path / "people2.gallery", binding=bench.binding, create=True):
        pass
    shutil.copy(tmp_path / "people2.gallery", tmp_path / "sub.gallery")
    first = bench.take_gallery(tmp_path / "sub.gallery")
    assert bench.take_gallery(tmp_path / "sub.gallery") != first
