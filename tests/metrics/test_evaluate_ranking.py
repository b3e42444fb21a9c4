"""`evaluate_ranking` against a brute-force double loop, cases worked out by hand, and the protocol's own rules."""

from __future__ import annotations

import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.errors import DataError, UsageError
from hat.metrics import RankingResult, evaluate_ranking, ranking


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


def assert_equals_brute_force(result: RankingResult, expected) -> None:
    mean_ap, cmc, inp, counted, skipped = expected
    assert result.mAP == pytest.approx(mean_ap, abs=1e-12)
    assert result.mINP == pytest.approx(inp, abs=1e-12)
    assert result.cmc.tolist() == pytest.approx(cmc, abs=1e-12)
    assert (result.num_queries, result.num_skipped_queries) == (counted, skipped)


@pytest.fixture(params=["counting", "sorting"])
def path(request, monkeypatch):
    """Both ways in which the ranks of a row are found."""
    monkeypatch.setattr(ranking, "_MAX_COUNTED_MATCHES", 128 if request.param == "counting" else 0)


def test_two_matches_by_hand(path):
    # Order by distance: g2 (match), g0 (wrong), g3 (match), g1 (wrong); matches at ranks 1 and 3.
    # AP = (1/1 + 2/3) / 2 = 5/6; INP = 2/3; the first match stands at rank 1.
    result = evaluate_ranking(np.array([[0.2, 0.4, 0.1, 0.3]]), [7], [0], [5, 6, 7, 7], [1, 1, 1, 2])
    assert result.mAP == pytest.approx(5 / 6)
    assert result.mINP == pytest.approx(2 / 3)
    assert result.cmc.tolist() == [1, 1, 1, 1]


def test_average_precision_is_the_mean_of_precisions_and_not_the_trapezoid():
    # One match at rank 2: the mean of precisions is 1/2; trapezoids would give (0 + 1/2) / 2 = 1/4.
    assert evaluate_ranking(np.array([[1.0, 2.0]]), [1], [0], [2, 1], [1, 1]).mAP == 0.5


