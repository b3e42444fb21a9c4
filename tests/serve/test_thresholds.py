"""Rates of pairs: against every pair counted by hand, against SciPy, and against populations whose rate is known."""

from itertools import combinations

import numpy as np
import pytest
from gallery_cases import unit
from scipy.stats import binom

from hat.errors import UsageError
from hat.serve.calibrate import PairSet, ThresholdCalibration, calibrate_thresholds, chance_of_any


@pytest.fixture
def people(gallery_of):
    """Six people, seen by up to three cameras or by one that is unknown, and some who are nobody known."""
    rng = np.random.default_rng(3)
    pids = [1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6, None, None]
    camids = [1, 1, 2, 1, 3, None, None, 1, 2, 2, 3, 3, 1, 1, 2]
    centers = rng.normal(size=(7, 16))
    vectors = unit(np.stack([centers[pid or 0] + rng.normal(size=16) for pid in pids]))
    return gallery_of(vectors, pid=pids, camid=camids), vectors, pids, camids


def test_every_pair_is_counted_where_there_are_few(people):
    gallery, vectors, pids, camids = people
    impostor, genuine = [], []
    for i, j in combinations(range(len(pids)), 2):
        if pids[i] is None or pids[j] is None:
            continue
        similarity = float(vectors[i] @ vectors[j])
        if pids[i] != pids[j]:
            impostor.append(similarity)
        elif None not in (camids[i], camids[j]) and camids[i] != camids[j]:
            genuine.append(similarity)
    found = calibrate_thresholds(gallery)
    assert (found.num_records, found.num_identities, found.is_exhaustive) == (13, 6, True)
    np.testing.assert_allclose(found.impostor, sorted(impostor), atol=1e-6)
    np.testing.assert_allclose(found.genuine, sorted(genuine), atol=1e-6)
    assert len(genuine) == 2 + 1 + 1
    for similarity in (-1.0, 0.0, 0.2, 0.5, 0.9, 1.1):
        assert found.point_at(similarity).false_match_rate == np.mean(np.array(impostor) >= similarity)
        assert found.point_at(similarity).true_match_rate == np.mean(np.array(genuine) >= similarity)
    top = float(found.impostor[-1])  # a pair that is exactly at the threshold counts
    assert found.point_at(top).false_match_rate == 1 / found.num_pairs
    assert found.point_at(float(np.nextafter(np.float32(top), np.float32(2)))).false_match_rate == 0
    points = found.roc()
    assert [point.false_match_rate for point in points] == sorted((p.false_match_rate for p in points), reverse=True)
    assert [point.similarity for point in points] == sorted(point.similarity for point in points)
    assert all(point.false_match_rate <= point.false_match_bound for point in points) and points


