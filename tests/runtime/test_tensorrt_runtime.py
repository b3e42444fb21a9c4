"""The TensorRT runtime against fakes of 10.3, 10.16, 11.4 and RTX: real buffers, made-up engines, no TensorRT."""

import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_tensorrt import EMBED_DIM, L4, SIZE, fake_embeddings, fake_tensorrt, small_info, small_onnx

from hat.errors import CheckpointError, MissingExtraError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile, file_sha256, info_to_json
from hat.runtime import Runtime
from hat.runtime.tensorrt import engine as engine_module
from hat.runtime.tensorrt import library as library_module
from hat.runtime.tensorrt import runtime as runtime_module
from hat.runtime.tensorrt.engine import read_engine_info, sidecar_path
from hat.runtime.tensorrt.library import Gpu, TensorRT, load_tensorrt
from hat.runtime.tensorrt.runtime import TensorRTRuntime, batch_buckets


def engine(folder, version="11.4", *, gpu=L4, profile=(1, 4, 6), **options):
    path, (low, tuned, high) = folder / "small.engine", profile
    batch, trt = BatchProfile(min=low, opt=tuned, max=high), fake_tensorrt(version, gpu)[0]
    build_engine(small_onnx(), path, profile=batch, options=EngineOptions(**options), module=trt, overwrite=True)
    return path


def opened(path, version="11.4", gpu=L4, device=None):
    """Return (a runtime around a fake, the fake's script)."""
    trt, script = fake_tensorrt(version, gpu)
    return TensorRTRuntime(path, device, module=trt), script


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)


def check(runtime, *counts):
    for count in counts:
        result = runtime.run(images(count))
        assert result.shape == (count, EMBED_DIM) and result.dtype == np.float32
        np.testing.assert_allclose(result, fake_embeddings(images(count)), atol=1e-6)


@pytest.mark.parametrize("version", ["10.3.0", "10.16", "11.4", "rtx"])
def test_batches_of_any_size_come_back_whole_and_in_order(version, tmp_path):
    check(opened(engine(tmp_path, version), version)[0], 0, 1, 5, 6, 7, 12, 13)


def test_a_batch_below_the_profile_is_filled_up(tmp_path):
    check(opened(engine(tmp_path, profile=(4, 4, 6)))[0], 1, 3, 7, 9)  # 7 = 6 + 1, whose last part is below the smallest


def test_it_is_a_runtime_that_says_what_it_is_and_refuses_other_images(tmp_path):
    runtime, _ = opened(engine(tmp_path))
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.embed_dim, runtime.max_batch) == ("tensorrt fp32 cpu", EMBED_DIM, 6)
    assert runtime.preprocessing == small_info().preprocessing
    assert runtime.info == read_engine_info(tmp_path / "small.engine")
    for wrong in (images(1).transpose(0, 1, 3, 2), images(1)[0], images(1).astype(np.float32)):
        with pytest.raises(UsageError, match=r"expected images \(B, 3, 64, 32\) uint8"):
            runtime.run(wrong)


def test_threads_take_turns_and_results_are_the_callers_own(tmp_path):
    runtime, script = opened(engine(tmp_path))
    script.pause_s = 0.002
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda seed: runtime.run(images(7, seed)), range(20)))
    for seed, result in enumerate(results):
        np.testing.assert_allclose(result, fake_embeddings(images(7, seed)), atol=1e-6)


def test_a_failing_engine_raises_in_its_own_words(tmp_path):
    runtime, script = opened(engine(tmp_path, "10.16"), "10.16")
    script.runs = False
    with pytest.raises(WorkError, match="failed on a batch of 2: an illegal memory access"):
        runtime.run(images(2))


A100, T4, H100 = Gpu(0, "A100", (8, 0), 108), Gpu(0, "T4", (7, 5), 40), Gpu(0, "H100", (9, 0), 132)
L40, HALF_L4 = Gpu(0, "Fake L40", (8, 9), 142), Gpu(0, "Fake L4", (8, 9), 29)
AMPERE_PLUS, SAME = ({"hardware_compatibility": name} for name in ("ampere_plus", "same_compute_capability"))
MOVABLE = {"version_compatible": True}


