"""Filters are exact: the nearest among the records that pass, whatever the filter and however few pass."""

import numpy as np
import pytest
from gallery_cases import assert_neighbors, brute_force, new_record, open_small, passes, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UsageError
from hat.serve import Filter

NUM_RECORDS = 60
VALUES = [True, False, 0, 1, 1.0, 0.5, "1", "red", ""]

numbers = st.integers(0, 4)
sets = st.frozensets(numbers, max_size=3)
times = st.floats(0, 10)
values = st.sampled_from(VALUES)
filters = st.builds(
    Filter,
    camids=st.none() | sets,
    exclude_camids=st.just(frozenset()) | sets,
    pids=st.none() | sets | st.just(frozenset([2**70, 1])),
    since_s=st.none() | times,
    until_s=st.none() | times,
    exclude_ids=st.frozensets(st.integers(-2, NUM_RECORDS + 5) | st.just(2**80)),
    attributes=st.dictionaries(st.sampled_from(["hat", "color"]), values, max_size=2),
)


@pytest.fixture(scope="module", params=["float32", "float16"])
def filled(request, tmp_path_factory):
    rng = np.random.default_rng(3)
    vectors = unit_rows(12)[rng.integers(0, 12, NUM_RECORDS)]

    def some(value):
        return None if rng.random() < 0.2 else value

    records = []
    for number in range(NUM_RECORDS):
        pid, camid, time_s = some(int(rng.integers(0, 5))), some(int(rng.integers(0, 5))), some(float(rng.integers(0, 11)))
        attributes = {name: VALUES[rng.integers(0, 9)] for name in ("hat", "color") if rng.random() < 0.8}
        records.append(new_record(number, pid=pid, camid=camid, time_s=time_s, attributes=attributes))
    with open_small(tmp_path_factory.mktemp("g") / "g", stored_type=request.param) as gallery:
        gallery.add(vectors, records)
        gallery.remove(ids=[5, 17])
        yield gallery, vectors.astype(request.param)


@settings(max_examples=60, deadline=None)
@given(where=filters, seed=st.integers(0, 100), top=st.integers(1, 70))
def test_the_nearest_of_those_that_pass(filled, where, seed, top):
    gallery, vectors = filled
    passing = [record.id for record in gallery.records() if passes(record, where)]
    assert gallery.ids(where).tolist() == passing
    assert [record.id for record in gallery.records(where)] == passing
    queries = unit_rows(2, seed)
    expected = brute_force({id_: vectors[id_ - 1] for id_ in passing}, queries, top)
    assert_neighbors(gallery.search(queries, top, where), expected)


def test_a_filter_that_no_record_could_pass_by_its_type_is_refused(filled):
    for where, message in (
        (Filter(since_s=float("nan")), "since_s: expected seconds"),
        (Filter(until_s="now"), "until_s: expected seconds"),
        (Filter(camids=frozenset(["1"])), "camids: expected whole numbers, got '1'"),
        (Filter(pids=frozenset([1.5])), "pids: expected whole numbers"),
        (Filter(attributes={"hat": None}), "attribute hat: expected text"),
        (Filter(attributes={"hat": float("nan")}), "attribute hat"),
    ):
        for ask in (filled[0].ids, lambda where: filled[0].search(unit_rows(1), 1, where)):
            with pytest.raises(UsageError, match=message):
                ask(where)


def test_one_name_is_not_taken_for_its_letters():
    with pytest.raises(UsageError, match="got 'alice': put it in a list"):
        Filter.of(pids="alice")
