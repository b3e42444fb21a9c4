"""The TensorRT runtime against fakes of 10.3, 10.16, 11.4 and RTX: real buffers, made-up engines, no TensorRT."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_tensorrt import EMBED_DIM, L4, SIZE, fake_embeddings, fake_tensorrt, small_info, small_onnx

from hat.errors import CheckpointError, HatError, MissingExtraError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile, info_to_json
from hat.runtime import Runtime
from hat.runtime.tensorrt.engine import file_sha256, read_engine_info, sidecar_path
from hat.runtime.tensorrt.library import Gpu, TensorRT, load_tensorrt
from hat.runtime.tensorrt.runtime import TensorRTRuntime, batch_buckets

ALL = ["10.3.0", "10.16", "11.4", "rtx"]


def engine(folder, version="11.4", *, gpu=L4, profile=(1, 4, 6), options=None, info=None):
    path = folder / "small.engine"
    trt, _ = fake_tensorrt(version, gpu)
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
    runtime = TensorRTRuntime(engine(tmp_path, version), module=fake_tensorrt(version)[0])
    batch = images(count)
    result = runtime.run(batch)
    assert result.shape == (count, EMBED_DIM) and result.dtype == np.float32
    np.testing.assert_allclose(result, fake_embeddings(batch), atol=1e-6)


def test_a_batch_below_the_profile_is_filled_up(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path, profile=(4, 4, 6)), module=fake_tensorrt("11.4")[0])
    for count in (1, 3, 7, 9):  # 7 = 6 + 1, whose last part is below the smallest
        np.testing.assert_allclose(runtime.run(images(count)), fake_embeddings(images(count)), atol=1e-6)


def test_results_are_the_callers_own(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path), module=fake_tensorrt("11.4")[0])
    first = runtime.run(images(2))
    kept = first.copy()
    runtime.run(images(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_it_is_a_runtime_and_says_what_it_is(tmp_path):
    runtime = TensorRTRuntime(engine(tmp_path), module=fake_tensorrt("11.4")[0])
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.embed_dim, runtime.max_batch) == ("tensorrt fp32 cpu", EMBED_DIM, 6)
    assert runtime.preprocessing == small_info().preprocessing
    assert runtime.info == read_engine_info(tmp_path / "small.engine")


def test_threads_take_turns(tmp_path):
    trt, script = fake_tensorrt("11.4")
    script.pause_s = 0.002
    runtime = TensorRTRuntime(engine(tmp_path), module=trt)
    wrong = []

    def work(seed):
        batch = images(7, seed)
        for _ in range(5):
            if not np.allclose(runtime.run(batch), fake_embeddings(batch), atol=1e-6):
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
    runtime = TensorRTRuntime(engine(tmp_path), module=fake_tensorrt("11.4")[0])
    with pytest.raises(UsageError, match=r"expected images \(B, 3, 64, 32\) uint8"):
        runtime.run(batch)


def test_a_failing_engine_raises_in_its_own_words(tmp_path):
    trt, script = fake_tensorrt("10.16")
    runtime = TensorRTRuntime(engine(tmp_path, "10.16"), module=trt)
    script.runs = False
    with pytest.raises(WorkError, match="failed on a batch of 2: an illegal memory access"):
        runtime.run(images(2))


A100, T4, L40, HALF_L4 = (
    Gpu(0, "A100", (8, 0), 108),
    Gpu(0, "T4", (7, 5), 40),
    Gpu(0, "Fake L40", (8, 9), 142),
    Gpu(0, "Fake L4", (8, 9), 29),
)


@pytest.mark.parametrize(
    ("built", "opened", "reason"),
    [
        ({"version": "10.16"}, {"version": "11.4"}, "built by version 10.16.1.11, and TensorRT 11.4.0.106 is installed"),
        ({"version": "10.3.0"}, {"version": "10.16"}, "built by version 10.3.0"),
        ({"version": "rtx"}, {"version": "11.4"}, "built by tensorrt-rtx, and tensorrt is to run it"),
        ({}, {"gpu": A100}, r"built for Fake L4 \(compute capability 8.9, 58 SMs\), and this is A100 \(compute capability 8.0"),
        ({}, {"gpu": L40}, "built for Fake L4 .*this is Fake L40"),
        ({}, {"gpu": HALF_L4}, "58 SMs.*this is Fake L4 .*29 SMs"),
        ({"options": {"hardware_compatibility": "ampere_plus"}}, {"gpu": T4}, "built for compute capability 8.0 and newer"),
        (
            {"options": {"hardware_compatibility": "same_compute_capability"}},
            {"gpu": A100},
            "built for compute capability 8.9, and this is A100",
        ),
        ({"version": "rtx"}, {"version": "rtx", "gpu": T4}, "built for sm80, sm86, .*this is T4"),
        (
            {"version": "rtx"},
            {"version": "rtx", "gpu": Gpu(0, "H100", (9, 0), 132)},
            "this is H100",
        ),  # newer, and not among them
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
    trt, _ = fake_tensorrt(opened.get("version", "11.4"), opened.get("gpu", L4))
    with pytest.raises(CheckpointError, match=f"does not belong here: .*{reason}"):
        TensorRTRuntime(path, module=trt)


@pytest.mark.parametrize(
    ("built", "opened"),
    [
        ({"options": {"hardware_compatibility": "ampere_plus"}}, {"gpu": A100}),
        ({"options": {"hardware_compatibility": "same_compute_capability"}}, {"gpu": L40}),
        ({"version": "10.3.0", "options": {"version_compatible": True}}, {"version": "10.16"}),
        ({"version": "rtx"}, {"version": "rtx", "gpu": A100}),
        ({"version": "rtx", "options": {"compute_capability": ("sm80",)}}, {"version": "rtx", "gpu": A100}),
    ],
)
def test_an_engine_that_was_built_to_move_moves(built, opened, tmp_path):
    path = engine(tmp_path, built.get("version", "11.4"), options=EngineOptions(**built.get("options", {})))
    trt, script = fake_tensorrt(opened.get("version", "11.4"), opened.get("gpu", L4))
    assert TensorRTRuntime(path, module=trt).run(images(2)).shape == (2, EMBED_DIM)
    # A lean runtime inside an engine is native code: only an engine that says that it has one may run it.
    assert script.host_code == ("version_compatible" in built.get("options", {}))


def test_a_changed_file_is_refused(tmp_path):
    path = engine(tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        TensorRTRuntime(path, module=fake_tensorrt("11.4")[0])


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format_version": 99}', "no JSON", "\x00"])
def test_a_missing_or_wrong_side_file_is_refused(text, tmp_path):
    path = engine(tmp_path)
    if text is None:
        sidecar_path(path).unlink()
    else:
        sidecar_path(path).write_text(text)
    with pytest.raises(CheckpointError, match=r"small\.engine\.json"):
        TensorRTRuntime(path, module=fake_tensorrt("11.4")[0])


def test_a_side_file_of_another_kind_is_refused(tmp_path):
    path = engine(tmp_path)
    sidecar_path(path).write_text(info_to_json(small_info()))
    with pytest.raises(CheckpointError, match=r"details\.engine is missing"):
        TensorRTRuntime(path, module=fake_tensorrt("11.4")[0])
    with pytest.raises(CheckpointError, match="no such file"):
        TensorRTRuntime(tmp_path / "none.engine", module=fake_tensorrt("11.4")[0])


@pytest.mark.parametrize("change", [{"embed_dim": 8}, {"input_type": "float32"}])
def test_a_side_file_that_tells_another_network_is_refused(change, tmp_path):
    path = engine(tmp_path)
    sidecar_path(path).write_text(info_to_json(replace(read_engine_info(path), **change)))
    with pytest.raises(CheckpointError, match="its sidecar says"):
        TensorRTRuntime(path, module=fake_tensorrt("11.4")[0])


def test_what_the_library_says_of_a_damaged_engine_is_told(tmp_path):
    path = engine(tmp_path)
    info = read_engine_info(path)
    path.write_bytes(b"damaged")
    metadata = info.details["engine"] | {"engine_sha256": file_sha256(path)}
    sidecar_path(path).write_text(info_to_json(replace(info, details={"engine": metadata})))
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded by TensorRT 11\.4\.0\.106: the engine plan file is not compatible"
    ):
        TensorRTRuntime(path, module=fake_tensorrt("11.4")[0])


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [((1, 8, 32), (1, 2, 4, 8, 16, 32)), ((1, 6, 20), (1, 2, 4, 6, 8, 16, 20)), ((4, 4, 4), (4,)), ((3, 8, 9), (3, 4, 8, 9))],
)
def test_batch_buckets(profile, sizes):
    low, tuned, high = profile
    assert batch_buckets(BatchProfile(min=low, opt=tuned, max=high)) == sizes


def test_warm_up_runs_every_batch_size_once_and_calls_run_no_other(tmp_path):
    trt, script = fake_tensorrt("11.4")
    runtime = TensorRTRuntime(engine(tmp_path, profile=(1, 4, 6)), module=trt)
    runtime.warm_up()
    assert script.sizes == [1, 2, 4, 6]
    for count in (3, 5, 13):
        np.testing.assert_allclose(runtime.run(images(count)), fake_embeddings(images(count)), atol=1e-6)
    assert script.sizes[4:] == [4, 6, 6, 6, 1]


def test_contexts_share_one_block_of_scratch_memory(tmp_path):
    trt, script = fake_tensorrt("10.3.0")
    runtime = TensorRTRuntime(engine(tmp_path, "10.3.0"), module=trt)
    assert script.settings is trt.library.ExecutionContextAllocationStrategy.USER_MANAGED
    assert script.scratch == {(runtime.buffers.scratch.data_ptr(), 4096)}


def test_rtx_captures_graphs_by_itself_and_keeps_what_it_compiled(tmp_path):
    trt, script = fake_tensorrt("rtx")
    path = engine(tmp_path, "rtx")
    runtime = TensorRTRuntime(path, module=trt)
    assert script.settings.cuda_graph_strategy == trt.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runtime.warm_up()
    kept = (tmp_path / "small.engine.cache").read_bytes()
    assert kept == b"compiled for [1, 2, 4, 6]"
    trt, script = fake_tensorrt("rtx")
    assert TensorRTRuntime(path, module=trt).run(images(2)).shape == (2, EMBED_DIM)
    assert script.cache == kept
    engine(tmp_path, "rtx")  # a new engine has compiled nothing yet
    assert not (tmp_path / "small.engine.cache").exists()


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm(tmp_path, caplog, monkeypatch):
    def read_only(path, overwrite):
        raise OSError(30, "Read-only file system")

    runtime = TensorRTRuntime(engine(tmp_path, "rtx"), module=fake_tensorrt("rtx")[0])
    monkeypatch.setattr("hat.runtime.tensorrt.runtime.atomic_output", read_only)
    assert runtime.run(images(3)).shape == (3, EMBED_DIM)
    assert "compiled kernels cannot be kept" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_graphs_run_on_the_stream_and_the_addresses_of_the_buffers(tmp_path):
    trt, script = fake_tensorrt("11.4")
    runtime = TensorRTRuntime(engine(tmp_path), "cuda", module=trt)
    runtime.warm_up()
    executed = len(script.sizes)
    assert runtime.captures and sorted(runtime.graphs) == [1, 2, 4, 6]
    for count in (1, 3, 6, 13):
        np.testing.assert_allclose(runtime.run(images(count)), fake_embeddings(images(count)), atol=1e-6)
    assert len(script.sizes) == executed  # replayed, not called


@pytest.mark.parametrize(("version", "variant"), [("10.2.0", "tensorrt"), ("8.6.1", "tensorrt"), ("1.2", "tensorrt-rtx")])
def test_old_libraries_are_refused(version, variant):
    library = fake_tensorrt("10.16")[0].library
    library.__version__ = version
    with pytest.raises(UsageError, match="or newer is needed"):
        TensorRT(library, variant)


def test_a_cpu_is_no_device_for_an_engine():
    trt = TensorRT(fake_tensorrt("11.4")[0].library, "tensorrt")
    with pytest.raises(UsageError, match="run on NVIDIA GPUs alone"):
        trt.device("cpu")


@pytest.mark.parametrize(
    ("variant", "advice"),
    [
        ("tensorrt", r"pip install 'hat-reid\[tensorrt\]' --extra-index-url https://pypi.nvidia.com"),
        ("tensorrt-rtx", r"pip install 'hat-reid\[tensorrt-rtx\]'$"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(variant, advice, monkeypatch):
    monkeypatch.setitem(sys.modules, variant.replace("-", "_"), None)
    with pytest.raises(MissingExtraError, match=advice):
        load_tensorrt.__wrapped__(variant)


def test_a_missing_library_on_a_jetson_is_that_of_jetpack(tmp_path, monkeypatch):
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    monkeypatch.setattr("hat.runtime.tensorrt.library._JETSON_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"JetPack .* --system-site-packages"):
        load_tensorrt.__wrapped__("tensorrt")


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
