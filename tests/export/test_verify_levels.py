"""The levels of parity on numbers that can be worked out by hand, or by another library."""

import zipfile
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from broken_graphs import draw_people
from scipy.stats import spearmanr

from hat.data import ReIDDataset, Sample, Split
from hat.errors import CheckpointError, DataError, UsageError, WorkError
from hat.export.parity import levels
from hat.export.parity.candidate import choose_images, list_images, parse_candidate
from hat.export.parity.levels import Similarities
from hat.export.parity.tolerances import TOLERANCES, tolerance_for
from hat.export.parity.verification import verify
from hat.export.parity.verification_report import CandidateResult, Check, VerificationReport
from hat.io.artifact import ArtifactPrecision, BatchProfile
from hat.metrics import RankingResult
from hat.preprocessing import Preprocessing


def rows(count, width=16, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_cosine_is_that_of_the_worst_row_and_the_difference_that_of_the_worst_value():
    reference = np.eye(4, dtype=np.float32)
    candidate = reference.copy()
    candidate[2] = [0.0, 0.6, 0.8, 0.0]
    checks = levels.compare_embeddings(reference, candidate, TOLERANCES["fp32"])
    # The row moved by sqrt(0.6^2 + 0.2^2), and any two rows of the identity are sqrt(2) apart.
    expected = {"worst cosine": 0.8, "max abs": 0.6, "relative shift": np.sqrt(0.4) / np.sqrt(2)}
    assert {check.name: check.value for check in checks} == pytest.approx(expected, abs=1e-5)
    assert not any(check.passed for check in checks)
    worst, *others = levels.worst_images(reference, candidate, list("abcd"), 3)
    assert (worst.index, worst.path, worst.cosine) == (2, "c", pytest.approx(0.8)) and [one.path for one in others] == [
        "a",
        "b",
    ]


def test_embeddings_that_lie_close_together_are_judged_by_the_distance_between_them():
    center = rows(1)
    reference = center + 1e-3 * rows(12, seed=1)
    candidate = reference + 2e-5 * rows(12, seed=2)
    checks = {check.name: check.passed for check in levels.compare_embeddings(reference, candidate, TOLERANCES["fp32"])}
    assert checks == {"worst cosine": True, "max abs": True, "relative shift": False}
    near = center + 1e-5 * rows(12, seed=1)  # what rounding alone moves is no shift
    assert all(check.passed for check in levels.compare_embeddings(near, near + np.float32(6e-8), TOLERANCES["fp32"]))


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda rows: rows, []),
        (lambda rows: np.where(np.arange(8)[:, None] == 3, np.nan, rows), ["rows with NaN"]),
        (lambda rows: np.where(np.arange(8)[:, None] == 3, np.inf, rows), ["rows with NaN"]),
        (lambda rows: rows * 1.01, ["length off 1"]),
        (lambda rows: np.repeat(rows[:1], 8, axis=0), ["spread"]),
        (np.zeros_like, ["length off 1", "spread"]),
    ],
)
def test_rows_that_are_unsound_by_themselves_are_told(change, failed):
    assert levels.spread(np.eye(4, dtype=np.float32)) == pytest.approx(0.75)  # 1 - |mean|^2 with |mean|^2 = 4 / 16
    assert [check.name for check in levels.inspect_rows(rows(8), change(rows(8))) if not check.passed] == failed


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((5, 40)), rng.standard_normal((5, 40))
    right[1] = left[1] ** 3  # the same order
    right[2] = -left[2]
    left[3] = np.round(left[3])  # ties
    expected = [spearmanr(a, b).statistic for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(levels.spearman(left, right), expected, atol=1e-12)
    assert levels.spearman(np.zeros((1, 9)), rng.standard_normal((1, 9)))[0] == 0


def test_agreement_on_a_gallery_of_four_and_without_rounding():
    reference = np.array([[0.9, 0.8, 0.5, 0.1], [0.9, 0.899, 0.5, 0.1]])
    candidate = np.array([[0.8, 0.9, 0.1, 0.5], [0.8, 0.9, 0.5, 0.1]])
    both = Similarities(reference, candidate)
    assert levels.agreement(both, 1, tie=0).tolist() == [0, 0]
    assert levels.agreement(both, 1, tie=0.01).tolist() == [0, 1]  # the second query's two best are tied
    assert levels.agreement(both, 2, tie=0).tolist() == [1, 1]
    assert levels.agreement(both, 3, tie=0).tolist() == [pytest.approx(2 / 3), 1]
    # Rank correlations 0.6 and, with half a tie forgiven, 0.8; the four nearest are all there are.
    assert [check.value for check in levels.compare_rankings(both, TOLERANCES["int8"])] == pytest.approx([0.5, 1, 0.7])
    both = Similarities(np.array([[0.5, 0.4, 0.3]]), np.array([[0.45, 0.6, 0.3]]))
    np.testing.assert_allclose(levels.without_rounding(both, 0.1), [[0.5, 0.55, 0.3]])  # half a tie is forgiven and no more
    assert levels.spearman(both.reference, levels.without_rounding(both, 0.1))[0] < 1


def test_the_worst_pair_of_each_query_comes_with_its_ranks():
    reference = np.array([[0.9, 0.5, 0.1], [0.3, 0.2, 0.1]])
    candidate = np.array([[0.9, 0.5, 0.95], [0.3, 0.25, 0.1]])
    first, second = levels.worst_pairs(Similarities(reference, candidate), list("abcde"), 5)
    assert (first.query_path, first.gallery_path, first.reference_rank, first.candidate_rank) == ("a", "e", 3, 1)
    assert (second.query, second.gallery, second.candidate_similarity) == (1, 3, 0.25)
    candidate = np.zeros((30, 30))
    candidate[3, :10] = 1
    drawn = levels.sample_pairs(Similarities(np.zeros((30, 30)), candidate), 50)
    assert 40 <= len(drawn) <= 50 and drawn[:, 1].sum() == 10  # what changed most is in the picture


@pytest.mark.parametrize(
    ("precision", "change", "expected"),
    [
        ("fp16", (0.0009, 0.001, 0.0), [True, True, True]),
        ("fp16", (0.0011, 0.002, 0.0), [False, False, True]),
        ("int8", (-0.0049, 0.0, 0.009), [True, True, True]),
        ("int8", (0.0051, 0.0, -0.011), [False, True, False]),  # a rise is another model too
        ("fp32", (0.0002, 0.001, 0.0), [False, True, True]),  # one of 1000 queries is the least that Rank-1 can change by
    ],
)
def test_retrieval_may_change_by_what_the_precision_allows(precision, change, expected):
    rates = [(0.5, 0.7, 0.2), np.add((0.5, 0.7, 0.2), change)]
    before, after = (RankingResult(mAP, np.array([rank1]), mINP, 1000, 0, 1) for mAP, rank1, mINP in rates)
    assert [check.passed for check in levels.compare_retrieval(before, after, TOLERANCES[precision])] == expected


def test_every_precision_has_limits_and_the_coarser_one_decides():
    assert set(TOLERANCES) == set(get_args(ArtifactPrecision))
    pairs = [("fp32", "int8"), ("int8", "bf16"), ("fp16", "fp32")]
    assert [tolerance_for(*pair)[0] for pair in pairs] == ["int8", "int8", "fp16"]


def test_a_part_of_a_data_set_keeps_whole_identities_and_says_so():
    query = Split("query", [Sample(f"q{pid}", pid, 0) for pid in range(1, 9)])
    gallery = Split("gallery", [Sample(f"g{pid}_{camid}", pid, camid) for pid in range(9) for camid in range(3)])
    parts = [levels.some_identities(ReIDDataset("toy", Split("train", []), query, gallery), 3, seed) for seed in range(5)]
    assert len({tuple(part.query.pids) for part in parts}) > 1
    part = parts[1]
    kept = set(part.query.pids.tolist())
    assert len(kept) == 3 and 0 not in kept and len(part.gallery) == 9 and set(part.gallery.pids.tolist()) == kept
    assert "3 of 8 query identities" in part.notes[-1]


def test_a_report_passes_only_when_something_was_compared_and_all_of_it_is_right():
    def result(*values, sense=">=", problems=()):
        checks = tuple(Check("embedding", "worst cosine", value, 0.9, sense, "because") for value in values)
        return CandidateResult("c", "onnxruntime", "fp32", "fp32", checks=checks, problems=problems)

    def passed(*candidates):
        return VerificationReport("a", "torch", candidates, "images", ("x",) * 4, 1, 0).passed

    nan = float("nan")
    assert passed(result(0.95))
    assert not passed() and not passed(result())  # nothing was compared
    for wrong in (result(0.95, problems=("x",)), result(0.95, nan), result(nan, sense="<="), result(0.8)):
        assert not passed(result(0.95), wrong)


def test_used_is_the_share_of_what_is_allowed():
    checks = [("<=", 0.02, 0.1), ("<=", 0.3, 0.1), (">=", 0.98, 0.9), (">=", 1.0, 1.0), (">=", 0.9, 1.0), ("<=", np.nan, 1)]
    used = [Check("embedding", "x", value, limit, sense, "because").used for sense, value, limit in checks]
    assert used == pytest.approx([0.2, 1, 0.2, 0, 1, 1])
    points = Check("retrieval", "change of mAP", 0.0123, 0.005, "<=", "because")
    assert (points.value_text, points.limit_text) == ("1.23 pt", "0.50 pt")


class Blocks:
    """A runtime whose embedding is the mean color of eight by four blocks."""

    name, embed_dim, max_batch, info = "blocks fp32 cpu", 96, None, None
    preprocessing = Preprocessing(height=64, width=32)

    def __init__(self, scale=1.0):
        self.scale = scale

    def run(self, images):
        means = self.means(images).astype(np.float32)
        return self.scale * means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1)

    def means(self, images):
        return images.reshape(len(images), 3, 8, 8, 4, 8).mean(axis=(3, 5)).reshape(len(images), -1)


