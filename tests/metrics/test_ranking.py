"""`evaluate_ranking` against a brute-force double loop and cases worked out by hand; `evaluate_embeddings` against it."""

import itertools
import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import DataError, UsageError
from hat.metrics import evaluate_embeddings, evaluate_ranking, ranking


def brute_force(distmat, query_pids, query_camids, gallery_pids, gallery_camids, max_rank=50):
    """The protocol word by word: (mAP, cmc, mINP, num_queries, num_skipped), or None where nothing is counted."""
    precisions, penalties, first_ranks = [], [], []
    skipped = 0
    for query, row in enumerate(distmat):
        ranked = []
        for index, distance in enumerate(row):
            if gallery_pids[index] == -1:
                continue
            if gallery_pids[index] == query_pids[query] and gallery_camids[index] == query_camids[query]:
                continue
            ranked.append((float(distance), index))
        ranked.sort()  # a pair sorts by distance and then by gallery index
        hits = [rank for rank, (_, index) in enumerate(ranked, start=1) if gallery_pids[index] == query_pids[query]]
        if not hits:
            skipped += 1
            continue
        precisions.append(sum((found + 1) / rank for found, rank in enumerate(hits)) / len(hits))
        penalties.append(len(hits) / hits[-1])
        first_ranks.append(hits[0])
    if not first_ranks:
        return None
    length = min(max_rank, sum(1 for pid in gallery_pids if pid != -1))
    counted = len(first_ranks)
    cmc = [sum(first <= k for first in first_ranks) / counted for k in range(1, length + 1)]
    return sum(precisions) / counted, cmc, sum(penalties) / counted, counted, skipped


def assert_equals_brute_force(result, expected):
    mean_ap, cmc, inp, counted, skipped = expected
    assert result.mAP == pytest.approx(mean_ap, abs=1e-12)
    assert result.mINP == pytest.approx(inp, abs=1e-12)
    assert result.cmc.tolist() == pytest.approx(cmc, abs=1e-12)
    assert (result.num_queries, result.num_skipped_queries) == (counted, skipped)


# Distances (a row for each query), query pids and camids, gallery pids and camids; the metrics worked out by hand.
HAND = {
    # Order: g2 (match), g0 (wrong), g3 (match), g1 (wrong); matches at ranks 1 and 3: AP = (1/1 + 2/3) / 2, INP = 2/3.
    "two matches": ([[0.2, 0.4, 0.1, 0.3]], [7], [0], [5, 6, 7, 7], [1, 1, 1, 2], {"mAP": 5 / 6, "mINP": 2 / 3, "rank1": 1}),
    # A match at rank 2: the mean of precisions is 1/2, where trapezoids would give (0 + 1/2) / 2.
    "mean and not trapezoid": ([[1.0, 2.0]], [1], [0], [2, 1], [1, 1], {"mAP": 1 / 2}),
    # Query 0 (pid 1, cam 0): g0 is of its own camera and leaves; g1 (pid 2), then the match g2, then g3: AP = INP = 1/2.
    # Query 1 (pid 2, cam 0): g3, g2, g0, then the match g1: AP = INP = 1/4. Query 2 (pid 9) has no match and enters no mean.
    "a query without a match": (
        [[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]],
        *([1, 2, 9], [0, 0, 0], [1, 2, 1, 0], [0, 1, 1, 3]),
        {"mAP": 3 / 8, "mINP": 3 / 8, "cmc": [0, 0.5, 0.5, 1], "num_queries": 2, "num_skipped_queries": 1},
    ),
    # g0 would be rank 1: as junk it leaves no trace, as distractor it pushes the match to rank 2.
    "junk": ([[0.1, 0.2, 0.3]], [4], [0], [-1, 4, 5], [1, 1, 1], {"mAP": 1, "rank1": 1, "num_gallery": 2}),
    "distractor": ([[0.1, 0.2, 0.3]], [4], [0], [0, 4, 5], [1, 1, 1], {"mAP": 1 / 2, "rank1": 0, "num_gallery": 3}),
    "query that is junk": ([[0.1, 0.2]] * 2, [-1, 3], [0, 0], [-1, 3], [1, 1], {"mAP": 1, "num_skipped_queries": 1}),
    "pid 0 of a query": ([[0.1, 0.2]], [0], [0], [0, 1], [1, 1], {"mAP": 1}),
    "tie, match first": ([[0.0, 0.0]], [1], [0], [1, 2], [1, 1], {"mAP": 1, "rank1": 1}),
    "tie, match second": ([[0.0, 0.0]], [1], [0], [2, 1], [1, 1], {"mAP": 1 / 2, "rank1": 0}),
    # g0 (same camera), g1 (junk) and g2 (match) are all infinitely far; only g3 is nearer: the match is second.
    "tie at infinity": ([[np.inf, np.inf, np.inf, 0.0]], [1], [0], [1, -1, 1, 2], [0, 1, 1, 1], {"mAP": 1 / 2}),
    # Rounded to float32 the two would tie, and the match at index 1 come second.
    "float64": ([[1.0 + 1e-12, 1.0]], [1], [0], [2, 1], [1, 1], {"rank1": 1}),
    "ranks beyond the gallery": ([[0.1, 0.2]], [1], [0], [2, 1], [1, 1], {"cmc": [0, 1], "rank1": 0, "rank5": 1, "rank10": 1}),
}


