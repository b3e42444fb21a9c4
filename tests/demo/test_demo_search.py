"""Searching: the page's list is the library's, its choices hold, and a visitor's session is their own."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from hat.data import read_image
from hat.data.images import read_encoded
from hat.demo import app_state
from hat.demo.app_state import Session
from hat.demo.pages.gallery import GalleryActions
from hat.demo.pages.search import SearchActions
from hat.demo.ranking import SearchOptions
from hat.demo.uploads import Upload
from hat.errors import HatError, UsageError
from hat.serve import Filter, Gallery
from hat.serve.enroll.enrolling import enroll_images
from hat.serve.enroll.items import Item
from hat.serve.gallery.timestamps import format_timestamp
from hat.serve.search import searching
from hat.serve.search.query_embeddings import Query, rank_queries
from hat.serve.search.searching import CenteredGallery

OPTIONS = {"top": 12, "rerank": False, "leave_out": True, "center": False, "cameras": []}
OPTIONS |= dict.fromkeys(("since", "until", "pid", "camid"), "")


def options(**changes):
    return tuple((OPTIONS | changes).values())


def click(index, **more):
    return gr.EventData(None, {"index": index, **more})


@pytest.fixture
def actions(state):
    return SearchActions(state)


@pytest.fixture
def searched(state, actions):
    """A session that tried the first example, with every camera allowed."""
    session = Session()
    actions.try_sample(session, click(0), *options(leave_out=False, top=60))
    return session


def brute_force(state, query, keep=lambda record: True):
    """(id, similarity) of the whole gallery, best first."""
    gallery = state.gallery("")
    records = [record for record in gallery.records() if keep(record)]
    values = gallery.embeddings([record.id for record in records]) @ query
    order = sorted(range(len(records)), key=lambda place: (-values[place], records[place].id))
    return [(records[place].id, float(values[place])) for place in order]


def test_a_list_is_the_gallery_by_similarity_and_details_follow_the_choice(state, actions, searched):
    expected = brute_force(state, searched.queries[0].embedding)
    found = [(match.record.id, match.similarity) for match in searched.outcome.matches]
    assert [one for one, _ in found] == [one for one, _ in expected]
    assert np.allclose([one for _, one in found], [one for _, one in expected], atol=1e-5)
    assert searched.outcome.num_searched == len(expected) == 32
    (details,) = actions.choose(searched, click(3))
    assert f"#{found[3][0]}<" in details and "pairs of different people" in details and "looks" in details
    assert actions.choose(searched, click(500)) == ("",)


def test_the_querys_camera_is_left_out_and_others_may_be_chosen(state, actions, searched):
    camid = searched.query_camid
    labels = {"pid": str(searched.query_pid), "camid": str(camid)}
    actions.search_again(searched, *options(top=60, **labels))
    assert {match.record.camid for match in searched.outcome.matches} == {1, 2} - {camid}
    actions.search_again(searched, *options(top=60, leave_out=False, cameras=[camid], **labels))
    assert {match.record.camid for match in searched.outcome.matches} == {camid}
    actions.search_again(searched, *options(top=60, cameras=[camid], **labels))
    assert searched.outcome.matches == ()


def test_a_time_bounds_the_list(state, actions, searched):
    seen = sorted(record.time_s for record in state.gallery("").records())
    actions.search_again(searched, *options(top=60, since=f"{format_timestamp(seen[16])}Z"))
    times = [match.record.time_s for match in searched.outcome.matches]
    assert times and min(times) >= seen[16] - 1
    actions.search_again(searched, *options(top=60, until=format_timestamp(seen[0])))
    assert searched.outcome.matches == ()
    for wrong in ({"since": "yesterday"}, {"until": "1e300"}, {"since": "2026-01-05", "until": "2026-01-05"}):
        with pytest.raises(UsageError):
            actions.search_again(searched, *options(**wrong))


@pytest.mark.parametrize("centers", [False, True])
@pytest.mark.parametrize("knows_camera", [True, False])
def test_re_ranking_and_center_cameras_order_as_the_library_does(state, actions, searched, centers, knows_camera):
    gallery, camid = state.gallery(""), searched.query_camid
    query = Query("image", searched.queries[0].embedding, camids=frozenset({camid} if knows_camera else ()))
    plain, known = [match.record.id for match in searched.outcome.matches], {"camid": str(camid)} if knows_camera else {}
    ranked = CenteredGallery(gallery) if centers else gallery
    for re_ranks in (True, False):
        ((_, expected),) = rank_queries(ranked, [query], where=Filter(), top=60, rerank=re_ranks, thumbnails=True)
        shown = actions.search_again(searched, *options(center=centers, leave_out=False, top=60, rerank=re_ranks, **known))
        assert list(searched.outcome.matches) == expected
        assert ([match.record.id for match in expected] == plain) == (not centers and not re_ranks)
        assert ("re-rank" in shown[5]) == re_ranks
    assert ("means subtracted" in shown[-1]) == centers != ("pairs of different people" in shown[-1])  # calibrated without


def test_center_cameras_is_offered_where_records_have_cameras(state, actions):
    center, *_ = actions.filter_choices(Session())
    assert center["visible"] and center["value"] is False
    gallery = state.gallery("")
    gallery.update(gallery.ids().tolist(), {"camid": None})
    center, *_ = actions.filter_choices(Session())
    assert not center["visible"]
    with pytest.raises(UsageError, match="no camera has two images"):
        actions.try_sample(Session(), click(0), *options(center=True))


def test_center_cameras_works_out_a_gallery_once_until_it_changes(state, actions, searched, monkeypatch):
    made = []
    monkeypatch.setattr(app_state, "CenteredGallery", lambda gallery: made.append(gallery) or CenteredGallery(gallery))

    def search():
        actions.search_again(searched, *options(center=True, leave_out=False, top=60))
        return [match.record.id for match in searched.outcome.matches]

    gallery = state.gallery("")
    assert search() == search() and len(made) == 1
    gallery.update([1, 5], {"camid": 7})  # another camera, as many records
    assert len(search()) == 32 and len(made) == 2
    gallery.remove(ids=[3])
    assert 3 not in search() and len(made) == 3
    state.forget_embeddings("")
    assert len(search()) == 31 and len(made) == 4  # worked out again: nothing of it was kept


def test_rank_times_the_search_and_the_re_ranking_each_by_itself(state, searched, monkeypatch):
    gallery, num_searches = state.gallery(""), []
    found = gallery.search
    monkeypatch.setattr(gallery, "search", lambda *args: num_searches.append(1) or time.sleep(0.2) or found(*args))
    reranked = searching.rerank_distances
    monkeypatch.setattr(searching, "rerank_distances", lambda *args: time.sleep(0.5) or reranked(*args))
    seconds = state.rank("people", searched.queries, SearchOptions(rerank=True)).seconds
    assert len(num_searches) == 1
    assert 0.2 <= seconds["search"] < seconds["re-rank"] and seconds["re-rank"] >= 0.5
    assert "re-rank" not in state.rank("people", searched.queries, SearchOptions()).seconds
    with pytest.raises(UsageError, match="no query"):
        state.rank("", (), SearchOptions())


def test_several_images_are_one_person(state, actions, searched):
    sample = state.samples[1]
    other = state.query(Upload("other", read_image(sample.path), 0.0))
    searched.queries = (*searched.queries, other)
    actions.search_again(searched, *options(leave_out=False))
    mean = (searched.queries[0].embedding + other.embedding) / 2
    expected = brute_force(state, mean / np.linalg.norm(mean))[0]
    first = searched.outcome.matches[0]
    assert first.record.id == expected[0] and first.similarity == pytest.approx(expected[1], abs=1e-5)
    actions.take_out(searched, click(1), *options(leave_out=False))
    (left,) = searched.queries
    assert searched.outcome.matches[0].record.id == brute_force(state, left.embedding)[0][0]
    actions.take_out(searched, click(0), *options())
    assert searched.queries == () and searched.outcome is None and searched.query_pid is None


def test_uploads_become_queries_and_are_deleted(state, actions, make_image, tmp_path):
    session = Session()

    def upload(*paths, adds=False, **changes):
        actions.upload(session, list(paths), adds, *options(**changes))
        return [query.name for query in session.queries]

    path = make_image(tmp_path / "a.png")
    assert upload(path, pid="5") == ["a.png"] and not (tmp_path / "a.png").exists() and session.query_pid == 5
    assert upload(make_image(tmp_path / "b.png", seed=1), adds=True, pid="4") == ["a.png", "b.png"] and session.query_pid == 4
    assert upload(make_image(tmp_path / "c.png", seed=2), pid="4") == ["c.png"] and session.query_pid is None
    many = [make_image(tmp_path / f"{n}.png", seed=n) for n in range(state.limits.query_images + 1)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    # One that is refused changes nothing, and leaves nothing behind.
    part = [make_image(tmp_path / "d.png"), str(bad)]
    for paths, said in (([path], "did not arrive"), (many, "at most"), (part, r"bad\.png")):
        with pytest.raises(HatError, match=said):
            upload(*paths)
        assert [query.name for query in session.queries] == ["c.png"] and session.outcome is not None
    with pytest.warns(UserWarning, match="1 of 2 files did not arrive"):  # what the page shows, where there is one
        assert upload(make_image(tmp_path / "e.png"), path) == ["e.png"]
    assert list(tmp_path.glob("*.png")) == []


def test_a_wide_picture_waits_until_the_person_is_marked(state, actions, make_image, tmp_path):
    session = Session()
    shown = actions.upload(session, [make_image(tmp_path / "wide.png", size=(200, 100))], False, *options())
    assert session.queries == () and session.photo.image.size == (200, 100) and "hat-crop-box" in shown[2]
    box = {"left": 0.5, "top": 0.0, "right": 0.75, "bottom": 1.0}
    expected = state.query(Upload("part", session.photo.image.crop((100, 0, 150, 100)), 0.0)).embedding
    actions.use_crop(session, gr.EventData(None, box), *options(pid="anna", camid="1"))  # typed while it waited
    assert session.photo is None and np.array_equal(session.queries[0].embedding, expected)
    assert (session.query_pid, session.query_camid) == ("anna", 1)
    with pytest.raises(UsageError, match="no picture"):
        actions.use_crop(session, gr.EventData(None, box), *options())


def test_a_person_who_was_marked_joins_the_images_that_came_with_the_picture(state, actions, make_image, tmp_path):
    session, box = Session(), {"left": 0.5, "top": 0.0, "right": 0.75, "bottom": 1.0}
    actions.upload(session, [make_image(tmp_path / "old.png")], False, *options())
    given = [make_image(tmp_path / "a.png", seed=1), make_image(tmp_path / "wide.png", size=(200, 100))]
    actions.upload(session, given, False, *options())
    actions.use_crop(session, gr.EventData(None, box), *options())
    assert [query.name for query in session.queries] == ["a.png", "wide.png"]


def test_a_large_upright_picture_waits_too_and_only_one_at_a_time(state, actions, make_image, tmp_path):
    state.limits, session = replace(state.limits, query_pixels=32 * 64), Session()
    actions.upload(session, [make_image(tmp_path / "person.png")], False, *options())
    assert session.photo is None
    actions.upload(session, [make_image(tmp_path / "street.png", size=(48, 64))], False, *options())
    assert session.queries == () and session.photo.image.size == (48, 64)
    with pytest.raises(UsageError, match="wide or large"):
        paths = [make_image(tmp_path / f"{n}.png", size=(48, 64)) for n in range(2)]
        actions.upload(session, paths, False, *options())


def test_a_gallery_without_thumbnails_shows_the_files_that_are_still_the_same(state, actions, make_image, tmp_path):
    (tmp_path / "kept").mkdir()
    paths = [make_image(tmp_path / f"{seed}.png", seed=seed) for seed in range(3)]
    query = state.query(Upload("a query", make_image(seed=9), 0.0))

    def num_pictures(name):
        session = Session(gallery=name, queries=(query,))
        cards, (records,) = actions.search_again(session, *options())[6], GalleryActions(state).browse(session, "", "")
        assert len(session.outcome.matches) == 3 and cards.count("<img") == records.count("<img")
        assert ("keeps no pictures" in cards) == ("<img" not in cards)
        return cards.count("<img")

    # A visitor's gallery is in the demo's own folder: it says files, and must not learn whether they are there.
    for name, folder in (("kept", tmp_path / "kept"), ("visitor's", state.folder)):
        gallery = Gallery.open(folder / "plain.gallery", binding=state.binding, create=True)
        state.galleries[name] = gallery
        enroll_images(gallery, state.embedder, [Item(source=path, read=partial(read_encoded, path)) for path in paths])
    assert (num_pictures("kept"), num_pictures("visitor's")) == (3, 0)
    make_image(paths[0], seed=7)  # another picture by now
    Path(paths[1]).unlink()
    assert num_pictures("kept") == 1
    Path(paths[2]).unlink()
    assert num_pictures("kept") == 0


def test_a_source_is_read_once_and_its_picture_forgotten_when_images_are_removed(state, make_image, tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    state.galleries = {"kept": Gallery.open(tmp_path / "kept" / "plain.gallery", binding=state.binding, create=True)}
    paths = [make_image(tmp_path / f"{seed}.png", seed=seed) for seed in range(3)]
    items = [Item(source=path, read=partial(read_encoded, path)) for path in paths]
    enroll_images(state.gallery(""), state.embedder, items)
    read, record_image = [], app_state.record_image
    monkeypatch.setattr(app_state, "record_image", lambda record: read.append(record.id) or record_image(record))

    records = state.gallery("").get([1, 2, 3])
    first = state.pictured("", records)
    assert state.pictured("kept", records) == first and read == [1, 2, 3]
    assert len({record.thumbnail for record in first} - {None}) == 3
    monkeypatch.setattr(app_state, "_MAX_KEPT_PICTURES", 2)
    make_image(paths[0], seed=7)
    assert state.pictured("", records)[0].thumbnail is None  # another image by now
    make_image(paths[0], seed=0)
    assert state.pictured("", records) == first and len(state._pictures) == 2

    state.gallery("").remove(ids=[2])
    state.forget_embeddings("")
    assert state._pictures == {}
    state.pictured("", records)  # of a search that began before
    assert state._pictures == {}


def test_a_click_that_means_nothing_is_refused(actions):
    for event in (*map(click, (-1, 10**6, "0", None, 1.5, True, [0])), gr.EventData(None, "select")):
        with pytest.raises(UsageError):
            actions.try_sample(Session(), event, *options())


@pytest.mark.parametrize(
    ("name", "value"),
    [("pid", "-1"), ("pid", "x" * 201), ("camid", "1.5"), ("camid", "٣"), ("camid", "9" * 12), ("since", "soon"), ("top", 0)],
)
def test_a_wrong_field_is_refused_and_changes_nothing(actions, searched, make_image, tmp_path, name, value):
    actions.choose(searched, click(2))
    before = vars(searched).copy()
    labels = {"pid": "77", "camid": "1"} if name not in ("pid", "camid") else {}
    wrong = options(**labels, **{name: value})
    calls = [(actions.search_again,), (actions.upload, [make_image(tmp_path / "a.png")], True)]
    for act, *arguments in calls + [(actions.try_sample, click(1))] * (name in ("since", "top")):
        with pytest.raises(UsageError):
            act(searched, *arguments, *wrong)
        assert vars(searched) == before


def test_search_actions_know_people_by_name(state, actions, searched):
    gallery = state.gallery("")
    pid = searched.query_pid
    gallery.update(gallery.ids(Filter(pids=frozenset({pid}))).tolist(), {"pid": "Anna <b>"})
    cards = actions.search_again(searched, *options(leave_out=False, top=60, pid="Anna <b>"))[6]
    assert searched.query_pid == "Anna <b>" and searched.outcome.num_right == 4
    assert cards.count("hat-right") == 4 and "Anna &lt;b&gt;<br>" in cards and "<b>" not in cards
    assert actions.shown(searched)[3] == "Anna <b>"


def test_options_are_a_filter_and_the_length_of_a_list_is_bounded():
    for top in (0, 61):
        with pytest.raises(UsageError):
            SearchOptions(top=top)
    chosen = SearchOptions(camids=frozenset({3}), since_s=1.0, until_s=2.0, query_camid=3)
    assert chosen.where == Filter(camids=frozenset({3}), exclude_camids=frozenset({3}), since_s=1.0, until_s=2.0)
    assert SearchOptions(leave_out_camera=False, query_camid=3).where.is_empty
