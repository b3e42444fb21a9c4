"""A model that pools by a generalized mean keeps its embeddings in every precision."""

import numpy as np
import pytest
import torch

import hat
from hat.export.request import Calibration, ExportRequest
from hat.export.to_onnx import export_onnx
from hat.runtime.onnxruntime_runtime import OnnxRuntime


@pytest.fixture(scope="module")
def pooled_model():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = hat.create_model(
            "hat_resnet18",
            num_classes=3,
            image_size=(64, 32),
            pooling="gem",
            depths=(0, 0, 1, 0),
            widths=(16, 16, 32, 16),
            num_bottlenecks=0,
            transformer={"num_heads": 4, "ffn_dim": 32},
        )
        with torch.no_grad():
            model.train()(torch.randn(8, 3, 64, 32))  # running statistics of something
            model.pooling.p.fill_(3.5)
    return model.eval()


@pytest.mark.parametrize(
    ("precision", "least"),
    [
        ("fp16", 0.9999),
        pytest.param("fp32", 0.999999, marks=pytest.mark.slow),
        pytest.param("int8", 0.98, marks=pytest.mark.slow),
    ],
)
def test_embeddings_are_the_models(precision, least, pooled_model, pixels, tmp_path):
    calibration = Calibration(images=pixels, paths=tuple("abcdefghijkl"), dataset="noise", seed=0)
    request = ExportRequest(name="pooled", precision=precision, calibration=calibration if precision == "int8" else None)
    export_onnx(pooled_model, tmp_path / "model.onnx", request)
    with torch.inference_mode():
        expected = pooled_model(torch.from_numpy(pixels)).numpy()
    rows = OnnxRuntime(tmp_path / "model.onnx", "cpu").run(pixels)
    assert (rows * expected).sum(axis=1).min() > least
    assert np.isfinite(rows).all()