@pytest.mark.parametrize("max_counted", [128, 0], ids=["counting", "sorting"])
@pytest.mark.parametrize("name", HAND)
def test_cases_by_hand(name, max_counted, monkeypatch):
    monkeypatch.setattr(ranking, "_MAX_COUNTED_MATCHES", max_counted)  # both ways in which the ranks of a row are found
    distmat, *labels, expected = HAND[name]
    result = evaluate_ranking(np.array(distmat), *labels, max_rank=10**12)
    for metric, value in expected.items():
        assert np.asarray(getattr(result, metric)).tolist() == pytest.approx(value), metric


@st.composite
def cases(draw):
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    labels = st.integers(-1, 3)
    cameras = st.integers(0, 2)
    # Few values make many ties; infinity is a legal distance.
    few = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -1.0, float("inf")])
    values = few if draw(st.booleans()) else st.floats(0, 2, width=32)
    return (
        draw(hnp.arrays(np.float32, (num_query, num_gallery), elements=values)),
        *(draw(hnp.arrays(np.int64, n, elements=e)) for n in (num_query, num_gallery) for e in (labels, cameras)),
    )


@settings(max_examples=200, deadline=None)
@given(case=cases(), max_rank=st.integers(1, 20), sort_beyond=st.sampled_from([0, 2, 128]))
def test_random_cases_equal_the_brute_force(case, max_rank, sort_beyond):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_MAX_COUNTED_MATCHES", sort_beyond)
        expected = brute_force(*case, max_rank=max_rank)
        if expected is None:
            with pytest.raises(DataError, match="has a match"):
                evaluate_ranking(*case, max_rank=max_rank)
        else:
            assert_equals_brute_force(evaluate_ranking(*case, max_rank=max_rank), expected)


def random_case(seed):
    rng, num_query, num_gallery, num_pids = np.random.default_rng(seed), 40, 300, 12
    return (
        rng.permutation(num_query * num_gallery).reshape(num_query, num_gallery) / (num_query * num_gallery),
        rng.integers(1, num_pids + 2, num_query),
        rng.integers(0, 4, num_query),
        rng.integers(-1, num_pids, num_gallery),
        rng.integers(0, 4, num_gallery),
    )


def test_blocks_of_rows_do_not_matter(monkeypatch):
    case = random_case(1)
    expected = brute_force(*case)
    for block_bytes in (1, 8 * 300 * 7, 2**24):
        monkeypatch.setattr(ranking, "_BLOCK_BYTES", block_bytes)
        assert_equals_brute_force(evaluate_ranking(*case), expected)


def test_every_float_type_and_layout_is_ranked_by_its_own_values():
    distmat, *labels = random_case(4)
    for given_ in (
        distmat.astype(np.float16),
        torch.tensor(distmat, dtype=torch.float32),
        distmat,
        torch.tensor(distmat, dtype=torch.bfloat16),
        np.asfortranarray(distmat),
        np.repeat(distmat, 2, axis=1)[::1, ::-2][:, ::-1],
        np.frombuffer(distmat.tobytes()).reshape(distmat.shape),  # read-only
        torch.tensor(distmat, requires_grad=True),
    ):
        values = given_.detach().double().numpy() if isinstance(given_, torch.Tensor) else given_.astype(np.float64)
        assert_equals_brute_force(evaluate_ranking(given_, *labels), brute_force(values, *labels))


def test_labels_as_lists_small_integers_and_tensors_are_the_same_and_the_matrix_is_not_written_to():
    distmat, *labels = random_case(6)
    before = distmat.copy()
    expected = evaluate_ranking(distmat, *labels)
    assert np.array_equal(distmat, before)
    assert evaluate_ranking(distmat, *(label.tolist() for label in labels)) == expected
    assert evaluate_ranking(distmat, *(label.astype(np.int16) for label in labels)) == expected
    assert evaluate_ranking(distmat, *(torch.from_numpy(label) for label in labels)) == expected


GOOD = (np.zeros((2, 3)), [1, 2], [0, 0], [1, 2, 3], [1, 1, 1])


