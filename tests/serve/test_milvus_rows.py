"""Records as rows and filters as expressions: nothing that a user writes is ever part of an expression."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from gallery_cases import new_record, passes
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UsageError
from hat.serve import Filter, Record
from hat.serve.gallery.record_checks import checked_filter, checked_records
from hat.serve.milvus.rows import MAX_THUMBNAIL_BYTES, among, batches, filter_expression, record_of, row_of

VECTOR = np.ones(4, np.float32) / 2
HOSTILE = ['"', "\\", "' or id > 0 or '", '") or (id > 0', "\x00", "é🙂", "a" * 4000, "%", "{x}", "\n"]
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=200))
NUMBERS = st.integers(-(2**62) + 1, 2**63 - 1)  # what lies below stands for names
VALUES = st.one_of(TEXTS, NUMBERS, st.floats(allow_nan=False, allow_infinity=False), st.booleans())
FEW = settings(max_examples=25, deadline=None)


def row(**fields):
    (record,) = checked_records([new_record("a", **fields)], 1)
    return row_of(replace(record, enrolled_s=2.5), 1, VECTOR)


@FEW
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3))
def test_no_attribute_gets_into_an_expression(attributes):
    parts = filter_expression(checked_filter(Filter(attributes=attributes))).split(" and ")
    assert len(parts) == len(attributes)
    assert all(re.fullmatch(r'\(array_contains\(attributes, "[0-9a-f]{32}"\)\)', part) for part in parts)


@FEW
@given(TEXTS, VALUES, TEXTS, VALUES)
def test_an_attribute_is_found_by_its_name_and_value_alone(name, value, other_name, other):
    """By what stands in the expression and in the row: Milvus then compares two texts."""
    kept = row(attributes={name: value})["attributes"]
    (asked,) = re.findall("[0-9a-f]{32}", filter_expression(Filter(attributes={other_name: other})))
    record = Record(**vars(new_record("a", attributes={name: value})) | {"id": 1, "enrolled_s": 0.0})
    assert (asked in kept) == passes(record, Filter(attributes={other_name: other}))


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [(1, 1.0, True), (-0.0, 0, True), (1, True, False), (False, 0, False), ("1", 1, False), (2.5, 2.5, True)],
)
def test_which_values_are_the_same(value, other, same):
    (key,) = row(attributes={"n": value})["attributes"]
    assert (key in filter_expression(Filter(attributes={"n": other}))) == same


@FEW
@given(
    TEXTS,
    st.one_of(st.none(), NUMBERS),
    st.one_of(st.none(), st.floats(-1e300, 1e300)),
    st.dictionaries(TEXTS, VALUES, max_size=4),
    st.one_of(st.none(), st.binary(min_size=1, max_size=50)),
)
def test_a_record_comes_back_as_it_was(source, number, time_s, attributes, thumbnail):
    labels = {"pid": number, "camid": number, "time_s": time_s}
    fields = {"source": source, "attributes": attributes, "thumbnail": thumbnail, **labels}
    back = record_of(row(**fields))
    assert back == Record(**vars(new_record("a", **fields)) | {"id": 1, "enrolled_s": 2.5})
    assert [type(value) for value in back.attributes.values()] == [type(value) for value in attributes.values()]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"time_s": -1.7e308}, "expected seconds"),  # what stands for an unknown one
        ({"camid": -(2**63)}, "at most 64 bits"),
        ({"attributes": {str(n): "é" * 4096 for n in range(9)}}, "bytes as JSON, Milvus keeps 65,535"),
        ({"thumbnail": bytes(MAX_THUMBNAIL_BYTES + 1)}, "make it smaller"),
    ],
)
def test_what_milvus_cannot_keep_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        row(**fields)
    assert len(row(thumbnail=bytes(MAX_THUMBNAIL_BYTES))["thumbnail"]) <= 65535


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        (None, ""),
        (Filter(camids=frozenset({3, -1})), "(camid in [-1, 3])"),
        (Filter(pids=frozenset()), "(id < 0)"),
        (Filter(pids=frozenset({2**70, -(2**63)})), "(id < 0)"),
        (Filter(exclude_camids=frozenset({2})), "(camid not in [2])"),
        (Filter(exclude_camids=frozenset({2**70})), ""),
        (Filter(exclude_ids=frozenset({2, np.int64(-5), 2**70})), "(id not in [-5, 2])"),
        (Filter(since_s=1.5), "(time_s >= 1.5)"),
        (Filter(until_s=10**300), "(time_s > -1.7e+308 and time_s < 1e+300)"),
        (Filter(since_s=-math.inf), "(time_s >= -1e+300)"),
    ],
)
def test_filters_as_milvus_reads_them(where, expression):
    assert filter_expression(checked_filter(where)) == expression


def test_among_lists_hashes_and_ids_as_milvus_reads_them():
    assert among("content_hash", ["ff", "0a"]) == 'content_hash in ["0a", "ff"]'
    assert among("id", [np.int64(5), 1]) == "id in [1, 5]"


def test_messages_are_bounded_and_nothing_is_lost():
    rows = [row(thumbnail=bytes(size)) | {"id": size} for size in (1, 900, 2000, 10, 900, 20)]
    for max_bytes, lengths in ((10_000, [3, 3]), (5000, [1] * 6), (500, [1] * 6), (100_000, [6])):
        parts = list(batches(rows, max_bytes))
        assert [one for part in parts for one in part] == rows and [len(part) for part in parts] == lengths
        assert all(len(part) == 1 or len(json.dumps([one | {"embedding": []} for one in part])) < max_bytes for part in parts)
    assert list(batches([], 5000)) == []