class Collapsed(Blocks):
    """The blocks' colors as a faint pattern upon one constant, in some arithmetic; rows are about 3e-4 apart."""

    def __init__(self, dtype=np.float32, channels=(0, 1, 2), columns=range(96)):
        self.dtype, self.channels, self.columns = dtype, list(channels), list(columns)

    def run(self, images):
        means = self.means(images[:, self.channels]).astype(self.dtype)
        rows = self.dtype(1) + self.dtype(1e-3) * means / self.dtype(255)
        rows = rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True, dtype=self.dtype))
        return rows.astype(np.float32)[:, self.columns]


def test_verify_takes_what_a_collapsed_reference_cannot_tell_apart_for_ties(tmp_path):
    draw_people(tmp_path, 24)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 3, 64, 32), dtype=np.uint8)
    both = levels.similarities(*(Collapsed(dtype).run(pixels) for dtype in (np.float32, np.float64)), 6)
    assert levels.spearman(*both).mean() < 0.9999, "without ties a right file fails"
    (right,) = verify(Collapsed(), [Collapsed(np.float64)], tmp_path).candidates
    assert right.passed, [check for check in right.checks if not check.passed]
    colors, outputs = Collapsed(channels=(2, 1, 0)), Collapsed(columns=[1, 0, *range(2, 96)])
    for wrong in verify(Collapsed(), [colors, outputs], tmp_path).candidates:
        assert not wrong.passed and "relative shift" in [check.name for check in wrong.checks if not check.passed]


