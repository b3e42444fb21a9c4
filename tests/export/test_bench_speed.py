"""`hat bench`: its figures are put together rightly, and its processes do what they are asked. Nothing here times a model."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from broken_graphs import draw_people, small_model
from PIL import Image

import hat
from hat.errors import UsageError, WorkError
from hat.export import ExportRequest, export_onnx
from hat.export.bench import matrix_peak, other_work
from hat.export.bench.benchmark import BenchmarkReport, CandidateSpeed, benchmark, summarize
from hat.export.bench.command import draw_picture
from hat.export.bench.matrix_peak import matrix_products, matrix_rate, peak_of, timed_precisions
from hat.export.bench.other_work import OtherWork
from hat.export.bench.worker import Worker, WorkerProcess, peak_memory_bytes
from hat.model.complexity import count_complexity
from hat.runtime import TorchRuntime


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    hat.save_checkpoint(small_model(0), folder / "model", metrics={"mAP": 0.5})
    draw_people(folder / "images", 5)
    return folder


def speed_of(own, first, num_operations=None, peak=None):
    """The summary of ten runs of four images at each rate."""
    turns = ([[4 / rate] * 10 for rate in rates] for rates in (own, first))
    return summarize(*turns, "embedding", 4, num_operations=num_operations, peak=peak)


def test_rates_are_medians_ratios_are_taken_within_rounds_and_the_share_is_of_the_peak():
    speed = speed_of((30, 40, 50), (10, 20, 100), num_operations=2_000, peak=160_000)
    assert speed.images_per_s == pytest.approx(40) and speed.rounds == pytest.approx((30, 40, 50))
    assert speed.ratio == pytest.approx(2)  # of 3, 2 and 0.5; the ratio of the medians is 2 too, that of the means is not
    assert speed.utilization == pytest.approx(0.5)
    assert speed.p50_s == pytest.approx(0.1) and speed.num_runs == 30
    assert speed.p95_s == pytest.approx(4 / 30) and speed.p99_s == pytest.approx(4 / 30)
    assert speed_of((10, 20), (10, 20), peak=1.0).utilization is None
    uneven = speed_of((10, 10, 40), (5, 20, 40))
    assert uneven.ratio == pytest.approx(1)  # of 2, 0.5 and 1, where the medians would give 0.5


def test_the_peak_of_a_precision_is_never_below_that_of_float32():
    rates = {"fp32": 100.0, "bf16": 300.0, "int8": 80.0}
    # Integers that are slower than floats are no limit, and a processor computes fp16 in float32.
    assert [peak_of(precision, rates) for precision in ("fp32", "bf16", "int8", "fp16", "fp8")] == [100, 300, 100, 100, None]
    assert peak_of("fp32", {}) is None


@pytest.fixture
def products(monkeypatch):
    """Set sizes of the matrices, and what multiplies them."""
    monkeypatch.setattr(matrix_peak, "_products", matrix_peak._products.__wrapped__)

    def use(sizes, multiply=matrix_products):
        monkeypatch.setattr(matrix_peak, "_SIZES", {"cpu": sizes})
        monkeypatch.setattr(matrix_peak, "matrix_products", multiply)

    return use


def test_the_peak_is_that_of_the_fastest_library(products):
    def multiply(precision, size, device):
        for count, seconds in ((1, 0.004), (4, 0.004), (1, 0.02)):  # four products in one call are four times as fast
            yield count, lambda seconds=seconds: time.sleep(seconds)

    products((100,), multiply)
    assert 0.2 * 4 * 2e6 / 0.004 < matrix_rate("fp32", "cpu", 0.05) <= 4 * 2e6 / 0.004


def test_matrix_rate_leaves_larger_products_of_an_emulated_precision_out(products):
    called = []
    products((100, 1000), lambda precision, size, device: [(1, lambda: (called.append(size), time.sleep(0.3)))])
    assert 0 < matrix_rate("fp32", "cpu", 0.05) <= 2e6 / 0.3
    assert called == [100]


@pytest.mark.parametrize("precision", timed_precisions("cpu"))
def test_every_library_multiplies(precision):
    """Each gives a matrix of the size; what it computes is its own affair."""
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    made = list(matrix_products(precision, 32, "cpu"))
    assert len(made) >= (2 if precision in ("fp32", "int8") else 1)
    for count, product in made:
        result = product()
        if not isinstance(result, torch.Tensor):
            result = next(iter(result.values() if hasattr(result, "values") else result))
        assert count >= 1 and tuple(result.shape) == (32, 32)


def test_a_turn_lasts_as_long_as_it_should_and_cuts_no_batch_short(place):
    plain = Worker().open(spec=str(place / "model"), device="cpu", num_threads=None, paths=[])
    worker = Worker()
    paths = sorted(map(str, (place / "images").glob("*.png")))
    metadata = worker.open(spec=f"{place / 'model'}@graph", device="cpu", num_threads=1, paths=paths)
    expected = count_complexity(small_model(0).config, cls_only=True).total_operations
    assert plain["num_operations"] > metadata["num_operations"] == expected
    assert metadata["metrics"] == {"mAP": 0.5} and metadata["device"] == "cpu" and metadata["precision"] == "fp32"
    fed = []
    original = worker.runtime.run
    worker.runtime.run = lambda images: (fed.append(len(images)), time.sleep(0.001), original(images))[2]
    for mode, seconds in (("embedding", 0.05), ("end-to-end", 0.05), ("embedding", 0.0)):
        fed.clear()
        latencies = worker.measure(mode=mode, batch=3, seconds=seconds)["latencies_s"]
        assert len(latencies) >= 3 and sum(latencies) >= 0.7 * seconds and min(latencies) > 0.0009
        assert set(fed) == {3}  # though there are five images


def test_memory_is_the_peak_and_not_what_is_left():
    before = peak_memory_bytes()
    block = np.ones(96 * 2**20, dtype=np.uint8)
    assert peak_memory_bytes() >= before and block[-1] == 1
    del block
    assert peak_memory_bytes() >= 96 * 2**20


def test_a_process_runs_no_file_of_the_folder_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('this is not the library')")
    monkeypatch.chdir(tmp_path)
    with WorkerProcess("candidate", num_threads=1) as worker:
        assert worker.ask("memory")["peak_bytes"] > 0


def test_only_a_float32_file_shows_the_figures_of_its_checkpoint(place, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    for precision, metrics in (("fp32", {"mAP": 0.5}), ("fp16", {})):
        request = ExportRequest(name="small", precision=precision, metrics={"mAP": 0.5})
        export_onnx(small_model(0), tmp_path / f"{precision}.onnx", request)
        opened = Worker().open(spec=str(tmp_path / f"{precision}.onnx"), device="cpu", num_threads=1, paths=[])
        assert (opened["precision"], opened["metrics"]) == (precision, metrics)


def test_a_process_answers_tells_errors_and_is_missed_when_it_dies(place):
    with WorkerProcess("candidate", num_threads=1) as worker:
        with pytest.raises(UsageError, match="unknown device 'gpu9'"):
            worker.ask("open", spec=str(place / "model"), device="gpu9", num_threads=1, paths=[])
        assert worker.ask("memory")["peak_bytes"] > 10 * 2**20  # it lives on
        for _ in range(2):  # also where nobody reads the request any more
            with pytest.raises(WorkError, match=r"candidate: its process ended with code 1: AttributeError: .*nonsense"):
                worker.ask("nonsense")


def test_others_are_those_who_are_not_this_process_and_its_children(monkeypatch, tmp_path):
    """Counted by hand: of 7 seconds that the cores were busy in 2 seconds, 3 were our own."""
    ticks = os.sysconf("SC_CLK_TCK")

    def counted(clock, busy, own):
        user, nice, system, interrupts, soft, stolen = (int(second * ticks) for second in busy)
        waiting = int(clock * ticks)  # idle and for disks: nobody's work
        stat = f"cpu  {user} {nice} {system} {waiting} {waiting} {interrupts} {soft} {stolen} {user} 0\ncpu0 1 2 3\n"
        (tmp_path / "stat").write_text(stat)
        monkeypatch.setattr(other_work, "time", SimpleNamespace(monotonic=lambda: clock))
        monkeypatch.setattr(other_work, "os", SimpleNamespace(times=lambda: (*own, clock), sysconf=lambda name: ticks))

    monkeypatch.setattr(other_work, "_PROC_STAT", tmp_path / "stat")
    counted(10.0, (100, 0, 20, 1, 1, 0), own=(5, 1, 0, 0))
    others = OtherWork()
    counted(12.0, (102, 1, 21, 1.5, 1.5, 2), own=(6, 1, 1.5, 0.5))
    assert others.mean_cores() == pytest.approx((7 - 3) / 2)
    (tmp_path / "stat").unlink()
    assert others.mean_cores() is None and OtherWork().mean_cores() is None


def test_a_program_beside_this_one_is_seen():
    if not Path("/proc/stat").exists():
        pytest.skip("the system does not tell what the cores did")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as beside:
        others = OtherWork()
        time.sleep(1.0)
        found = others.mean_cores()
        beside.kill()
    assert found > 0.2


def test_the_command_measures_all_candidates_in_one_run(monkeypatch, call, place):
    monkeypatch.chdir(place)
    code, out, err = call(
        "bench", "model", "model@graph", "--batch", "1,4", "--seconds", 0.01, "--rounds", 2, "--threads", 1, "--device", "cpu",
        "--images", "images", "--end-to-end", "--picture", "speed.png", "--record", "RESULTS.md", "--json",
    )  # fmt: skip
    assert code == 0, err
    content = json.loads(out)
    assert [entry["name"] for entry in content["candidates"]] == ["model", "model@graph"]
    assert set(content["peaks"]["cpu"]) == {"fp32"}
    for entry in content["candidates"]:
        cases = [(speed["mode"], speed["batch"]) for speed in entry["speeds"]]
        assert cases == [("embedding", 1), ("embedding", 4), ("end-to-end", 1), ("end-to-end", 4)]
        assert entry["peak_bytes"] > entry["process_bytes"] > 0 and entry["accuracy"] == {"mAP": 0.5}
        for speed in entry["speeds"]:
            assert len(speed["rounds"]) == 2 and 0 < speed["p50_s"] <= speed["p95_s"] <= speed["p99_s"]
            assert speed["utilization"] > 0
    assert [speed["ratio"] for speed in content["candidates"][0]["speeds"]] == [1, 1, 1, 1]
    with Image.open(place / "speed.png") as picture:
        assert picture.width > 500
    assert "model@graph" in (place / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model", "--batch", "1,x"], "whole numbers separated by commas"),
        (["model", "--batch", "0"], "at least 1"),
        (["model", "--batch", "4,4"], "different whole numbers"),
        (["model", "--end-to-end"], "--images"),
        (["model", "--seconds", "0"], "more than 0 seconds"),
        (["model", "missing.onnx"], "missing.onnx: there is no such"),
        (["model", "--picture", "speed.txt"], "picture format"),
        (["model", "--record", "empty"], "takes a Markdown file"),
        (["model", "--record", "none/RESULTS.md"], "none is no folder"),
        (["model", "--num-ids", "4"], "--data"),
        (["model", "--data", "nowhere"], "nowhere"),
        (["model", "--images", "empty"], "has no images"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(monkeypatch, call, place, arguments, sentence):
    (place / "empty").mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    monkeypatch.setattr("hat.export.bench.benchmark.WorkerProcess", None)
    code, out, err = call("bench", *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1 and out == ""


def test_a_benchmark_needs_a_candidate_and_its_picture_an_accuracy(tmp_path):
    with pytest.raises(UsageError, match="at least one candidate"):
        benchmark([])

    def entry(name, accuracy):
        return CandidateSpeed(name, "torch fp32 cpu", "fp32", None, 1, 1, 0, accuracy, "", (speed_of((10, 12), (10, 12)),))

    report = BenchmarkReport((entry("a", {"mAP": 0.8}), entry("b", {})), {})
    assert draw_picture(report, tmp_path / "speed.svg") == ["b"]
    assert (tmp_path / "speed.svg").read_text().startswith("<?xml")
    with pytest.raises(UsageError, match="is there already"):
        draw_picture(report, tmp_path / "speed.svg")
    with pytest.raises(UsageError, match="no candidate's accuracy is known"):
        draw_picture(BenchmarkReport((entry("b", {}),), {}), tmp_path / "none.png")


@pytest.mark.parametrize("fastest", [10.1, 12, 25, 60, 3000])
def test_a_picture_says_how_fast_its_points_are_however_near_they_are(tmp_path, fastest):
    def entry(rate):
        return CandidateSpeed("a", "torch fp32 cpu", "fp32", None, 1, 1, 0, {"mAP": 0.8}, "", (speed_of((rate,), (10,)),))

    draw_picture(BenchmarkReport((entry(10), entry(fastest)), {}), tmp_path / "speed.svg")
    axis = (tmp_path / "speed.svg").read_text().split('id="matplotlib.axis_1"')[1].split('id="matplotlib.axis_2"')[0]
    ticks = [float(text) for text in re.findall(r"<!-- ([\d.]+) -->", axis)]
    assert 3 <= len(ticks) <= 20 and ticks == sorted(ticks)


def test_the_torch_runtime_runs_the_inference_graph(place):
    model = small_model(0)
    plain, graph = TorchRuntime(model, "cpu"), TorchRuntime(model, "cpu", inference_graph=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 32), dtype=np.uint8)
    expected = plain.run(images)
    got = graph.run(images)
    assert 0 < np.abs(got - expected).max() < 1e-5 and got.shape == (3, graph.embed_dim)
    assert graph.name == "torch fp32 inference graph cpu" and plain.model is model
    assert graph.run(images[:0]).shape == plain.run(images[:0]).shape == (0, graph.embed_dim)
    with pytest.raises(UsageError, match="no training module to look into"):
        _ = graph.model
    coarse = TorchRuntime(model, "cpu", "bf16", inference_graph=True).run(images)
    assert coarse.dtype == np.float32 and 1e-5 < np.abs(coarse - expected).max() < 0.1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")  # the compiler warns of its own internals
def test_the_compiled_graph_gives_the_same_embeddings_at_every_batch_size():
    model = small_model(0)
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 64, 32), dtype=np.uint8)
    expected = TorchRuntime(model, "cpu", inference_graph=True).run(images)
    compiled = TorchRuntime(model, "cpu", inference_graph=True, compiled=True)
    assert compiled.name == "torch fp32 inference graph compiled cpu"
    for batch in (4, 9, 1):
        np.testing.assert_allclose(compiled.run(images[:batch]), expected[:batch], atol=1e-5)
