"""The TensorRT runtime against stand-ins for 10.3, 10.16, 11.4 and RTX: real buffers, made-up engines, no TensorRT."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from tensorrt_stand_in import EMBED_DIM, L4, SIZE, embed_like_the_stand_in, small_info, small_onnx, stand_in

from hat.errors import CheckpointError, HatError, MissingExtraError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine, rebuild_engine
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile, info_to_json
from hat.runtime import Runtime
from hat.runtime.tensorrt.engine import file_sha256, read_engine_info, side_file
from hat.runtime.tensorrt.library import Gpu, TensorRT, checked_flavor, load_tensorrt
from hat.runtime.tensorrt.runtime import TensorRTRuntime

ALL = ["10.3.0", "10.16", "11.4", "rtx"]


def engine(folder, version="11.4", *, gpu=L4, profile=(1, 4, 6), options=None, info=None):
    path = folder / "small.engine"
    trt, _ = stand_in(version, gpu)
    low, tuned, high = profile
    build_engine(
        small_onnx(info=info),
        path,
        profile=BatchProfile(min=low, opt=tuned, max=high),
        options=options,
        module=trt,
        overwrite=True,
    )
    return path


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 12, 13])
def test_batches_of_any_size_come_back_whole_and_in_order(version, count, tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path, version), module=stand_in(version)[0])
    batch = images(count)
    result = runtime.run(batch)
    assert result.shape == (count, EMBED_DIM) and result.dtype == np.float32
    np.testing.assert_allclose(result, embed_like_the_stand_in(batch), atol=1e-6)


def test_a_batch_below_the_profile_is_filled_up(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path, profile=(4, 4, 6)), module=stand_in("11.4")[0])
    for count in (1, 3, 7, 9):  # 7 = 6 + 1, whose last part is below the smallest
        np.testing.assert_allclose(runtime.run(images(count)), embed_like_the_stand_in(images(count)), atol=1e-6)


def test_results_are_the_callers_own(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path), module=stand_in("11.4")[0])
    first = runtime.run(images(2))
    kept = first.copy()
    runtime.run(images(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_it_is_a_runtime_and_says_what_it_is(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path), module=stand_in("11.4")[0])
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.embed_dim, runtime.max_batch) == ("tensorrt fp32 cpu", EMBED_DIM, 6)
    assert runtime.preprocessing == small_info().preprocessing
    assert runtime.info == read_engine_info(tmp_path / "small.engine")


def test_threads_take_turns(tmp_path):
    trt, script = stand_in("11.4")
    script.pause_s = 0.002
    runtime = TensorRTRuntime(engine(tmp_path), module=trt)
    wrong = []

    def work(seed):
        batch = images(7, seed)
        for _ in range(5):
            if not np.allclose(runtime.run(batch), embed_like_the_stand_in(batch), atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 3, 32, 64), np.uint8), np.zeros((3, *SIZE), np.uint8), np.zeros((1, 3, *SIZE), np.float32)]
)
def test_other_images_than_the_engines_are_refused(batch, tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path), module=stand_in("11.4")[0])
    with pytest.raises(UsageError, match=r"expected images \(B, 3, 64, 32\) uint8"):
        runtime.run(batch)


def test_a_failing_engine_raises_in_its_own_words(tmp_path):
    trt, script = stand_in("10.16")
    runtime = TensorRTRuntime(engine(tmp_path, "10.16"), module=trt)
    script.runs = False
    with pytest.raises(WorkError, match="failed on a batch of 2: an illegal memory access"):
        runtime.run(images(2))


A100, OTHER_L4 = Gpu(0, "A100", (8, 0)), Gpu(0, "Stand-in L40", (8, 9))


@pytest.mark.parametrize(
    ("built", "opened", "reason"),
    [
        ({"version": "10.16"}, {"version": "11.4"}, "built by version 10.16.1.11, and TensorRT 11.4.0.106 is installed"),
        ({"version": "10.3.0"}, {"version": "10.16"}, "built by version 10.3.0"),
        ({"version": "rtx"}, {"version": "11.4"}, "built by tensorrt-rtx, and tensorrt is to run it"),
        ({}, {"gpu": A100}, r"built on Stand-in L4 \(compute capability 8.9\), and this is A100 \(compute capability 8.0\)"),
        ({}, {"gpu": OTHER_L4}, "built on Stand-in L4 .*this is Stand-in L40"),
        (
            {"options": {"hardware_compatible": True}},
            {"gpu": Gpu(0, "T4", (7, 5))},
            "built for compute capability 8.0 and newer",
        ),
        ({"version": "rtx"}, {"version": "rtx", "gpu": Gpu(0, "T4", (7, 5))}, "compute capability 8.0 and newer.*this is T4"),
        (
            {"version": "rtx", "options": {"compute_capability": ("sm86", "sm89")}},
            {"version": "rtx", "gpu": A100},
            "built for sm86, sm89, and this is A100",
        ),
        ({"version": "10.16", "options": {"version_compatible": True}}, {"version": "10.3.0"}, "built by version 10.16.1.11"),
        ({"version": "10.3.0", "options": {"version_compatible": True}}, {"version": "11.4"}, "built by version 10.3.0"),
    ],
)
def test_an_engine_that_does_not_belong_here_is_refused_with_the_reason(built, opened, reason, tmp_path):
    path = engine(tmp_path, built.get("version", "11.4"), options=EngineOptions(**built.get("options", {})))
    trt, _ = stand_in(opened.get("version", "11.4"), opened.get("gpu", L4))
    with pytest.raises(CheckpointError, match=f"does not belong here: .*{reason}"):
        TensorRTRuntime(path, module=trt)


@pytest.mark.parametrize(
    ("built", "opened"),
    [
        ({"options": {"hardware_compatible": True}}, {"gpu": A100}),
        ({"version": "10.3.0", "options": {"version_compatible": True}}, {"version": "10.16"}),
        ({"version": "rtx"}, {"version": "rtx", "gpu": A100}),
        ({"version": "rtx", "options": {"compute_capability": ("sm80",)}}, {"version": "rtx", "gpu": A100}),
    ],
)
def test_an_engine_that_was_built_to_move_moves(built, opened, tmp_path):
    path = engine(tmp_path, built.get("version", "11.4"), options=EngineOptions(**built.get("options", {})))
    trt, script = stand_in(opened.get("version", "11.4"), opened.get("gpu", L4))
    assert TensorRTRuntime(path, module=trt).run(images(2)).shape == (2, EMBED_DIM)
    # A lean runtime inside an engine is native code: only an engine that says that it has one may run it.
    assert script.host_code == ("version_compatible" in built.get("options", {}))


def test_a_fp8_engine_without_targets_wants_ada(tmp_path):
    trt, script = stand_in("rtx", None)
    script.layer_types = ["FP8"]
    info = build_engine(small_onnx(info=small_info("fp8")), tmp_path / "small.engine", module=trt)
    assert info.device == "compute capability 8.9 and newer"
    with pytest.raises(CheckpointError, match="this is A100"):
        TensorRTRuntime(tmp_path / "small.engine", module=stand_in("rtx", A100)[0])


def test_a_changed_file_or_onnx_is_refused(tmp_path):
    path = engine(tmp_path, options=EngineOptions(keep_onnx=True))
    trt, _ = stand_in("11.4")
    TensorRTRuntime(path, module=trt)
    (tmp_path / "small.engine.onnx").write_bytes(small_onnx(seed=5))
    with pytest.raises(CheckpointError, match=r"small.engine.onnx beside it has SHA-256"):
        TensorRTRuntime(path, module=trt)
    (tmp_path / "small.engine.onnx").unlink()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        TensorRTRuntime(path, module=trt)


def test_an_engine_is_rebuilt_when_asked(tmp_path):
    path = engine(tmp_path, "10.16", options=EngineOptions(keep_onnx=True))
    trt, _ = stand_in("11.4")
    runtime = TensorRTRuntime(path, module=trt, rebuild=lambda stale: rebuild_engine(stale, module=trt))
    assert runtime.facts.version == trt.version
    np.testing.assert_allclose(runtime.run(images(3)), embed_like_the_stand_in(images(3)), atol=1e-6)
    TensorRTRuntime(path, module=trt)  # and stays


def test_a_rebuild_that_changes_nothing_does_not_help(tmp_path):
    path = engine(tmp_path, "10.16")
    with pytest.raises(CheckpointError, match="does not belong here"):
        TensorRTRuntime(path, module=stand_in("11.4")[0], rebuild=lambda stale: None)


def test_an_engine_without_weights_is_refused(tmp_path):
    path = engine(tmp_path, options=EngineOptions(strip_weights=True))
    with pytest.raises(CheckpointError, match="refit it first"):
        TensorRTRuntime(path, module=stand_in("11.4")[0])


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format_version": 99}', "no JSON", "\x00"])
def test_a_missing_or_wrong_side_file_is_refused(text, tmp_path):
    path = engine(tmp_path)
    if text is None:
        side_file(path).unlink()
    else:
        side_file(path).write_text(text)
    with pytest.raises(CheckpointError, match=r"small\.engine\.json"):
        TensorRTRuntime(path, module=stand_in("11.4")[0])


def test_a_side_file_of_another_kind_is_refused(tmp_path):
    path = engine(tmp_path)
    side_file(path).write_text(info_to_json(small_info()))
    with pytest.raises(CheckpointError, match=r"details\.engine is missing"):
        TensorRTRuntime(path, module=stand_in("11.4")[0])
    with pytest.raises(CheckpointError, match="no such file"):
        TensorRTRuntime(tmp_path / "none.engine", module=stand_in("11.4")[0])


@pytest.mark.parametrize("change", [{"embed_dim": 8}, {"input_type": "float32"}])
def test_a_side_file_that_tells_another_network_is_refused(change, tmp_path):
    path = engine(tmp_path)
    side_file(path).write_text(info_to_json(replace(read_engine_info(path), **change)))
    with pytest.raises(CheckpointError, match="its side file says"):
        TensorRTRuntime(path, module=stand_in("11.4")[0])


def test_what_the_library_says_of_a_damaged_engine_is_told(tmp_path):
    path = engine(tmp_path)
    info = read_engine_info(path)
    path.write_bytes(b"damaged")
    facts = info.details["engine"] | {"engine_sha256": file_sha256(path)}
    side_file(path).write_text(info_to_json(replace(info, details={"engine": facts})))
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded by TensorRT 11\.4\.0\.106: the engine plan file is not compatible"
    ):
        TensorRTRuntime(path, module=stand_in("11.4")[0])


def test_rtx_captures_graphs_by_itself(tmp_path):
    trt, script = stand_in("rtx")
    path = engine(tmp_path, "rtx")
    runtime = TensorRTRuntime(path, module=trt, cuda_graph=True)
    assert script.graphs == trt.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    np.testing.assert_allclose(runtime.run(images(5)), embed_like_the_stand_in(images(5)), atol=1e-6)


@pytest.mark.parametrize(("version", "flavor"), [("9.3.0", "tensorrt"), ("8.6.1", "tensorrt"), ("0.9", "tensorrt-rtx")])
def test_old_libraries_are_refused(version, flavor):
    library = stand_in("10.16")[0].library
    library.__version__ = version
    with pytest.raises(UsageError, match="or newer is needed"):
        TensorRT(library, flavor)


def test_a_cpu_is_no_device_for_an_engine():
    trt = TensorRT(stand_in("11.4")[0].library, "tensorrt")
    with pytest.raises(UsageError, match="run on NVIDIA GPUs alone"):
        trt.device("cpu")


def test_an_unknown_flavor_is_refused():
    assert checked_flavor("tensorrt-rtx") == "tensorrt-rtx"
    with pytest.raises(UsageError, match="expected tensorrt or tensorrt-rtx"):
        checked_flavor("tensorrt11")


@pytest.mark.parametrize(
    ("flavor", "advice"),
    [
        ("tensorrt", r"pip install 'hat-reid\[tensorrt\]' --extra-index-url https://pypi.nvidia.com"),
        ("tensorrt-rtx", r"pip install 'hat-reid\[tensorrt-rtx\]'$"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(flavor, advice, monkeypatch):
    monkeypatch.setitem(sys.modules, flavor.replace("-", "_"), None)
    with pytest.raises(MissingExtraError, match=advice):
        load_tensorrt.__wrapped__(flavor)


@pytest.mark.parametrize("body", ["import no_such_part", "raise OSError('libnvinfer.so.11: cannot open shared object file')"])
def test_a_library_that_cannot_be_loaded_is_told_apart_from_a_missing_one(body, tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UsageError, match="is installed and cannot be loaded") as caught:
        load_tensorrt.__wrapped__("tensorrt")
    assert not isinstance(caught.value, MissingExtraError)
    assert isinstance(caught.value, HatError)


def test_the_runtime_is_imported_without_tensorrt():
    code = "import sys, hat.runtime.tensorrt.runtime; print([name for name in sys.modules if name.startswith('tensorrt')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
