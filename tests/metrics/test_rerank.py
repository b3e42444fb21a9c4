"""`rerank` against the formulas of the paper written with sets and loops, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import UsageError
from hat.metrics import rerank, reranking
from hat.metrics.ranking import squared_distances
from hat.metrics.reranking import NearestNeighbors, distance_blocks


def reference(queries, gallery, k1=20, k2=6, lambda_value=0.3):
    """Zhong et al., CVPR 2017, with Python sets; ties: the item itself first, then by index."""
    items = np.concatenate([queries, gallery]).astype(np.float64)
    num_items, num_query = len(items), len(queries)
    squared = ((items[:, None] - items[None]) ** 2).sum(-1)
    # The authors divide by the largest of each column and transpose.
    original = (squared / squared.max(axis=0)).T
    order = [sorted(range(num_items), key=lambda j, i=i: (j != i, original[i, j], j)) for i in range(num_items)]

    def reciprocal(i, k):
        """R(i, k) of Eq. 2, the item itself included."""
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encodings = np.zeros((num_items, num_items))
    half = int(np.around(k1 / 2))
    for i in range(num_items):
        core = reciprocal(i, k1)
        expanded = set(core)
        for candidate in core:
            theirs = reciprocal(candidate, half)
            if len(core & theirs) > 2 / 3 * len(theirs):  # Eq. 5
                expanded |= theirs
        for j in expanded:
            encodings[i, j] = np.exp(-original[i, j])  # Eq. 7
        encodings[i] /= encodings[i].sum()
    encodings = np.stack([encodings[order[i][:k2]].mean(axis=0) for i in range(num_items)])  # Eq. 11

    result = np.empty((num_query, len(gallery)))
    for q in range(num_query):
        for g in range(len(gallery)):
            minima = np.minimum(encodings[q], encodings[num_query + g]).sum()
            jaccard = 1 - minima / (2 - minima)  # Eq. 10, each encoding having sum 1
            result[q, g] = (1 - lambda_value) * jaccard + lambda_value * original[q, num_query + g]  # Eq. 12
    return result


def clustered(seed, num_query, num_gallery, embed_dim=16, num_pids=6, spread=0.8, unit=True):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((num_pids, embed_dim))
    rows = centers[rng.integers(0, num_pids, num_query + num_gallery)]
    rows = rows + spread * rng.standard_normal(rows.shape)
    if unit:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:num_query].astype(np.float32), rows[num_query:].astype(np.float32)


@pytest.mark.parametrize(
    ("num_query", "num_gallery", "k1", "k2", "lambda_value"),
    [
        (20, 80, 20, 6, 0.3),
        (50, 300, 20, 6, 0.3),
        (1, 60, 20, 6, 0.3),
        (60, 1, 20, 6, 0.3),
        (15, 70, 7, 3, 0.5),
        (15, 70, 5, 1, 0.3),
        (15, 70, 3, 2, 0.0),
        (15, 70, 1, 1, 0.7),
        (15, 70, 4, 9, 0.3),  # k2 beyond k1 + 1
        (4, 8, 20, 6, 0.3),  # fewer items than k1
        (1, 2, 20, 6, 0.3),  # and fewer than k2
        (1, 1, 20, 6, 0.3),
        (4, 8, 10**9, 6, 0.3),
    ],
)
@pytest.mark.parametrize("unit", [True, False])
def test_equal_to_the_paper(num_query, num_gallery, k1, k2, lambda_value, unit):
    sides = clustered(num_query + k1, num_query, num_gallery, unit=unit)
    result = rerank(*sides, k1=k1, k2=k2, lambda_value=lambda_value)
    assert result.dtype == np.float32
    assert result.shape == (num_query, num_gallery)
    np.testing.assert_allclose(result, reference(*sides, k1, k2, lambda_value), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_query=st.integers(1, 12),
    num_gallery=st.integers(1, 30),
    k1=st.integers(1, 25),
    k2=st.integers(1, 8),
    lambda_value=st.floats(0, 1),
)
def test_random_parameters_equal_the_paper(seed, num_query, num_gallery, k1, k2, lambda_value):
    # Rows on a grid of integers have exact distances, so that ties are true ties in both and none is made by rounding.
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.integers(-3, 4, (n, 6)).astype(np.float32) for n in (num_query, num_gallery))
    if len(np.unique(np.concatenate([queries, gallery]), axis=0)) == 1:
        return  # every distance is 0, where the paper divides by 0
    expected = reference(queries, gallery, k1, k2, lambda_value)
    np.testing.assert_allclose(rerank(queries, gallery, k1, k2, lambda_value), expected, rtol=0, atol=1e-5)


def test_blocks_do_not_matter_nor_more_exact_duplicates_than_neighbors(monkeypatch):
    sides = clustered(5, 10, 30)
    expected = reference(*sides)
    for block_rows, block_entries in [(1, 1), (7, 100), (64, 2**22), (4096, 5000)]:
        monkeypatch.setattr(reranking, "_BLOCK_ROWS", block_rows)
        monkeypatch.setattr(reranking, "_BLOCK_ENTRIES", block_entries)
        np.testing.assert_allclose(rerank(*sides), expected, rtol=0, atol=1e-5)
    # Thirty images of one picture: each has 29 others at distance 0, more than k1 holds.
    queries, gallery = clustered(6, 5, 40)
    gallery[5:35] = gallery[5]
    np.testing.assert_allclose(rerank(queries, gallery, k1=6), reference(queries, gallery, k1=6), rtol=0, atol=1e-5)


def test_lambda_one_is_the_original_distance_and_zero_is_pure_jaccard():
    queries, gallery = clustered(7, 10, 40)
    items = np.concatenate([queries, gallery]).astype(np.float64)
    squared = ((queries[:, None] - items[None]) ** 2).sum(-1)
    original = squared[:, 10:] / squared.max(axis=1, keepdims=True)
    np.testing.assert_allclose(rerank(queries, gallery, lambda_value=1), original, rtol=0, atol=1e-5)
    far_apart = np.kron(np.eye(2, dtype=np.float32), np.ones((3, 1), dtype=np.float32))
    # Two groups of three equal rows: within a group the encodings are equal, between groups they share nothing.
    assert rerank(far_apart[:1], far_apart[1:], k1=2, k2=1, lambda_value=0).tolist() == [[0, 0, 1, 1, 1]]
    # Where all are equal, distances are 0 and not NaN.
    assert rerank(np.ones((2, 4), dtype=np.float32), np.ones((3, 4), dtype=np.float32), k1=10).tolist() == [[0] * 3] * 2


def test_inputs_are_left_as_they_are():
    sides = clustered(9, 20, 90)
    before = [side.copy() for side in sides]
    rerank(*sides)
    assert all(np.array_equal(*pair) for pair in zip(sides, before, strict=True))


def test_wrong_parameters_and_embeddings_are_refused():
    wrong = {"k1": [0, 2.0], "k2": [0, True], "lambda_value": [1.01, -0.1, float("nan"), "0.3"]}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        expected = "a number from 0 to 1" if name == "lambda_value" else "an integer of at least 1"
        with pytest.raises(UsageError, match=f"{name} must be {expected}, got {value!r}"):
            rerank(*clustered(11, 3, 5), **{name: value})
    queries, gallery = clustered(12, 3, 5)
    with pytest.raises(UsageError, match="equally wide"):
        rerank(queries, gallery[:, :-1])
    with pytest.raises(UsageError, match="query_embeddings must be a matrix"):
        rerank(queries[0], gallery)
    with pytest.raises(UsageError, match="gallery_embeddings row 4 is not finite"):
        rerank(queries, gallery * np.array([[1], [1], [1], [1], [1e25]], dtype=np.float32))
    gallery[2, 0] = np.nan
    with pytest.raises(UsageError, match="gallery_embeddings row 2 is not finite"):
        rerank(queries, gallery)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_items=st.integers(1, 30), block_rows=st.integers(1, 30), data=st.data())
def test_nearest_neighbors_equal_a_sort_with_many_ties(seed, num_items, block_rows, data):
    num_neighbors = data.draw(st.integers(1, num_items))
    items = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (num_items, 2)).astype(np.float32))
    nearest = NearestNeighbors(num_items, num_neighbors)
    blocks = list(distance_blocks(items, items.square().sum(1), block_rows))
    for rows, columns, block in data.draw(st.permutations(blocks)):
        nearest.update(rows, columns, block)
        if rows != columns:
            nearest.update(columns, rows, block.T.contiguous())
    squared = (items[:, None] - items[None]).square().sum(-1)
    expected = [
        sorted(range(num_items), key=lambda j, i=i: (j != i, float(squared[i, j]), j))[:num_neighbors] for i in range(num_items)
    ]
    assert nearest.indices().tolist() == expected
    np.testing.assert_allclose(nearest.distances(), np.take_along_axis(squared.numpy(), np.array(expected), 1), atol=1e-5)


def test_squared_distances_are_never_negative():
    # Rows that are nearly equal: what is left of |a|² + |b|² - 2ab is rounding, of either sign.
    rng = np.random.default_rng(13)
    rows = torch.from_numpy(rng.standard_normal((1, 64)) + 1e-5 * rng.random((50, 64))).float()
    squares = rows.square().sum(1)
    raw = squares[:, None] + squares - 2 * rows @ rows.T
    assert raw.min() < 0
    assert squared_distances(rows, squares, rows, squares).min() >= 0