def test_too_little_to_compare_is_an_error(tmp_path):
    with pytest.raises(WorkError, match=r"nothing was compared: .* has 0 images"):
        verify(Blocks(), [Blocks()], tmp_path)
    draw_people(tmp_path, 5)
    for index in (1, 3):
        (tmp_path / f"00{index}.png").write_bytes(b"not an image")
    with pytest.raises(WorkError, match="has 3 images, 2 more cannot be read"):
        verify(Blocks(), [Blocks()], tmp_path)
    draw_people(tmp_path / "more", 4)
    report = verify(Blocks(), [Blocks()], tmp_path)
    assert report.passed and len(report.paths) == 7 and len(report.left_out) == 2 and "00" in report.left_out[0]


def test_a_reference_that_proves_nothing_is_an_error(tmp_path):
    draw_people(tmp_path, 6)
    one_camera = Split("query", [Sample("a.png", 1, 0)])
    unrankable = ReIDDataset("toy", Split("train", []), one_camera, one_camera)
    for reference, candidates, dataset, error, words in [
        (Blocks(0.0), [Blocks()], None, WorkError, "one embedding for all images"),
        (Blocks(float("nan")), [Blocks()], None, WorkError, "gives NaN or infinite values"),
        (Blocks(), [], None, UsageError, "expected at least one candidate"),
        (Blocks(), [Blocks(), tmp_path / "missing.onnx"], None, CheckpointError, "there is no such"),
        (Blocks(), [Blocks()], unrankable, DataError, "every match was seen by the query's own camera"),
    ]:
        with pytest.raises(error, match=words):
            verify(reference, candidates, tmp_path, dataset)


