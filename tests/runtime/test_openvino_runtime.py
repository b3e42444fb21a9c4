"""The OpenVINO runtime: batches, threads, devices, precisions, and files that a stranger made."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import hat
from hat.errors import CheckpointError, UsageError
from hat.export.request import ExportRequest
from hat.io.artifact import METADATA_KEY, info_to_json
from hat.runtime import Runtime

openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")

from hat.export.openvino.to_openvino import export_openvino  # noqa: E402
from hat.io import openvino_file  # noqa: E402
from hat.runtime import openvino_runtime  # noqa: E402
from hat.runtime.openvino_core import openvino_core  # noqa: E402
from hat.runtime.openvino_runtime import OpenVINORuntime  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A float32 file of a small model, and its pixels with the embeddings that PyTorch gives them."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = hat.create_model(
            "hat_resnet18",
            num_classes=2,
            image_size=(32, 16),
            depths=(0, 0, 1, 0),
            widths=(16, 16, 32, 32),
            num_bottlenecks=1,
            transformer={"num_heads": 2, "ffn_dim": 32},
        ).eval()
    path = tmp_path_factory.mktemp("runtime") / "model.xml"
    export_openvino(model, path, ExportRequest(name="small"))
    pixels = np.random.default_rng(0).integers(0, 256, (13, 3, 32, 16), dtype=np.uint8)
    with torch.inference_mode():
        embeddings = model(model.preprocessing.normalize(torch.from_numpy(pixels))).numpy()
    return path, pixels, embeddings


@pytest.fixture
def copied(exported, tmp_path):
    """The files in a folder of their own, to be damaged."""
    path = tmp_path / "model.xml"
    shutil.copy(exported[0], path)
    shutil.copy(exported[0].with_suffix(".bin"), path.with_suffix(".bin"))
    return path


def rewrite_facts(path, **changes):
    """Write the file again with other facts about itself and the same graph."""
    info = replace(openvino_file.read_openvino_info(path), **changes)
    model = openvino_core("testing").read_model(path)
    model.set_rt_info(info_to_json(info), [METADATA_KEY])
    other = path.with_name("rewritten.xml")
    openvino.save_model(model, other, compress_to_fp16=False)
    return other


@pytest.mark.parametrize("count", [0, 1, 2, 5, 13])
def test_batches_of_any_size(count, exported):
    path, pixels, embeddings = exported
    runtime = OpenVINORuntime(path, num_threads=2)
    result = runtime.run(pixels[:count])
    assert result.shape == (count, runtime.embed_dim)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, embeddings[:count], atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next_run(exported):
    path, pixels, embeddings = exported
    runtime = OpenVINORuntime(path)
    first = runtime.run(pixels[:3])
    runtime.run(pixels[3:6])
    np.testing.assert_allclose(first, embeddings[:3], atol=1e-5)


def test_several_threads_at_a_time(exported):
    path, pixels, embeddings = exported
    runtime = OpenVINORuntime(path)
    with ThreadPoolExecutor(6) as threads:
        rows = list(threads.map(lambda number: runtime.run(pixels[number % 13 :][:1])[0], range(60)))
    for number, row in enumerate(rows):
        np.testing.assert_allclose(row, embeddings[number % 13], atol=1e-5)


def test_it_is_a_runtime_for_the_embedder(exported):
    path, pixels, embeddings = exported
    runtime = OpenVINORuntime(path, "cpu")
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.max_batch, runtime.execution_precision) == ("openvino fp32 cpu", None, "fp32")
    assert set(runtime.execution_types) == {"f32"}
    rows = hat.Embedder(runtime, batch_size=4).embed([image.transpose(1, 2, 0) for image in pixels])
    np.testing.assert_allclose(rows, embeddings, atol=1e-5)


def test_images_that_are_not_its_own_are_refused(exported):
    path, pixels, _ = exported
    runtime = OpenVINORuntime(path)
    for wrong in (pixels[:, :, :16], pixels.astype(np.float32), pixels[0], pixels.transpose(0, 2, 3, 1)):
        with pytest.raises(UsageError, match=r"expected images \(B, 3, 32, 16\) uint8"):
            runtime.run(wrong)


@pytest.mark.parametrize("device", ["cuda", "gpu.7", "npu", "AUTO:CPU", "MULTI:CPU", "HETERO:CPU"])
def test_a_device_that_is_not_there_is_refused(device, exported):
    if device.upper() in openvino_core("testing").available_devices:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(UsageError, match=f"{device} was asked for and OpenVINO has CPU"):
        OpenVINORuntime(exported[0], device)


class CoreOfAnOldProcessor:
    """Stands in for openvino.Core where a processor without bfloat16 would be needed."""

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8", "BIN"]


def test_bfloat16_is_refused_where_the_processor_has_none(exported):
    info = replace(openvino_file.read_openvino_info(exported[0]), precision="bf16")
    with pytest.raises(UsageError, match=r"computes in bf16 and CPU has no BF16 \(it has FP32, INT8, BIN\)"):
        openvino_runtime._choose_hint(info, "CPU", CoreOfAnOldProcessor())
    beside_int8 = replace(info, precision="int8", details=info.details | {"float_precision": "bf16"})
    with pytest.raises(UsageError, match="computes in bf16"):
        openvino_runtime._choose_hint(beside_int8, "CPU", CoreOfAnOldProcessor())
    assert openvino_runtime._choose_hint(replace(info, precision="fp32"), "CPU", CoreOfAnOldProcessor()) == "f32"
    assert openvino_runtime._choose_hint(replace(info, precision="fp16"), "CPU", CoreOfAnOldProcessor()) == "f32"


@pytest.mark.parametrize("precision", [3, None, "fp64"])
def test_a_precision_that_means_nothing_is_refused(precision, exported):
    info = openvino_file.read_openvino_info(exported[0])
    info = replace(info, precision="int8", details=info.details | {"float_precision": precision})
    with pytest.raises(CheckpointError, match="cannot be of"):
        openvino_runtime._choose_hint(info, "CPU", CoreOfAnOldProcessor())


def test_a_precision_that_openvino_changes_without_a_word_is_caught(exported, monkeypatch):
    capabilities = openvino_core("testing").get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "FP16" in capabilities or "BF16" not in capabilities:
        pytest.skip("seen on processors with bfloat16 and without float16")
    monkeypatch.setattr(openvino_runtime, "_choose_hint", lambda info, device, core: "f16")
    with pytest.raises(UsageError, match="asked for f16, got bf16"):
        OpenVINORuntime(exported[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged or no OpenVINO file"),
        (b"<net><layers>", "damaged or no OpenVINO file"),
        (b"\x00\x01\x02", "damaged or no OpenVINO file"),
        (b"<html></html>", "is a web page and not a model"),
        (b'<net name="x" version="11"><layers/></net>', "was not made by hat export"),
        (b"<net><rt_info><hat_reid/></rt_info></net>", "was not made by hat export"),
        (b'<net><rt_info><hat_reid value="{}"/></rt_info></net>', "is missing"),
        (b'<net><rt_info><hat_reid value="["/></rt_info></net>', "cannot be read"),
        (b'<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><net>&b;</net>', "declares entities"),
    ],
)
def test_foreign_files_are_refused(content, words, tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        OpenVINORuntime(path)


def test_missing_and_oversized_files_are_refused(copied, monkeypatch):
    with pytest.raises(CheckpointError, match="there is no such file"):
        OpenVINORuntime(copied.with_name("other.xml"))
    monkeypatch.setattr(openvino_file, "MAX_XML_BYTES", 1000)
    with pytest.raises(CheckpointError, match="a graph has at most 1,000"):
        OpenVINORuntime(copied)


def test_weights_of_another_file_are_refused(copied):
    weights = copied.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="another model's or was changed"):
        OpenVINORuntime(copied)
    weights.unlink()
    with pytest.raises(CheckpointError, match="not beside it"):
        OpenVINORuntime(copied)


def test_a_graph_that_is_not_what_it_says_is_refused(copied):
    with pytest.raises(CheckpointError, match="not what it says of itself"):
        OpenVINORuntime(rewrite_facts(copied, embed_dim=7))
    with pytest.raises(CheckpointError, match="not what it says of itself"):
        OpenVINORuntime(rewrite_facts(copied, input_type="float32"))
    with pytest.raises(CheckpointError, match="says that it is int8 and its weights are fp32"):
        OpenVINORuntime(rewrite_facts(copied, precision="int8"))


def test_a_graph_that_openvino_cannot_read_is_refused(copied):
    text = copied.read_text().replace('type="Convolution"', 'type="Konvolution"')
    copied.write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read by OpenVINO"):
        OpenVINORuntime(copied)
