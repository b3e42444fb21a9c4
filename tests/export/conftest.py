"""One small trained-looking model and its ONNX files; whatever is exported is traced once for all tests."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from hat.export.request import Calibration, ExportRequest


@pytest.fixture(scope="session", autouse=True)
def _one_trace():
    """Share traces among all tests of this folder, where exporting is possible at all."""
    if importlib.util.find_spec("onnx") is None:
        yield
        return
    from traced_once import traced_once

    with traced_once():
        yield


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process: exit code, stdout, stderr."""
    from hat.cli import main

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["hat", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run_here


@pytest.fixture(scope="session")
def small_model():
    """A HAT on a narrow grid of tokens with all parts of the large one, few layers, and batch norms away from the identity."""
    import torch

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
            transformer={"num_heads": 4, "ffn_dim": 64, "ffn_ratio": 2.0},
        )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
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
def onnx_files(small_model, calibration, tmp_path_factory):
    """Precision -> ONNX file of the small model, with what the export returned; each is made when it is first asked for."""
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    from hat.export import export_onnx

    class Files(dict):
        def __missing__(self, precision):
            path = folder / f"{precision}.onnx"
            images = calibration if precision == "int8" else None
            info = export_onnx(small_model, path, ExportRequest(name="small", precision=precision, calibration=images))
            self[precision] = types.SimpleNamespace(path=path, info=info)
            return self[precision]

    folder = tmp_path_factory.mktemp("onnx")
    return Files()
