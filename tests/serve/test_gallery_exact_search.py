"""The search itself against sorting everything: every row type, chunking, mask and degenerate case."""

import numpy as np
import pytest
from gallery_cases import unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.serve.search import exact_search
from hat.serve.search.exact_search import nearest_rows


def sorted_rows(matrix, queries, top, passing=None):
    """The answer by sorting every product."""
    products = np.clip((queries.astype(np.float64) @ matrix.astype(np.float64).T).astype(np.float32), -1, 1)
    allowed = np.arange(len(matrix)) if passing is None else np.flatnonzero(passing)
    rows = np.full((len(queries), top), -1)
    similarities = np.full((len(queries), top), np.nan, dtype=np.float32)
    for query in range(len(queries)):
        order = allowed[np.lexsort((allowed, -products[query, allowed]))][:top]
        rows[query, : len(order)], similarities[query, : len(order)] = order, products[query, order]
    return rows, similarities


def chunked(matrix, size):
    return [matrix[first : first + size] for first in range(0, len(matrix), size)]


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 300),
    num_distinct=st.integers(1, 300),
    dim=st.integers(1, 40),
    num_queries=st.integers(1, 20),
    top=st.integers(1, 40),
    chunk=st.integers(1, 300),
    share=st.one_of(st.none(), st.floats(0, 1)),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_it_finds_what_sorting_everything_finds(seed, num_rows, num_distinct, dim, num_queries, top, chunk, share, dtype):
    rng = np.random.default_rng(seed)
    distinct = unit_rows(num_distinct, seed, dim)
    # Many rows are equal, or opposite: ties, also at the ends of the range.
    matrix = (distinct[rng.integers(0, num_distinct, num_rows)] * rng.choice([-1, 1], (num_rows, 1))).astype(dtype)
    queries = distinct[rng.integers(0, num_distinct, num_queries)]
    passing = None if share is None else rng.random(num_rows) < share
    found = nearest_rows(chunked(matrix, chunk), queries, top, passing)
    assert_same(found, sorted_rows(matrix, queries, top, passing))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("num_queries", [1, 3, 40])
def test_rows_that_differ_in_the_last_bits_only_are_told_apart(dtype, num_queries):
    """As those of a model that was never trained: float32 products cannot rank them, so nearly all rows are candidates."""
    rng = np.random.default_rng(1)
    matrix = unit_rows(1, dim=256) + 1e-6 * rng.standard_normal((3000, 256))
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(dtype)
    queries = matrix[:num_queries].astype(np.float32)
    found = nearest_rows(chunked(matrix, 700), queries, 10)
    assert_same(found, sorted_rows(matrix, queries, 10))
    # The nearest is far ahead, and all that follow are as near as each other.
    queries, near = unit_rows(num_queries, 2, dim=256), unit_rows(1, dim=256) + 1e-8 * rng.standard_normal((3000, 256))
    matrix = np.concatenate([queries, near]).astype(dtype)
    assert_same(nearest_rows(chunked(matrix, 700), queries, 10), sorted_rows(matrix, queries, 10))


def test_more_equal_rows_than_are_kept_and_rows_in_the_order_of_their_similarity():
    matrix = np.repeat(unit_rows(3, dim=16), 1000, axis=0)  # a thousand rows are equally near
    queries = unit_rows(20, 5, dim=16)
    for mask in (None, *(np.random.default_rng(0).random(3000) < share for share in (0.6, 0.1))):
        assert_same(nearest_rows(chunked(matrix, 100), queries, 7, mask), sorted_rows(matrix, queries, 7, mask))
    rows, query = unit_rows(2000, dim=16), queries[:1]
    ascending = rows[np.argsort(rows @ query[0])]  # every chunk is better than all before it
    for rows in (ascending, ascending[::-1]):
        assert_same(nearest_rows(chunked(rows, 64), query, 5), sorted_rows(rows, query, 5))


def test_a_query_has_one_answer_alone_and_among_others():
    matrix, queries = unit_rows(3000, dim=64), unit_rows(600, 3, dim=64)  # more than are searched in one pass
    together = nearest_rows(chunked(matrix, 512), queries, 10)
    assert len(queries) > exact_search.QUERIES_AT_ONCE
    for query in (0, 299, 599):
        alone = nearest_rows(chunked(matrix, 3000), queries[query : query + 1], 10)
        assert_same(alone, (together[0][query : query + 1], together[1][query : query + 1]))


@pytest.mark.parametrize("share", [1.0, 0.7, 0.05, 0.0])
@pytest.mark.parametrize("num_queries", [1, 40])
def test_half_precision_is_converted_block_by_block(share, num_queries, monkeypatch):
    matrix, queries = unit_rows(4000, dim=48).astype(np.float16), unit_rows(num_queries, 8, dim=48)
    mask = np.random.default_rng(0).random(4000) < share
    monkeypatch.setattr(exact_search, "FLOAT32_BLOCK_BYTES", 4 * 48 * 100)
    monkeypatch.setattr(exact_search, "MAX_PRODUCTS", 3000)
    assert_same(nearest_rows(chunked(matrix, 1500), queries, 10, mask), sorted_rows(matrix, queries, 10, mask))