def test_wrong_input_is_named():
    for position, value, message in [
        (0, [[0.0]], "NumPy array or a torch tensor"),
        (0, np.zeros((2, 3), dtype=np.int64), "float16, float32 or float64, got int64"),
        (0, torch.zeros(2, 3, dtype=torch.int32), "got torch.int32"),
        (0, np.zeros(6), r"got shape \(6,\)"),
        (0, np.zeros((0, 3)), "no empty side"),
        (0, np.zeros((2, 0)), "no empty side"),
        (1, [1], r"query_pids must be a vector of 2 integers.*shape \(1,\)"),
        (2, [[0, 0]], "query_camids"),
        (3, [1.0, 2.0, 3.0], "gallery_pids must be integers.*float64"),
        (3, [[1], [2, 3]], "gallery_pids"),
        (3, np.array([1, 2, 2**63], dtype=np.uint64), "64 bits"),
        (4, ["a", "b", "c"], "gallery_camids must be integers"),
        (4, [True, False, True], "got bool"),
    ]:
        arguments = [*GOOD[:position], value, *GOOD[position + 1 :]]
        with pytest.raises(UsageError, match=message):
            evaluate_ranking(*arguments)


def test_wrong_max_rank_nan_and_queries_without_any_match_are_errors():
    for max_rank in (0, -1, 2.5, True, "5"):
        with pytest.raises(UsageError, match="max_rank must be an integer of at least 1"):
            evaluate_ranking(*GOOD, max_rank=max_rank)
    distmat = np.zeros((2, 3))
    distmat[1, 2] = np.nan  # of a query without a match
    with pytest.raises(UsageError, match="query 1 and gallery image 2 is NaN"):
        evaluate_ranking(distmat, [1, 9], [0, 0], [1, 2, 3], [1, 1, 1])
    with pytest.raises(DataError, match="none of the 2 queries has a match"):
        evaluate_ranking(np.zeros((2, 3)), [1, 2], [0, 0], [1, 2, -1], [0, 0, 1])


def test_result_as_json_and_as_text():
    result = evaluate_ranking(np.array([[0.1, 0.2], [0.2, 0.1]]), [1, 9], [0, 0], [2, 1], [1, 1])
    counts = {"num_queries": 1, "num_skipped_queries": 1, "num_gallery": 2}
    expected = {"mAP": 0.5, "rank1": 0.0, "rank5": 1.0, "rank10": 1.0, "mINP": 0.5, **counts}
    assert json.loads(json.dumps(result.to_dict())) == expected
    rates = "mAP 50.00 %, Rank-1 0.00 %, Rank-5 100.00 %, Rank-10 100.00 %, mINP 50.00 %"
    assert str(result) == f"{rates} (1 queries, 1 without a match left out, 2 gallery images)"


def test_a_rank_that_was_not_evaluated_is_an_error_and_none_in_json():
    distmat, *labels = random_case(7)
    result = evaluate_ranking(distmat, *labels, max_rank=5)
    assert result.to_dict()["rank10"] is None
    assert "Rank-10" not in str(result)
    with pytest.raises(UsageError, match="evaluate with max_rank=10 or more"):
        _ = result.rank10
    with pytest.raises(UsageError, match="counted from 1"):
        result.rank(0)
    # A match beyond the last rank is counted in the means, but not in the CMC.
    result = evaluate_ranking(np.array([[0.1, 0.2, 0.3]]), [1], [0], [2, 2, 1], [1, 1, 1], max_rank=2)
    assert result.cmc.tolist() == [0, 0] and result.mAP == pytest.approx(1 / 3)


def test_result_cannot_be_changed_and_compares_by_value():
    distmat, *labels = random_case(8)
    result = evaluate_ranking(distmat, *labels)
    assert result == evaluate_ranking(distmat, *labels)
    assert result != evaluate_ranking(-distmat, *labels)
    assert result != evaluate_ranking(distmat, *labels, max_rank=20)
    with pytest.raises(ValueError, match="read-only"):
        result.cmc[0] = 1


def labels_of(rng, num_query, num_gallery, num_pids=8):
    return (
        rng.integers(1, num_pids + 1, num_query),
        rng.integers(0, 3, num_query),
        rng.integers(-1, num_pids, num_gallery),
        rng.integers(0, 3, num_gallery),
    )


