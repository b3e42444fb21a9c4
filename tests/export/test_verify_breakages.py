"""Files broken in every way that the field has seen: each is caught, and a faithful file passes."""

import broken_graphs
import numpy as np
import pytest
from broken_graphs import broken, draw_people, small_model

import hat
from hat.export import export_onnx, verify
from hat.runtime import TorchRuntime, open_runtime

pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A checkpoint, its faithful ONNX file, and images."""
    folder = tmp_path_factory.mktemp("parity")
    hat.save_checkpoint(small_model(0), folder / "checkpoint")
    export_onnx(small_model(0), folder / "faithful.onnx")
    draw_people(folder / "images", 24)
    return folder


def run(folder, *candidates, **options):
    return verify(folder / "checkpoint", candidates, folder / "images", device="cpu", **options)


def failed(result):
    return {check.name for check in result.checks if not check.passed}


def test_a_faithful_file_passes_every_level(bench):
    report = run(bench, bench / "faithful.onnx", f"{bench / 'checkpoint'}@graph")
    assert report.passed
    for result in report.candidates:
        values = {check.name: check.value for check in result.checks}
        assert {check.level for check in result.checks} == {"rows", "embedding", "batch", "ranking"}
        assert values["worst cosine"] > 0.999999 and 0 < values["max abs"] < 1e-5
        assert values["top-1 agreement"] == values["top-10 agreement"] == 1 and values["rank correlation"] > 0.9999
        assert not result.problems and not result.hints
    assert report.num_queries == 6 and len(report.paths) == 24


@pytest.mark.parametrize(
    ("breakage", "expected", "hint"),
    [
        ("bgr_for_rgb", {"worst cosine", "max abs"}, "it takes its images as BGR"),
        ("missing_normalization", {"worst cosine", "max abs"}, ""),
        ("missing_l2_norm", {"length off 1", "max abs"}, "the L2 norm at the end is missing"),
        ("one_corrupted_layer", {"max abs", "relative shift"}, ""),
        ("off_by_one_batch", {"worst cosine", "batch max abs"}, "depends on the batch"),
        ("batch_in_one_norm", {"worst cosine", "batch max abs"}, "depends on the batch"),
        ("not_a_number", {"rows with NaN"}, "values overflow"),
        ("one_constant", {"spread", "worst cosine", "top-1 agreement"}, ""),
    ],
)
def test_every_breakage_is_caught_and_named(breakage, expected, hint, bench):
    path = broken(bench / "faithful.onnx", getattr(broken_graphs, breakage), bench / f"{breakage}.onnx")
    report = run(bench, path)
    (result,) = report.candidates
    assert not report.passed and not result.passed
    assert expected <= failed(result) <= set(report.summary_names), result.failures
    assert hint in " ".join(result.hints)


def test_another_preprocessing_is_not_comparable_and_does_not_hide_behind_a_faithful_file(bench):
    path = broken(bench / "faithful.onnx", broken_graphs.other_mean, bench / "mean.onnx")
    report = run(bench, bench / "faithful.onnx", path, bench / "faithful.onnx")
    assert [result.passed for result in report.candidates] == [True, False, True] and not report.passed
    assert report.candidates[1].checks == ()
    assert "mean (0.5, 0.456, 0.406) in the candidate" in report.candidates[1].problems[0]


class Stubborn(TorchRuntime):
    """The reference with one fault; `wrong` is what it does to a batch's rows."""

    def __init__(self, model, wrong, max_batch=None):
        super().__init__(model, "cpu")
        self.wrong, self.max_batch = wrong, max_batch

    def run(self, images):
        return self.wrong(super().run(images))


def last_row_lost_above(limit):
    return lambda rows: np.concatenate([rows[:-1], np.zeros_like(rows[:1])]) if len(rows) > limit else rows


@pytest.mark.parametrize(
    ("wrong", "max_batch", "name"),
    [
        (last_row_lost_above(32), None, "batch max abs"),  # only a batch of max + 1 shows it
        (last_row_lost_above(16), 16, "batch max abs"),  # a split that forgets the rest
        (lambda rows: rows[:32], None, "wrong rows"),  # a split that drops the rest
        (lambda rows: rows if len(rows) != 1 else rows * 0.999, None, "batch max abs"),  # wrong only alone
    ],
)
def test_faults_that_only_some_batch_sizes_have_are_caught(wrong, max_batch, name, bench):
    model = small_model(0)
    candidates = [Stubborn(model, wrong, max_batch), Stubborn(model, lambda rows: rows)]
    faulty, faithful = verify(model, candidates, bench / "images", device="cpu").candidates
    assert name in failed(faulty), faulty.failures
    assert faithful.passed


def test_rows_lost_in_the_batch_that_a_file_is_tuned_for_are_a_problem(bench):
    model = small_model(0)
    report = verify(model, [Stubborn(model, lambda rows: rows[: max(1, len(rows) - 1)])], bench / "images", device="cpu")
    assert not report.passed and "gave an array of shape" in report.candidates[0].problems[0]


def test_the_same_images_are_chosen_again_and_others_by_another_seed(bench):
    model = small_model(0)
    runtime = open_runtime(bench / "faithful.onnx", "cpu")
    first, again, other = (
        verify(model, [runtime], bench / "images", num_images=12, seed=seed, device="cpu") for seed in (3, 3, 4)
    )
    assert first.paths == again.paths != other.paths and len(first.paths) == 12
    assert first.to_dict() == again.to_dict()
