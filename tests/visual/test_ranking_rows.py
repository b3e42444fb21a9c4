"""Which images a ranked list shows, against a brute-force ranking and the metrics."""

import numpy as np
import pytest

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import DataError, UsageError
from hat.metrics import evaluate_ranking
from hat.visual import rank_rows


def make_dataset(query_labels, gallery_labels):
    def split(name, labels):
        return Split(name, [Sample(f"{name}{index}.png", pid, camid) for index, (pid, camid) in enumerate(labels)])

    return ReIDDataset("made", split("train", []), split("query", query_labels), split("gallery", gallery_labels))


def random_case(seed, num_query=12, num_gallery=60):
    rng = np.random.default_rng(seed)
    query = list(zip(rng.integers(1, 8, num_query).tolist(), rng.integers(1, 4, num_query).tolist(), strict=True))
    gallery = list(zip(rng.integers(-1, 8, num_gallery).tolist(), rng.integers(1, 4, num_gallery).tolist(), strict=True))
    embeddings = rng.standard_normal((num_query + num_gallery, 6)).astype(np.float32)
    return embeddings[:num_query], embeddings[num_query:], make_dataset(query, gallery)


def ranking_by_loops(query, gallery, dataset, index):
    """(gallery index, similarity, right or wrong) of everything that is ranked, one image at a time."""
    asked, ranked = dataset.query[index], []
    for place, sample in enumerate(dataset.gallery):
        if sample.pid == -1 or (sample.pid == asked.pid and sample.camid == asked.camid):
            continue
        a, b = query[index].astype(np.float64), gallery[place].astype(np.float64)
        similarity = float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))
        ranked.append((place, similarity, sample.pid == asked.pid))
    return sorted(ranked, key=lambda item: -item[1])


@pytest.mark.parametrize("seed", range(5))
def test_rows_equal_a_ranking_by_loops(seed):
    query, gallery, dataset = random_case(seed)
    rows = rank_rows(query, gallery, dataset, num_queries=5, top_k=9, seed=seed)
    assert len(rows) == 5
    for row in rows:
        expected = ranking_by_loops(query, gallery, dataset, row.query)[:9]
        assert row.top.tolist() == [place for place, _, _ in expected]
        np.testing.assert_allclose(row.similarities, [value for _, value, _ in expected], atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_average_precisions_have_the_metrics_mean(seed):
    query, gallery, dataset = random_case(seed)
    rows = rank_rows(query, gallery, dataset, num_queries=1000)
    unit_query = query / np.linalg.norm(query, axis=1, keepdims=True)
    unit_gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    labels = (dataset.query.pids, dataset.query.camids, dataset.gallery.pids, dataset.gallery.camids)
    result = evaluate_ranking(1 - unit_query @ unit_gallery.T, *labels)
    assert len(rows) == result.num_queries
    assert np.mean([row.average_precision for row in rows]) == pytest.approx(result.mAP, abs=1e-6)
    first_right = [dataset.gallery.pids[row.top[0]] == dataset.query.pids[row.query] for row in rows]
    assert np.mean(first_right) == pytest.approx(result.cmc[0], abs=1e-6)


def test_same_camera_matches_and_junk_never_appear_though_they_are_nearest():
    #                           same camera, junk, other camera, distractor, other person in the same camera
    dataset = make_dataset([(5, 1)], [(5, 1), (-1, 2), (5, 2), (0, 3), (7, 1)])
    gallery = np.array([[1, 0], [1, 0.01], [1, 0.5], [1, 0.1], [1, 0.2]], dtype=np.float32)
    (row,) = rank_rows(np.array([[2.0, 0.0]], dtype=np.float32), gallery, dataset)
    assert row.top.tolist() == [3, 4, 2]
    assert row.average_precision == pytest.approx(1 / 3)
    assert row.similarities[2] == pytest.approx(1 / np.sqrt(1.25), abs=1e-6)


def test_equal_distances_are_ordered_by_gallery_index():
    dataset = make_dataset([(1, 1)], [(2, 2), (1, 2), (3, 2), (1, 3)])
    (row,) = rank_rows(np.ones((1, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32), dataset)
    assert row.top.tolist() == [0, 1, 2, 3]


def test_given_distances_replace_the_order_and_keep_the_similarities():
    query, gallery, dataset = random_case(3)
    distances = np.random.default_rng(9).random((len(query), len(gallery))).astype(np.float32)
    for row in rank_rows(query, gallery, dataset, distances=distances, top_k=5):
        similarities = {place: value for place, value, _ in ranking_by_loops(query, gallery, dataset, row.query)}
        expected = sorted(similarities, key=lambda place, query_index=row.query: distances[query_index, place])[:5]
        assert row.top.tolist() == expected
        np.testing.assert_allclose(row.similarities, [similarities[i] for i in expected], atol=1e-5)


def test_queries_are_chosen_as_asked_and_only_among_those_with_a_match():
    query, gallery, dataset = random_case(1)
    every = rank_rows(query, gallery, dataset, num_queries=1000)
    assert [row.query for row in every] == [
        index for index in range(len(query)) if any(right for *_, right in ranking_by_loops(query, gallery, dataset, index))
    ]
    drawn = [[row.query for row in rank_rows(query, gallery, dataset, num_queries=4, seed=seed)] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(queries) for queries in drawn}) > 1
    assert all(len(set(queries)) == 4 and queries == sorted(queries) for queries in drawn)


def test_a_query_without_a_match_is_not_shown():
    dataset = make_dataset([(1, 1), (2, 1), (-1, 1)], [(1, 1), (2, 2), (-1, 2)])
    rows = rank_rows(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), dataset)
    assert [row.query for row in rows] == [1]
    with pytest.raises(DataError, match="none of the 1 queries"):
        rank_rows(np.eye(1, 3), np.eye(3), make_dataset([(1, 1)], [(1, 1), (2, 2), (-1, 2)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_queries": 0}, "num_queries must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"query_embeddings": np.ones((2, 3))}, "got 2 query embeddings for the 1 images"),
        ({"gallery_embeddings": np.ones((2, 4))}, "equally wide"),
        ({"gallery_embeddings": np.ones((2, 3), dtype=np.int64)}, "must be float16"),
        ({"gallery_embeddings": np.zeros((2, 3))}, "row 0 is zero"),
        ({"query_embeddings": np.full((1, 3), np.nan)}, "row 0 is not finite"),
        ({"distances": np.ones((2, 2))}, "must be of shape"),
        ({"distances": np.full((1, 2), np.nan)}, "NaN"),
    ],
)
def test_wrong_requests_are_refused_with_a_reason(change, message):
    arguments = {"query_embeddings": np.ones((1, 3)), "gallery_embeddings": np.ones((2, 3)), **change}
    with pytest.raises(UsageError, match=message):
        rank_rows(dataset=make_dataset([(1, 1)], [(1, 2), (2, 2)]), **arguments)