def test_two_queries_one_without_a_match_by_hand(path):
    # Query 0 (pid 1, cam 0): g0 is of its own camera and leaves; left are g1 (0.2, pid 2), g2 (0.3, pid 1), g3 (0.4, pid 0).
    #   The match is second: AP = 1/2, INP = 1/2.
    # Query 1 (pid 2, cam 0): order g3 (0.1, pid 0), g2 (0.2), g0 (0.3), g1 (0.4, match): AP = INP = 1/4, first match at rank 4.
    # Query 2 (pid 9) has no match and enters no mean.
    distmat = np.array([[0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    result = evaluate_ranking(distmat, [1, 2, 9], [0, 0, 0], [1, 2, 1, 0], [0, 1, 1, 3])
    assert result.mAP == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert result.mINP == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert result.cmc.tolist() == [0, 0.5, 0.5, 1]
    assert (result.num_queries, result.num_skipped_queries, result.num_gallery) == (2, 1, 4)


def test_junk_is_no_mistake_and_a_distractor_is_one(path):
    # g0 would be rank 1: as junk it leaves no trace (AP 1), as distractor it pushes the match to rank 2 (AP 1/2).
    distmat = np.array([[0.1, 0.2, 0.3]])
    junk = evaluate_ranking(distmat, [4], [0], [-1, 4, 5], [1, 1, 1])
    distractor = evaluate_ranking(distmat, [4], [0], [0, 4, 5], [1, 1, 1])
    assert (junk.mAP, junk.rank1, junk.num_gallery) == (1, 1, 2)
    assert (distractor.mAP, distractor.rank1, distractor.num_gallery) == (0.5, 0, 3)


def test_query_that_is_junk_is_left_out_even_beside_junk_of_another_camera():
    result = evaluate_ranking(np.array([[0.1, 0.2], [0.1, 0.2]]), [-1, 3], [0, 0], [-1, 3], [1, 1])
    assert (result.num_queries, result.num_skipped_queries, result.mAP) == (1, 1, 1)


def test_pid_zero_is_an_identity_when_queries_have_it():
    result = evaluate_ranking(np.array([[0.1, 0.2]]), [0], [0], [0, 1], [1, 1])
    assert result.mAP == 1


@pytest.mark.parametrize(("gallery_pids", "rank1", "mean_ap"), [([1, 2], 1, 1), ([2, 1], 0, 0.5)])
def test_ties_go_to_the_smaller_gallery_index(path, gallery_pids, rank1, mean_ap):
    result = evaluate_ranking(np.zeros((1, 2)), [1], [0], gallery_pids, [1, 1])
    assert (result.rank1, result.mAP) == (rank1, mean_ap)


def test_excluded_images_do_not_take_part_in_a_tie_at_infinity(path):
    # g0 (same camera), g1 (junk) and g2 (match) are all infinitely far; only g3 is nearer: the match is second.
    result = evaluate_ranking(np.array([[np.inf, np.inf, np.inf, 0.0]]), [1], [0], [1, -1, 1, 2], [0, 1, 1, 1])
    assert result.mAP == 0.5


@st.composite
def cases(draw):
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    labels = st.integers(-1, 3)
    cameras = st.integers(0, 2)
    # Few values make many ties; infinity is a legal distance.
    values = (
        st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -1.0, float("inf")]) if draw(st.booleans()) else st.floats(0, 2, width=32)
    )
    return (
        draw(hnp.arrays(np.float32, (num_query, num_gallery), elements=values)),
        *(draw(hnp.arrays(np.int64, n, elements=e)) for n in (num_query, num_gallery) for e in (labels, cameras)),
    )


@settings(max_examples=300, deadline=None)
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


def random_case(seed: int, num_query: int = 40, num_gallery: int = 300, num_pids: int = 12):
    rng = np.random.default_rng(seed)
    return (
        rng.permutation(num_query * num_gallery).reshape(num_query, num_gallery) / (num_query * num_gallery),
        rng.integers(1, num_pids + 2, num_query),
        rng.integers(0, 4, num_query),
        rng.integers(-1, num_pids, num_gallery),
        rng.integers(0, 4, num_gallery),
    )


@pytest.mark.parametrize("block_bytes", [1, 8 * 300 * 7, 2**24])
def test_blocks_of_rows_do_not_matter(monkeypatch, block_bytes):
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", block_bytes)
    case = random_case(1)
    assert_equals_brute_force(evaluate_ranking(*case), brute_force(*case))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16", "fortran", "strided", "readonly", "gradient"])
def test_every_float_type_and_layout_is_ranked_by_its_own_values(kind):
    distmat, *labels = random_case(4)
    make = {
        "float16": lambda: distmat.astype(np.float16),
        "float32": lambda: torch.tensor(distmat, dtype=torch.float32),
        "float64": lambda: distmat,
        "bfloat16": lambda: torch.tensor(distmat, dtype=torch.bfloat16),
        "fortran": lambda: np.asfortranarray(distmat),
        "strided": lambda: np.repeat(distmat, 2, axis=1)[::1, ::-2][:, ::-1],
        "readonly": lambda: np.frombuffer(distmat.tobytes()).reshape(distmat.shape),
        "gradient": lambda: torch.tensor(distmat, requires_grad=True),
    }[kind]()
    values = make.detach().double().numpy() if isinstance(make, torch.Tensor) else make.astype(np.float64)
    assert_equals_brute_force(evaluate_ranking(make, *labels), brute_force(values, *labels))


def test_float64_distances_are_not_rounded_to_float32():
    # The two differ by less than float32 can hold beside 1: rounded, they would tie and the match at index 1 would come second.
    assert evaluate_ranking(np.array([[1.0 + 1e-12, 1.0]]), [1], [0], [2, 1], [1, 1]).rank1 == 1


def test_the_callers_matrix_is_not_written_to():
    distmat, *labels = random_case(5)
    before = distmat.copy()
    evaluate_ranking(distmat, *labels)
    assert np.array_equal(distmat, before)


def test_labels_as_lists_small_integers_and_tensors_are_the_same():
    distmat, *labels = random_case(6)
    expected = evaluate_ranking(distmat, *labels)
    assert evaluate_ranking(distmat, *(label.tolist() for label in labels)) == expected
    assert evaluate_ranking(distmat, *(label.astype(np.int16) for label in labels)) == expected
    assert evaluate_ranking(distmat, *(torch.from_numpy(label) for label in labels)) == expected


def test_max_rank_beyond_the_gallery_is_cut_to_it_and_rank10_is_that_of_the_whole():
    result = evaluate_ranking(np.array([[0.1, 0.2]]), [1], [0], [2, 1], [1, 1], max_rank=10**12)
    assert result.cmc.tolist() == [0, 1]
    assert (result.rank1, result.rank5, result.rank10) == (0, 1, 1)


def test_match_beyond_max_rank_is_counted_in_the_means_but_not_in_the_cmc():
    result = evaluate_ranking(np.array([[0.1, 0.2, 0.3]]), [1], [0], [2, 2, 1], [1, 1, 1], max_rank=2)
    assert result.cmc.tolist() == [0, 0]
    assert result.mAP == pytest.approx(1 / 3)


GOOD = (np.zeros((2, 3)), [1, 2], [0, 0], [1, 2, 3], [1, 1, 1])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, [[0.0]], "NumPy array or a torch tensor"),
        (0, np.zeros((2, 3), dtype=np.int64), "float16, float32 or float64, got int64"),
        (0, torch.zeros(2, 3, dtype=torch.int32), "got torch.int32"),
        (0, np.zeros((2, 3), dtype=complex), "got complex128"),
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
        (4, torch.zeros(3), "gallery_camids must be integers.*float32"),
    ],
)
def test_wrong_input_is_named(position, value, message):
    arguments = list(GOOD)
    arguments[position] = value
    with pytest.raises(UsageError, match=message):
        evaluate_ranking(*arguments)


