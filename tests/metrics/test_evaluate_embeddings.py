"""`evaluate_embeddings` gives what `evaluate_ranking` gives on the whole matrix, for every block size, type and layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hat.errors import UsageError
from hat.metrics import evaluate_embeddings, evaluate_ranking, ranking


def labels_of(rng, num_query, num_gallery, num_pids=8):
    return (
        rng.integers(1, num_pids + 1, num_query),
        rng.integers(0, 3, num_query),
        rng.integers(-1, num_pids, num_gallery),
        rng.integers(0, 3, num_gallery),
    )


def random_case(seed, num_query=37, num_gallery=211, embed_dim=24):
    rng = np.random.default_rng(seed)
    sides = (rng.standard_normal((n, embed_dim)).astype(np.float32) for n in (num_query, num_gallery))
    return (*sides, *labels_of(rng, num_query, num_gallery))


def whole_matrix(queries, gallery, metric):
    """All distances in float64, by another formula than the one under test."""
    queries, gallery = (np.asarray(side, dtype=np.float64) for side in (queries, gallery))
    if metric == "euclidean":
        return np.sqrt(((queries[:, None] - gallery[None]) ** 2).sum(-1))
    cosines = queries @ gallery.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    return 1 - cosines


def assert_same(result, expected):
    assert result.mAP == pytest.approx(expected.mAP, abs=1e-12)
    assert result.mINP == pytest.approx(expected.mINP, abs=1e-12)
    assert result.cmc.tolist() == expected.cmc.tolist()
    assert result.num_skipped_queries == expected.num_skipped_queries


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("block_bytes", "gallery_rows"), [(1, 8192), (4 * 211 * 5, 10), (2**28, 64), (2**28, 8192)])
def test_equal_to_the_whole_matrix_for_any_block(monkeypatch, metric, block_bytes, gallery_rows):
    monkeypatch.setattr(ranking, "_GALLERY_ROWS", gallery_rows)
    queries, gallery, *labels = random_case(1)
    expected = evaluate_ranking(whole_matrix(queries, gallery, metric), *labels)
    assert_same(evaluate_embeddings(queries, gallery, *labels, metric=metric, block_bytes=block_bytes), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_bytes", [1, 4 * 120 * 7, 2**28])
def test_exact_ties_go_to_the_smaller_gallery_index(monkeypatch, metric, block_bytes):
    # Vectors of four entries of +-1/2 have length 1, and all their products are exact in float32: many true ties, no rounding.
    monkeypatch.setattr(ranking, "_GALLERY_ROWS", 50)
    rng = np.random.default_rng(2)
    queries, gallery = (rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32) for n in (30, 120))
    labels = labels_of(rng, 30, 120, num_pids=4)
    distances = 1 - queries @ gallery.T
    assert len(np.unique(distances)) <= 5
    expected = evaluate_ranking(distances, *labels)
    assert_same(evaluate_embeddings(queries, gallery, *labels, metric=metric, block_bytes=block_bytes), expected)


def test_cosine_does_not_depend_on_the_length_of_rows_and_euclidean_does():
    queries, gallery, *labels = random_case(3)
    scales = np.random.default_rng(4).choice([0.25, 1, 8], (len(gallery), 1)).astype(np.float32)
    plain, scaled = (evaluate_embeddings(queries, side, *labels) for side in (gallery, gallery * scales))
    assert scaled == plain
    assert evaluate_embeddings(queries, gallery * scales, *labels, metric="euclidean").mAP != plain.mAP


@pytest.mark.parametrize("kind", ["torch", "float16", "half tensor", "bfloat16", "float64", "memmap", "fortran", "gradient"])
def test_every_type_and_layout(tmp_path, kind):
    queries, gallery, *labels = random_case(5)
    if kind == "memmap":
        gallery.tofile(tmp_path / "gallery.bin")
    make = {
        "torch": torch.from_numpy,
        "float16": lambda side: side.astype(np.float16),
        "half tensor": lambda side: torch.from_numpy(side).half(),
        "bfloat16": lambda side: torch.from_numpy(side).bfloat16(),
        "float64": lambda side: side.astype(np.float64),
        "memmap": lambda side: (
            np.memmap(tmp_path / "gallery.bin", np.float32, "r", shape=gallery.shape) if side is gallery else side
        ),
        "fortran": np.asfortranarray,
        "gradient": lambda side: torch.from_numpy(side).requires_grad_(),
    }[kind]
    sides = [make(queries), make(gallery)]
    values = [side.detach().double().numpy() if isinstance(side, torch.Tensor) else side for side in sides]
    assert_same(evaluate_embeddings(*sides, *labels), evaluate_ranking(whole_matrix(*values, "cosine"), *labels))


def test_float64_embeddings_are_compared_in_float64():
    # 1 and 1 - 1e-10 are one number in float32: the match at index 1 would lose the tie.
    result = evaluate_embeddings(
        np.array([[0.0]]), np.array([[1.0], [1.0 - 1e-10]]), [1], [0], [2, 1], [1, 1], metric="euclidean"
    )
    assert result.rank1 == 1


def test_lowered_matmul_precision_of_a_training_run_changes_nothing():
    queries, gallery, *labels = random_case(6, embed_dim=256)
    expected = evaluate_embeddings(queries, gallery, *labels)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert evaluate_embeddings(queries, gallery, *labels) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_unequal_widths_are_refused():
    queries, gallery, *labels = random_case(8)
    with pytest.raises(UsageError, match="equally wide, got 24 and 23"):
        evaluate_embeddings(queries, gallery[:, 1:], *labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_value_that_is_not_finite_is_named_by_side_and_row(side, value):
    case = random_case(9)
    case[side][11, 3] = value
    with pytest.raises(UsageError, match=rf"{'query' if side == 0 else 'gallery'}_embeddings row 11 is not finite"):
        evaluate_embeddings(*case)


def test_row_of_zeros_has_no_cosine_but_a_euclidean_distance():
    queries, gallery, *labels = random_case(10)
    gallery[200] = 0
    with pytest.raises(UsageError, match="gallery_embeddings row 200 is zero"):
        evaluate_embeddings(queries, gallery, *labels)
    expected = evaluate_ranking(whole_matrix(queries, gallery, "euclidean"), *labels)
    assert_same(evaluate_embeddings(queries, gallery, *labels, metric="euclidean"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "manhattan"}, "metric must be one of cosine, euclidean, got 'manhattan'"),
        ({"max_rank": 0}, "max_rank"),
        ({"block_bytes": 0}, "block_bytes"),
    ],
)
def test_wrong_options_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        evaluate_embeddings(*random_case(11), **change)


def test_enormous_rows_are_refused_and_not_ranked_by_an_overflow():
    with pytest.raises(UsageError, match="gallery_embeddings row 1 is not finite"):
        evaluate_embeddings(np.ones((1, 2), np.float32), np.array([[1, 2], [1e19, 1]], np.float32), [1], [0], [1, 2], [1, 1])
