"""One small trained-looking model and its ONNX files; whatever is exported is traced once for all tests."""

import hashlib
import importlib.util
import os
import types

import numpy as np
import pytest

from hat.export.request import Calibration, ExportRequest


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this run that all of its processes share; who misses a file there makes it, and may be the second to."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _traced_once(shared_folder):
    """Tracing takes seconds and every target begins with it: one for the same weights, configuration, type, opset and input."""
    if importlib.util.find_spec("onnx") is None:
        yield
        return
    import onnx

    from hat.export import onnx_source
    from hat.io.artifact import weights_sha256

    trace = onnx_source.trace_onnx

    def shared(graph, *, opset, input_type):
        key = f"{weights_sha256(graph)} {graph.config} {type(graph).__name__} {graph.dtype} {opset} {input_type}"
        path = shared_folder / f"{hashlib.sha256(key.encode()).hexdigest()}.traced"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(trace(graph, opset=opset, input_type=input_type).SerializeToString())
            part.replace(path)
        return onnx.ModelProto.FromString(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_source, "trace_onnx", shared)
        yield


@pytest.fixture(scope="session")
def small_model():
    """A HAT on a narrow grid of tokens with all parts of the large one, few layers, and batch norms away from the identity."""
    import torch
    from tiny_hat import batch_norms

    import hat

    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = hat.create_model(
            "hat_resnet18",
            num_classes=3,
            image_size=(64, 32),
            depths=(0, 1, 2, 0),
            widths=(16, 32, 48, 48),
            num_bottlenecks=1,
            projection_dim=40,
            transformer={"num_heads": 4, "ffn_dim": 64, "ffn_ratio": 2.0},
        )
    for module in batch_norms(model):
        torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        module.running_mean.uniform_(-0.2, 0.2, generator=generator)
        module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def pixels():
    """(12, 3, 64, 32) uint8: smooth pictures, which differ from each other as photographs do."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (12, 3, 8, 4)).astype(np.float64)
    fine = coarse.repeat(8, axis=2).repeat(8, axis=3) + generator.normal(0, 12, (12, 3, 64, 32))
    return np.clip(fine, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def reference(small_model, pixels):
    """Embeddings of the training module for the pixels."""
    import torch

    with torch.inference_mode():
        return small_model(torch.from_numpy(pixels)).numpy()


@pytest.fixture(scope="session")
def calibration(pixels):
    """The pixels as calibration images."""
    return Calibration(images=pixels, paths=tuple(f"train/{n}.jpg" for n in range(12)), dataset="drawn", seed=0)


@pytest.fixture(scope="session")
def onnx_files(small_model, calibration, shared_folder):
    """Precision -> ONNX file of the small model and its metadata; each is made when it is first asked for."""
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    from hat.export import export_onnx
    from hat.export.onnx_source import open_onnx_source

    class Files(dict):
        def __missing__(self, precision):
            path = shared_folder / f"{precision}.onnx"
            images = calibration if precision == "int8" else None
            request = ExportRequest(name="small", precision=precision, calibration=images, overwrite=True)
            info = open_onnx_source(path).info if path.exists() else export_onnx(small_model, path, request)
            self[precision] = types.SimpleNamespace(path=path, info=info)
            return self[precision]

    return Files()