@pytest.mark.parametrize("max_rank", [0, -1, 2.5, True, "5"])
def test_wrong_max_rank_is_refused(max_rank):
    with pytest.raises(UsageError, match="max_rank must be an integer of at least 1"):
        evaluate_ranking(*GOOD, max_rank=max_rank)


def test_nan_is_an_error_that_names_its_place_even_for_a_query_without_match():
    distmat = np.zeros((2, 3))
    distmat[1, 2] = np.nan
    with pytest.raises(UsageError, match="query 1 and gallery image 2 is NaN"):
        evaluate_ranking(distmat, [1, 9], [0, 0], [1, 2, 3], [1, 1, 1])


def test_no_query_with_a_match_is_an_error():
    with pytest.raises(DataError, match="none of the 2 queries has a match"):
        evaluate_ranking(np.zeros((2, 3)), [1, 2], [0, 0], [1, 2, -1], [0, 0, 1])


def test_result_as_json_and_as_text():
    result = evaluate_ranking(np.array([[0.1, 0.2], [0.2, 0.1]]), [1, 9], [0, 0], [2, 1], [1, 1])
    assert json.loads(json.dumps(result.to_dict())) == {
        "mAP": 0.5,
        "rank1": 0.0,
        "rank5": 1.0,
        "rank10": 1.0,
        "mINP": 0.5,
        "num_queries": 1,
        "num_skipped_queries": 1,
        "num_gallery": 2,
    }
    assert str(result) == (
        "mAP 50.00 %, Rank-1 0.00 %, Rank-5 100.00 %, Rank-10 100.00 %, mINP 50.00 % "
        "(1 queries, 1 without a match left out, 2 gallery images)"
    )


def test_a_rank_that_was_not_evaluated_is_an_error_and_none_in_json():
    distmat, *labels = random_case(7)
    result = evaluate_ranking(distmat, *labels, max_rank=5)
    assert result.to_dict()["rank10"] is None
    assert "Rank-10" not in str(result)
    with pytest.raises(UsageError, match="evaluate with max_rank=10 or more"):
        _ = result.rank10
    with pytest.raises(UsageError, match="counted from 1"):
        result.rank(0)


def test_result_cannot_be_changed_and_compares_by_value():
    distmat, *labels = random_case(8)
    result = evaluate_ranking(distmat, *labels)
    assert result == evaluate_ranking(distmat, *labels)
    assert result != evaluate_ranking(-distmat, *labels)
    with pytest.raises(ValueError, match="read-only"):
        result.cmc[0] = 1
    with pytest.raises(AttributeError):
        result.mAP = 1.0