def test_another_size_or_width_is_not_comparable(tmp_path):
    class Larger(Blocks):
        preprocessing = Preprocessing(height=128, width=64, resize="bicubic")
        embed_dim = 97

    (found,) = verify(Blocks(), [Larger()], draw_people(tmp_path, 6)).candidates
    assert not found.passed and len(found.problems) == 3
    assert "64 x 32 in the reference, 128 x 64 in the candidate" in found.problems[0]
    assert "bicubic resize in the candidate" in found.problems[1] and "97 in the candidate" in found.problems[2]


def test_batches_follow_the_profile():
    engine = Blocks()
    engine.max_batch = 4
    assert (levels.batch_sizes(Blocks()), levels.batch_sizes(engine)) == ([1, 8, 32, 33], [1, 4, 5])
    engine.max_batch, engine.info = None, SimpleNamespace(batch=BatchProfile(min=1, opt=3, max=6))
    assert levels.batch_sizes(engine) == [1, 3, 6, 7]


def test_images_are_found_in_every_folder_once(tmp_path):
    draw_people(tmp_path / "a" / "b", 2)
    draw_people(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = list_images(tmp_path)
    assert [path.removeprefix(str(tmp_path)) for path in found] == ["/000.png", "/a/b/000.png", "/a/b/001.png"]
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        for name in ("d/" * 12_000 + "x.png", "y.png"):
            archive.writestr(name, b"")
    assert list_images(tmp_path / "deep.zip") == [f"{tmp_path}/deep.zip!y.png"]
    assert len(set(choose_images(found, 2, seed=5)) & set(found)) == 2 and sorted(choose_images(found, 9, seed=5)) == found


def test_variants_are_read_behind_an_at_sign(tmp_path):
    plain = parse_candidate(tmp_path)
    assert plain.is_checkpoint and not plain.inference_graph and plain.precision == "fp32"
    full = parse_candidate(f"{tmp_path}@graph+compile+bf16")
    assert (full.path, full.inference_graph, full.compiled, full.precision) == (tmp_path, True, True, "bf16")
    (tmp_path / "run@graph").mkdir()
    assert parse_candidate(tmp_path / "run@graph").path == tmp_path / "run@graph"
    (tmp_path / "hat.onnx").write_bytes(b"x")
    for wrong in ("@grph", "@bf16+fp16", "@graph+graph", "@"):
        with pytest.raises(UsageError, match="cannot read"):
            parse_candidate(f"{tmp_path}{wrong}")
    with pytest.raises(UsageError, match="only a checkpoint has variants"):
        parse_candidate(f"{tmp_path}/hat.onnx@graph")