@pytest.mark.parametrize(
    ("built", "options", "version", "gpu", "reason"),
    [
        ("10.16", {}, "11.4", L4, "built by version 10.16.1.11, and TensorRT 11.4.0.106 is installed"),
        ("10.3.0", {}, "10.16", L4, "built by version 10.3.0"),
        ("rtx", {}, "11.4", L4, "built by tensorrt-rtx, and tensorrt is to run it"),
        ("11.4", {}, "11.4", A100, r"built for Fake L4 \(compute capability 8.9, 58 SMs\), and this is A100 \(compute capab"),
        ("11.4", {}, "11.4", L40, "built for Fake L4 .*this is Fake L40"),
        ("11.4", {}, "11.4", HALF_L4, "58 SMs.*this is Fake L4 .*29 SMs"),
        ("11.4", AMPERE_PLUS, "11.4", T4, "built for compute capability 8.0 and newer"),
        ("11.4", SAME, "11.4", A100, "built for compute capability 8.9, and this is A100"),
        ("rtx", {}, "rtx", T4, "built for sm80, sm86, .*this is T4"),
        ("rtx", {}, "rtx", H100, "this is H100"),  # newer, and not among them
        ("rtx", {"compute_capability": ("sm86", "sm89")}, "rtx", A100, "built for sm86, sm89, and this is A100"),
        ("10.16", MOVABLE, "10.3.0", L4, "built by version 10.16.1.11"),
        ("10.3.0", MOVABLE, "11.4", L4, "built by version 10.3.0"),
        ("11.4", AMPERE_PLUS, "11.4", A100, None),
        ("11.4", SAME, "11.4", L40, None),
        ("10.3.0", MOVABLE, "10.16", L4, None),
        ("rtx", {}, "rtx", A100, None),
        ("rtx", {"compute_capability": ("sm80",)}, "rtx", A100, None),
    ],
)
def test_an_engine_runs_where_it_was_built_for_and_is_refused_elsewhere(built, options, version, gpu, reason, tmp_path):
    path = engine(tmp_path, built, **options)
    if reason is None:
        runtime, script = opened(path, version, gpu)
        check(runtime, 2)
        # A lean runtime inside an engine is native code: only an engine that says that it has one may run it.
        assert script.host_code == (options is MOVABLE)
    else:
        with pytest.raises(CheckpointError, match=f"does not belong here: .*{reason}"):
            opened(path, version, gpu)