def test_a_rate_that_so_few_pairs_cannot_show_is_refused(people):
    found = calibrate_thresholds(people[0])
    assert found.lowest_rate == pytest.approx(1 - 0.05 ** (1 / found.num_pairs))
    with pytest.raises(UsageError, match=rf"be shown by {found.num_pairs} pairs .* it takes 2,995, .*enroll more people"):
        found.threshold_at(0.001)
    for rate in (0, 1, -0.1, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            found.threshold_at(rate)


def test_a_sample_finds_the_rate_of_all_pairs_and_its_bound_holds(gallery_of):
    rng = np.random.default_rng(0)
    pids = rng.integers(60, size=400).tolist()
    vectors = unit(rng.normal(size=(400, 8)))
    gallery = gallery_of(vectors, pid=pids, camid=rng.integers(3, size=400).tolist())
    exact = calibrate_thresholds(gallery)
    assert exact.is_exhaustive and exact.num_pairs > 70_000
    covered = []
    for seed in range(60):
        sample = calibrate_thresholds(gallery, num_pairs=2000, seed=seed)
        assert not sample.is_exhaustive and sample.num_pairs == 2000
        covered.append(sample.point_at(0.6).false_match_bound >= exact.point_at(0.6).false_match_rate)
        rate = exact.point_at(0.6).false_match_rate
        assert sample.point_at(0.6).false_match_rate == pytest.approx(rate, abs=5 * (0.05 / 2000) ** 0.5)
    # At least 95 % of bounds hold; 50 of 60 or fewer would happen once in ten thousand times.
    assert sum(covered) > 50
    again = calibrate_thresholds(gallery, num_pairs=2000, seed=7)
    assert np.array_equal(again.impostor, calibrate_thresholds(gallery, num_pairs=2000, seed=7).impostor)
    assert not np.array_equal(again.impostor, calibrate_thresholds(gallery, num_pairs=2000, seed=8).impostor)


def test_a_gallery_too_large_to_be_held_gives_the_same(people, monkeypatch):
    gallery = people[0]
    held = calibrate_thresholds(gallery, num_pairs=20)
    monkeypatch.setattr("hat.serve.calibrate._ROWS_BYTES", 100)
    monkeypatch.setattr("hat.serve.calibrate._BLOCK_BYTES", 3 * 2 * 64)
    read = calibrate_thresholds(gallery, num_pairs=20)
    np.testing.assert_array_equal(held.impostor, read.impostor)
    np.testing.assert_array_equal(held.genuine, read.genuine)


def test_galleries_that_know_too_little_are_refused(gallery_of):
    vectors = unit(np.random.default_rng(0).normal(size=(3, 4)))
    for pids in ([None, None, None], [7, 7, 7], [7, None, None]):
        with pytest.raises(UsageError, match="pairs of different people: enroll images"):
            calibrate_thresholds(gallery_of(vectors, pid=pids, camid=[1, 2, 3]))
    with pytest.raises(UsageError, match="number of pairs"):
        calibrate_thresholds(gallery_of(vectors, pid=[1, 2, 3], camid=[1, 2, 3]), num_pairs=0)
    found = calibrate_thresholds(gallery_of(vectors, pid=[1, 1, 2]))  # no true match rate is made up without cameras
    assert (found.num_genuine, found.point_at(0.0).true_match_rate, found.num_pairs) == (0, None, 2)


def test_pairs_of_a_set_are_those_of_two_loops_and_are_drawn_evenly():
    rng = np.random.default_rng(1)
    outer, inner = rng.integers(3, size=30), rng.integers(4, size=30)
    pairs = PairSet(outer, inner)
    expected = {(i, j) for i, j in combinations(range(30), 2) if outer[i] == outer[j] and inner[i] != inner[j]}
    left, right = pairs.draw(10_000, rng)
    assert pairs.num_unordered == len(expected) == len(left)
    assert {tuple(sorted(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)} == expected
    drawn = [pairs.draw(50, rng) for _ in range(400)]
    counts = dict.fromkeys(expected, 0)
    for lefts, rights in drawn:
        for pair in zip(lefts.tolist(), rights.tolist(), strict=True):
            counts[tuple(sorted(pair))] += 1
    mean = 20_000 / len(expected)
    assert abs(np.array(list(counts.values())) - mean).max() < 6 * mean**0.5
    empty = PairSet(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    assert empty.num_unordered == 0 and len(empty.draw(5, rng)[0]) == 0


def made_up(impostor):
    rows = np.sort(np.asarray(impostor, dtype=np.float32))
    counts = {"num_records": 10, "num_identities": 5, "is_exhaustive": False}
    return ThresholdCalibration(impostor=rows, genuine=np.empty(0, np.float32), **counts)


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 100), (1, 100), (5, 20), (19, 20), (40, 30_000), (20, 20)])
def test_false_match_bound_is_where_so_few_matches_have_a_chance_of_5_percent(events, trials):
    bound = made_up(np.r_[np.zeros(trials - events), np.ones(events)]).point_at(0.5).false_match_bound
    assert bound == 1.0 if events == trials else binom.cdf(events, trials, bound) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("trials", "rate"), [(500, 0.01), (50, 0.3), (4000, 1e-3), (30_000, 0.4), (10, 0.999)])
def test_threshold_at_is_the_lowest_that_keeps_to_the_rate(trials, rate):
    calibration = made_up(np.linspace(0, 1, trials))
    threshold = calibration.threshold_at(rate)
    assert calibration.point_at(threshold).false_match_bound <= rate
    one_lower = np.nextafter(np.float32(threshold), np.float32(-1))
    assert calibration.point_at(one_lower).false_match_bound > rate


def test_chance_of_any_over_a_gallery():
    assert chance_of_any(1e-4, 10_000) == pytest.approx(1 - (1 - 1e-4) ** 10_000, rel=1e-9)
    assert (chance_of_any(0.0, 5), chance_of_any(0.3, 0), chance_of_any(1.0, 1), chance_of_any(1.0, 0)) == (0, 0, 1, 0)
