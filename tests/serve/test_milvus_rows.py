"""Records as rows and filters as expressions: nothing that a user writes is ever part of an expression."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UsageError
from hat.serve import Filter, NewRecord
from hat.serve.milvus_rows import (
    MAX_THUMBNAIL_BYTES,
    batches,
    filter_expression,
    hash_expression,
    ids_expression,
    record_of,
    row_of,
)

VECTOR = np.ones(4, np.float32) / 2
HOSTILE = ['"', "\\", "' or id > 0 or '", '") or (id > 0', "\x00", "\ud800", "é🙂", "a" * 5000, "%", "{x}", "\n"]
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text())
VALUES = st.one_of(TEXTS, st.integers(), st.floats(), st.booleans())
CONDITION = r'\(array_contains\(attributes, "[0-9a-f]{32}"\)\)|\(id < 0\)'


def new(**facts):
    return NewRecord(**{"content_hash": "ab" * 32, "source": "a.jpg"} | facts)


def row(**facts):
    return row_of(new(**facts), 1, 2.5, VECTOR)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3))
def test_no_attribute_gets_into_an_expression(attributes):
    parts = filter_expression(Filter(attributes=attributes)).split(" and ")
    assert len(parts) == len(attributes)
    assert all(re.fullmatch(CONDITION, part) for part in parts)


@given(TEXTS, VALUES, TEXTS, VALUES)
def test_an_attribute_is_found_by_what_python_calls_equal(name, value, other_name, other):
    """By what stands in the expression and in the row: Milvus then compares two texts."""
    kept = row(attributes={name: value})["attributes"]
    asked = re.findall("[0-9a-f]{32}", filter_expression(Filter(attributes={other_name: other})))
    assert (asked != [] and asked[0] in kept) == (name == other_name and value == other)
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in kept)


@pytest.mark.parametrize(("value", "other", "same"), [(1, True, True), (1, 1.0, True), (0, False, True), ("1", 1, False)])
def test_numbers_that_are_equal_are_one_value(value, other, same):
    (key,) = row(attributes={"n": value})["attributes"]
    assert (key in filter_expression(Filter(attributes={"n": other}))) == same


@given(
    st.text(),
    st.one_of(st.none(), st.integers(-(2**62) + 1, 2**62 - 1)),
    st.one_of(st.none(), st.floats(-1e300, 1e300)),
    st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False)), max_size=4),
    st.binary(max_size=50),
)
def test_a_record_comes_back_as_it_was(source, number, time_s, attributes, thumbnail):
    record = new(source=source + "\udcff", pid=number, camid=number, time_s=time_s, attributes=attributes, thumbnail=thumbnail)
    back = record_of(row_of(record, 7, 2.5, VECTOR))
    assert (back.id, back.enrolled_s) == (7, 2.5)
    assert vars(back) | {"id": 0, "enrolled_s": 0} == vars(record) | {"id": 0, "enrolled_s": 0, "thumbnail": thumbnail or None}
    assert [type(value) for value in back.attributes.values()] == [type(value) for value in attributes.values()]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"content_hash": 'x" or "'}, "hexadecimal"),
        ({"content_hash": ""}, "hexadecimal"),
        ({"time_s": math.nan}, "finite number of seconds"),
        ({"time_s": -math.inf}, "finite number of seconds"),
        ({"pid": 2**62}, "identity is a whole number"),
        ({"camid": -(2**62)}, "camera is a whole number"),
        ({"source": "x" * 65536}, "65,535"),
        ({"attributes": {"a": "é" * 20000}}, "65,535"),
        ({"attributes": {str(n): n for n in range(257)}}, "at most 256 attributes"),
        ({"thumbnail": bytes(MAX_THUMBNAIL_BYTES + 1)}, "make it smaller"),
    ],
)
def test_what_does_not_fit_is_refused(facts, words):
    with pytest.raises(UsageError, match=words):
        row(**facts)


def test_the_largest_thumbnail_fits_the_longest_text():
    assert len(row(thumbnail=bytes(MAX_THUMBNAIL_BYTES))["thumbnail"]) <= 65535


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        (None, ""),
        (Filter(), ""),
        (Filter(camids=frozenset({3, -1})), "(camid in [-1, 3])"),
        (Filter(pids=frozenset()), "(id < 0)"),
        (Filter(pids=frozenset({2**70})), "(id < 0)"),
        (Filter(exclude_camids=frozenset({2})), "(camid not in [2])"),
        (Filter(exclude_camids=frozenset({2**70})), ""),
        (Filter(exclude_ids=frozenset({2, -5, 2**70})), "(id not in [2])"),
        (Filter(since_s=1.5, until_s=1e300), "(time_s > -1.7e+308 and time_s >= 1.5) and (time_s > -1.7e+308 and time_s < 1e+300)"),
        (Filter(since_s=-math.inf), "(time_s > -1.7e+308)"),
        (Filter(since_s=math.nan), "(id < 0)"),
        (Filter(since_s=math.inf), "(id < 0)"),
        (Filter(until_s=-math.inf), "(id < 0)"),
    ],
)
def test_filters_as_milvus_reads_them(where, expression):
    assert filter_expression(where) == expression


def test_hashes_and_ids_as_milvus_reads_them():
    assert hash_expression(["ff", 'x" or "', "0a"]) == 'content_hash in ["0a", "ff"]'
    assert hash_expression(['"']) == "id < 0"
    assert ids_expression([np.int64(5), 1]) == "id in [1, 5]"


def test_messages_are_bounded_and_nothing_is_lost():
    rows = [row(thumbnail=bytes(size)) | {"id": size} for size in (0, 900, 40000, 10, 900, 20)]
    parts = batches(rows, 5000)
    assert [one for part in parts for one in part] == rows
    assert [len(part) for part in parts] == [2, 1, 3]
    assert all(len(part) == 1 or len(json.dumps([one | {"embedding": []} for one in part])) < 5000 for part in parts)
    assert batches([], 5000) == []