def test_a_missing_or_changed_engine_is_refused(tmp_path):
    path = engine(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        opened(tmp_path / "none.engine")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        opened(path)


def test_a_missing_or_wrong_sidecar_is_refused(tmp_path):
    path = engine(tmp_path)
    for text in ("", "[]", "{}", '{"format_version": 99}', "no JSON", "\x00", None):
        sidecar_path(path).unlink()
        if text is not None:
            sidecar_path(path).write_text(text)
        with pytest.raises(CheckpointError, match=r"small\.engine\.json"):
            opened(path)


def test_a_sidecar_of_something_else_is_refused(tmp_path):
    path = engine(tmp_path)
    info = read_engine_info(path)
    cases = {
        r"details\.engine is missing": small_info(),
        r"embeddings is FLOAT .*, its sidecar says": replace(info, embed_dim=8),
        r"images is UINT8 .*, its sidecar says FLOAT": replace(info, input_type="float32"),
    }
    for reason, wrong in cases.items():
        sidecar_path(path).write_text(info_to_json(wrong))
        with pytest.raises(CheckpointError, match=reason):
            opened(path)


def test_what_the_library_says_of_a_damaged_engine_is_told(tmp_path):
    path = engine(tmp_path)
    info = read_engine_info(path)
    path.write_bytes(b"damaged")
    metadata = info.details["engine"] | {"engine_sha256": file_sha256(path)}
    sidecar_path(path).write_text(info_to_json(replace(info, details={"engine": metadata})))
    reason = r"cannot be loaded by TensorRT 11\.4\.0\.106: the engine plan file is not compatible"
    with pytest.raises(CheckpointError, match=reason):
        opened(path)


def test_batch_buckets():
    expected = {(1, 8, 32): (1, 2, 4, 8, 16, 32), (1, 6, 20): (1, 2, 4, 6, 8, 16, 20), (4, 4, 4): (4,), (3, 8, 9): (3, 4, 8, 9)}
    for (low, tuned, high), sizes in expected.items():
        assert batch_buckets(BatchProfile(min=low, opt=tuned, max=high)) == sizes


def test_warm_up_runs_every_batch_size_once_and_calls_run_no_other(tmp_path):
    runtime, script = opened(engine(tmp_path, profile=(1, 4, 6)))
    runtime.warm_up()
    assert script.sizes == [1, 2, 4, 6]
    check(runtime, 3, 5, 13)
    assert script.sizes[4:] == [4, 6, 6, 6, 1]
    # Contexts have no scratch memory of their own, and share one block of it.
    assert script.settings is runtime.trt.library.ExecutionContextAllocationStrategy.USER_MANAGED
    assert script.scratch == {(runtime.buffers.scratch.data_ptr(), 4096)}


def test_rtx_captures_graphs_by_itself_and_keeps_what_it_compiled(tmp_path):
    path = engine(tmp_path, "rtx")
    runtime, script = opened(path, "rtx")
    assert script.settings.cuda_graph_strategy == runtime.trt.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runtime.warm_up()
    kept = (tmp_path / "small.engine.cache").read_bytes()
    assert kept == b"compiled for [1, 2, 4, 6]"
    runtime, script = opened(path, "rtx")
    check(runtime, 2)
    assert script.cache == kept
    engine(tmp_path, "rtx")  # a new engine has compiled nothing yet
    assert not (tmp_path / "small.engine.cache").exists()


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm(tmp_path, caplog, monkeypatch):
    def read_only(path, overwrite):
        raise OSError(30, "Read-only file system")

    runtime, _ = opened(engine(tmp_path, "rtx"), "rtx")
    monkeypatch.setattr(runtime_module, "atomic_output", read_only)
    check(runtime, 3)
    assert "compiled kernels cannot be kept" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_graphs_run_on_the_stream_and_the_addresses_of_the_buffers(tmp_path):
    runtime, script = opened(engine(tmp_path), device="cuda")
    runtime.warm_up()
    executed = len(script.sizes)
    assert runtime.captures and sorted(runtime.graphs) == [1, 2, 4, 6]
    check(runtime, 1, 3, 6, 13)
    assert len(script.sizes) == executed  # replayed, not called


def test_a_cpu_and_old_libraries_are_refused():
    library = fake_tensorrt("11.4")[0].library
    with pytest.raises(UsageError, match="run on NVIDIA GPUs alone"):
        TensorRT(library, "tensorrt").device("cpu")
    for version, variant in (("10.2.0", "tensorrt"), ("8.6.1", "tensorrt"), ("1.2", "tensorrt-rtx")):
        library.__version__ = version
        with pytest.raises(UsageError, match="or newer is needed"):
            TensorRT(library, variant)


@pytest.mark.parametrize(
    ("variant", "jetson", "advice"),
    [
        ("tensorrt", False, r"pip install 'hat-reid\[tensorrt\]' --extra-index-url https://pypi.nvidia.com"),
        ("tensorrt-rtx", False, r"pip install 'hat-reid\[tensorrt-rtx\]'$"),
        ("tensorrt", True, r"JetPack .* --system-site-packages"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(variant, jetson, advice, tmp_path, monkeypatch):
    monkeypatch.setattr(library_module, "JETSON_RELEASE", tmp_path if jetson else tmp_path / "none")
    monkeypatch.setitem(sys.modules, variant.replace("-", "_"), None)
    with pytest.raises(MissingExtraError, match=advice):
        load_tensorrt.__wrapped__(variant)


@pytest.mark.parametrize("body", ["import no_such_part", "raise OSError('libnvinfer.so.11: cannot open shared object file')"])
def test_a_library_that_cannot_be_loaded_is_told_apart_from_a_missing_one(body, tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UsageError, match="is installed and cannot be loaded") as caught:
        load_tensorrt.__wrapped__("tensorrt")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.mark.parametrize("module", [engine_module, library_module, runtime_module], ids=lambda module: module.__name__)
def test_the_runtime_is_imported_without_tensorrt(module, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it would raise
    assert runpy.run_path(module.__file__)
