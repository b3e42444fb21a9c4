"""Engines that really run, on a CUDA GPU: parity with the model that they were built from. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hat.errors import MissingExtraError
from hat.export.request import Calibration, ExportRequest
from hat.export.tensorrt.builder import export_tensorrt, export_tensorrt_rtx
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile
from hat.model.inference import InferenceModel
from hat.runtime.tensorrt.engine import engine_metadata
from hat.runtime.tensorrt.library import current_gpu, load_tensorrt
from hat.runtime.tensorrt.runtime import TensorRTRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: engines run on NVIDIA GPUs alone"),
]

WORST_COSINE = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
RTX_GPUS = {(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def variant(request):
    try:
        load_tensorrt(request.param)
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    if request.param == "tensorrt-rtx" and current_gpu().compute_capability not in RTX_GPUS:
        pytest.skip(f"TensorRT for RTX does not run on {current_gpu()}")
    return request.param


def export(variant, model, path, precision="fp32", **options):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 3, *model.config.image_size), dtype=np.uint8)
    request = ExportRequest(
        name="tiny",
        precision=precision,
        batch=BatchProfile(min=1, opt=4, max=8),
        calibration=Calibration(images, tuple(map(str, range(16))), "noise", 0) if precision == "int8" else None,
        options=options,
    )
    return (export_tensorrt if variant == "tensorrt" else export_tensorrt_rtx)(model, path, request)


def expected(model, images):
    with torch.inference_mode():
        return InferenceModel(model).cpu()(torch.from_numpy(images)).numpy()


def batch_of(model, count):
    return np.random.default_rng(1).integers(0, 256, (count, 3, *model.config.image_size), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_embeds_as_the_model_does(variant, precision, tiny_model, tmp_path):
    export(variant, tiny_model, tmp_path / "tiny.engine", precision)
    runtime = TensorRTRuntime(tmp_path / "tiny.engine", "cuda")
    for count in (0, 1, 4, 8, 9, 17):
        images = batch_of(tiny_model, count)
        result, reference = runtime.run(images), expected(tiny_model, images)
        assert result.shape == reference.shape
        if count:
            assert (result * reference).sum(axis=1).min() > WORST_COSINE[precision]
        if precision == "fp32" and count:
            assert np.abs(result - reference).max() < 1e-4


def test_a_captured_graph_gives_the_same(variant, tiny_model, tmp_path):
    export(variant, tiny_model, tmp_path / "tiny.engine")
    plain = TensorRTRuntime(tmp_path / "tiny.engine", "cuda", cuda_graph=False)
    captured = TensorRTRuntime(tmp_path / "tiny.engine", "cuda")
    for count in (1, 3, 4, 8, 1, 9):
        images = batch_of(tiny_model, count)
        np.testing.assert_allclose(captured.run(images), plain.run(images), atol=1e-6)


def test_options_of_an_engine_are_built(variant, tiny_model, tmp_path):
    if variant != "tensorrt":
        pytest.skip("options of TensorRT alone")
    cache = tmp_path / "kernels.cache"
    options = {"timing_cache": str(cache), "hardware_compatibility": "ampere_plus", "workspace_bytes": 1 << 30, "opt_level": 1}
    info = export(variant, tiny_model, tmp_path / "tiny.engine", **options)
    assert cache.stat().st_size > 0
    assert EngineOptions(**engine_metadata(info, "it").options).hardware_compatibility == "ampere_plus"
    assert TensorRTRuntime(tmp_path / "tiny.engine").run(batch_of(tiny_model, 2)).shape[0] == 2
