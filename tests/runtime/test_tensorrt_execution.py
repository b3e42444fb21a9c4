"""Engines that really run, on a CUDA GPU: parity with the model that they were built from. Skipped where there is none."""

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


def batch_of(model, count):
    return np.random.default_rng(1).integers(0, 256, (count, 3, *model.config.image_size), dtype=np.uint8)


def export(variant, model, path, precision="fp32", **options):
    calibration = Calibration(batch_of(model, 16), tuple(map(str, range(16))), "noise", 0) if precision == "int8" else None
    batch = BatchProfile(min=1, opt=4, max=8)
    request = ExportRequest(name="tiny", precision=precision, batch=batch, calibration=calibration, options=options)
    return (export_tensorrt if variant == "tensorrt" else export_tensorrt_rtx)(model, path, request)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_embeds_as_the_model_does_captured_or_not(variant, precision, tiny_model, tmp_path):
    export(variant, tiny_model, tmp_path / "tiny.engine", precision)
    captured, plain = (TensorRTRuntime(tmp_path / "tiny.engine", "cuda", cuda_graph=flag) for flag in (True, False))
    model = InferenceModel(tiny_model).cpu()
    for count in (0, 1, 3, 4, 8, 1, 9, 17):
        images = batch_of(tiny_model, count)
        result = captured.run(images)
        with torch.inference_mode():
            reference = model(torch.from_numpy(images)).numpy()
        assert result.shape == reference.shape
        assert ((result * reference).sum(axis=1) > WORST_COSINE[precision]).all()
        if precision == "fp32":
            np.testing.assert_allclose(result, plain.run(images), atol=1e-6)
            np.testing.assert_allclose(result, reference, atol=1e-4, rtol=0)


def test_options_of_an_engine_are_built(variant, tiny_model, tmp_path):
    if variant != "tensorrt":
        pytest.skip("options of TensorRT alone")
    cache = tmp_path / "kernels.cache"
    options = {"timing_cache": str(cache), "hardware_compatibility": "ampere_plus", "workspace_bytes": 1 << 30, "opt_level": 1}
    info = export(variant, tiny_model, tmp_path / "tiny.engine", **options)
    assert cache.stat().st_size > 0
    assert EngineOptions(**engine_metadata(info, "it").options).hardware_compatibility == "ampere_plus"
    assert TensorRTRuntime(tmp_path / "tiny.engine").run(batch_of(tiny_model, 2)).shape[0] == 2