def random_embeddings(seed, num_query=37, num_gallery=211, embed_dim=24):
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
    assert (result.mAP, result.mINP) == pytest.approx((expected.mAP, expected.mINP), abs=1e-12)
    assert result.cmc.tolist() == expected.cmc.tolist()
    assert result.num_skipped_queries == expected.num_skipped_queries


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("block_bytes", "gallery_rows"), [(1, 8192), (4 * 211 * 5, 10), (2**28, 64), (2**28, 8192)])
def test_equal_to_the_whole_matrix_for_any_block(monkeypatch, metric, block_bytes, gallery_rows):
    monkeypatch.setattr(ranking, "_GALLERY_ROWS", gallery_rows)
    queries, gallery, *labels = random_embeddings(1)
    expected = evaluate_ranking(whole_matrix(queries, gallery, metric), *labels)
    assert_same(evaluate_embeddings(queries, gallery, *labels, metric=metric, block_bytes=block_bytes), expected)


def test_exact_ties_go_to_the_smaller_gallery_index(monkeypatch):
    # Vectors of four entries of +-1/2 have length 1, and all their products are exact in float32: many true ties, no rounding.
    monkeypatch.setattr(ranking, "_GALLERY_ROWS", 50)
    rng = np.random.default_rng(2)
    queries, gallery = (rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32) for n in (30, 120))
    labels = labels_of(rng, 30, 120, num_pids=4)
    distances = 1 - queries @ gallery.T
    assert len(np.unique(distances)) <= 5
    expected = evaluate_ranking(distances, *labels)
    for metric, block_bytes in itertools.product(["cosine", "euclidean"], [1, 4 * 120 * 7, 2**28]):
        assert_same(evaluate_embeddings(queries, gallery, *labels, metric=metric, block_bytes=block_bytes), expected)


def test_every_type_and_layout(tmp_path):
    queries, gallery, *labels = random_embeddings(5)
    gallery.tofile(tmp_path / "gallery.bin")
    mapped = np.memmap(tmp_path / "gallery.bin", np.float32, "r", shape=gallery.shape)
    for make in (
        torch.from_numpy,
        lambda side: side.astype(np.float16),
        lambda side: torch.from_numpy(side).half(),
        lambda side: torch.from_numpy(side).bfloat16(),
        lambda side: side.astype(np.float64),
        lambda side: mapped if side is gallery else side,
        np.asfortranarray,
        lambda side: torch.from_numpy(side).requires_grad_(),
    ):
        sides = [make(queries), make(gallery)]
        values = [side.detach().double().numpy() if isinstance(side, torch.Tensor) else side for side in sides]
        assert_same(evaluate_embeddings(*sides, *labels), evaluate_ranking(whole_matrix(*values, "cosine"), *labels))
    # 1 and 1 - 1e-10 are one number in float32: the match at index 1 would lose the tie.
    gallery, query = np.array([[1.0], [1.0 - 1e-10]]), np.zeros((1, 1), np.float32)  # float64 is enough on one side
    assert evaluate_embeddings(query, gallery, [1], [0], [2, 1], [1, 1], metric="euclidean").rank1 == 1


def test_lowered_matmul_precision_of_a_training_run_changes_nothing():
    queries, gallery, *labels = random_embeddings(6, embed_dim=256)
    expected = evaluate_embeddings(queries, gallery, *labels)
    torch.set_float32_matmul_precision("medium")
    try:
        assert evaluate_embeddings(queries, gallery, *labels) == expected
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19])  # whose square overflows
@pytest.mark.parametrize("side", [0, 1])
def test_value_that_is_not_finite_is_named_by_side_and_row(side, value, monkeypatch):
    monkeypatch.setattr(ranking, "_GALLERY_ROWS", 10)  # the row is in the second block of either side
    case = random_embeddings(9)
    case[side][11, 3] = value
    with pytest.raises(UsageError, match=rf"{'query' if side == 0 else 'gallery'}_embeddings row 11 is not finite"):
        evaluate_embeddings(*case, block_bytes=4 * 211 * 10)


def test_row_of_zeros_has_no_cosine_but_a_euclidean_distance():
    queries, gallery, *labels = random_embeddings(10)
    gallery[200] = 0
    with pytest.raises(UsageError, match="gallery_embeddings row 200 is zero"):
        evaluate_embeddings(queries, gallery, *labels)
    expected = evaluate_ranking(whole_matrix(queries, gallery, "euclidean"), *labels)
    assert_same(evaluate_embeddings(queries, gallery, *labels, metric="euclidean"), expected)


def test_wrong_options_and_widths_are_refused():
    queries, gallery, *labels = random_embeddings(11)
    with pytest.raises(UsageError, match="equally wide, got 24 and 23"):
        evaluate_embeddings(queries, gallery[:, 1:], *labels)
    for change, message in {
        ("metric", "manhattan"): "metric must be one of cosine, euclidean, got 'manhattan'",
        ("max_rank", 0): "max_rank",
        ("block_bytes", 0): "block_bytes",
    }.items():
        with pytest.raises(UsageError, match=message):
            evaluate_embeddings(queries, gallery, *labels, **dict([change]))
