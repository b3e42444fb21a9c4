"""A file for trackers: crops as they prepare them give the embeddings that the model gives."""

import numpy as np
import onnx
import pytest

import hat
from hat.errors import UsageError
from hat.export.onnx_source import open_onnx_source
from hat.export.openvino.to_openvino import export_openvino
from hat.export.request import ExportRequest
from hat.export.to_onnx import export_onnx
from hat.io.artifact import tensor_contract

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def file(small_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tracker") / "reid.onnx"
    export_onnx(small_model, path, ExportRequest(name="small", input_type="normalized"))
    return path


def test_crops_prepared_as_a_tracker_does_give_the_models_embeddings(file, pixels, reference):
    """The steps of BoxMOT's ONNX backend, from BGR crops of the right size on; our own runtime takes pixels."""
    bgr = pixels.transpose(0, 2, 3, 1)[..., ::-1]
    crops = bgr[..., ::-1].astype(np.float32) / 255
    crops = (crops - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    batch = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for part in (batch, batch[:1]):
        features = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: part})[0]
        features = features / np.linalg.norm(features, axis=-1, keepdims=True)
        np.testing.assert_allclose(features, reference[: len(part)], atol=1e-5)
    runtime = hat.Embedder.open(file).runtime
    assert runtime.info.input_type == "normalized"
    np.testing.assert_allclose(runtime.run(pixels), reference, atol=1e-5)


def test_the_file_tells_what_it_takes_to_people_without_hat(file):
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 18
    (image,), (embedding,) = proto.graph.input, proto.graph.output
    for word in ("NCHW", "RGB", "0.485, 0.456, 0.406", "64 x 32 (height x width)", "bilinear"):
        assert word in image.doc_string and word in proto.doc_string
    assert "unit length" in embedding.doc_string
    contract = tensor_contract(open_onnx_source(file).info)
    assert (image.doc_string, embedding.doc_string) == (contract["images"], contract["embeddings"])
    assert not [node.name for node in proto.graph.node for entry in node.attribute if entry.name == "allowzero"]


def test_a_file_for_trackers_is_kept_and_not_turned_into_others(file, calibration, small_model, tmp_path):
    source = open_onnx_source(file)
    export_onnx(source, tmp_path / "copy.onnx")
    with pytest.raises(UsageError, match="takes normalized images"):
        export_onnx(source, tmp_path / "pixels.onnx", source.request(input_type="uint8"))
    with pytest.raises(UsageError, match="takes normalized images and calibration images are pixels"):
        export_onnx(source, tmp_path / "int8.onnx", source.request(precision="int8", calibration=calibration))
    with pytest.raises(UsageError, match="OpenVINO takes uint8 or float32"):
        export_openvino(small_model, tmp_path / "x.xml", ExportRequest(name="x", input_type="normalized"))
