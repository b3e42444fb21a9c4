"""The ONNX Runtime runtime and opening by path, on a hand-made model: a matrix between pixels and unit rows."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hat
from hat.errors import CheckpointError, UsageError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, info_to_json
from hat.model import ModelConfig
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime, open_runtime

pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")

NUM_PIXELS, DIM = 3 * 32 * 16, 6
MATRIX = np.random.default_rng(0).normal(size=(NUM_PIXELS, DIM)).astype(np.float32)


def info(**changes):
    facts = {
        "name": "hand-made",
        "model": ModelConfig(image_size=(32, 16)),
        "preprocessing": Preprocessing(height=32, width=16),
        "embed_dim": DIM,
        "precision": "fp32",
        "source_sha256": "0" * 64,
        "fingerprint": "1" * 64,
        "versions": {},
    }
    return ArtifactInfo(**(facts | changes))


def write(path, facts, element=TensorProto.UINT8):
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["product"]),
        helper.make_node("ReduceL2", ["product", "axes"], ["length"], keepdims=1),
        helper.make_node("Div", ["product", "length"], ["embeddings"]),
    ]
    constants = {"shape": np.array([-1, NUM_PIXELS]), "matrix": MATRIX, "axes": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", element, ["batch", 3, 32, 16])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(proto, {METADATA_KEY: info_to_json(facts)})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 3, 32, 16), dtype=np.uint8)


@pytest.fixture
def expected(images):
    rows = images.reshape(len(images), -1).astype(np.float32) @ MATRIX
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("input_type", "element"), [("uint8", TensorProto.UINT8), ("float32", TensorProto.FLOAT)])
def test_pixels_become_embeddings_whatever_the_file_takes(input_type, element, images, expected, tmp_path):
    runtime = open_runtime(write(tmp_path / "hand.onnx", info(input_type=input_type), element), num_threads=1)
    assert isinstance(runtime, Runtime) and runtime.max_batch is None
    assert (runtime.embed_dim, runtime.preprocessing.size) == (DIM, (32, 16))
    assert runtime.name == "onnxruntime fp32 cpu"
    np.testing.assert_allclose(runtime.run(images), expected, atol=1e-5)
    np.testing.assert_allclose(runtime.run(images[:, :, ::-1][:, :, ::-1]), expected, atol=1e-5)  # strided
    empty = runtime.run(images[:0])
    assert empty.shape == (0, DIM) and empty.dtype == np.float32
    for wrong in (images[:, :, :16], images.astype(np.float32), images[0]):
        with pytest.raises(UsageError, match=r"expected images \(B, 3, 32, 16\) uint8"):
            runtime.run(wrong)


def test_it_is_an_embedders_model_and_may_be_called_from_threads(images, expected, tmp_path):
    path = write(tmp_path / "hand.onnx", info())
    embedder = hat.Embedder.open(path, batch_size=3)
    pictures = list(images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(embedder.embed(pictures), expected, atol=1e-5)
    assert embedder.embed([]).shape == (0, DIM)
    results = [None] * 8

    def work(place):
        results[place] = embedder.runtime.run(images)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"embed_dim": 7}, "expected the output embeddings of 7 values"),
        ({"input_type": "float32"}, "expected the input"),
        ({"preprocessing": Preprocessing(height=64, width=16)}, "expected the input"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(facts, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=f"is not what it says of itself: {sentence}"):
        open_runtime(write(tmp_path / "hand.onnx", info(**facts)))


def test_the_device_that_was_asked_for_runs_or_an_error_says_why_not(tmp_path):
    import onnxruntime

    path = write(tmp_path / "hand.onnx", info())
    assert open_runtime(path, "auto").name.endswith("cpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UsageError, match="cuda"):
            open_runtime(path, "cuda")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        open_runtime(path, "gpu")


def test_an_artifacts_precision_is_its_own(tmp_path):
    with pytest.raises(UsageError, match="leave out the precision fp16"):
        open_runtime(write(tmp_path / "hand.onnx", info()), precision="fp16")


def test_a_wrong_number_of_threads_is_refused(tmp_path):
    with pytest.raises(UsageError, match="num_threads is at least 1, got 0"):
        open_runtime(write(tmp_path / "hand.onnx", info()), num_threads=0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "there is no such checkpoint or file"),
        ("nothing.onnx", "there is no such file"),
        ("nothing.engine", "nothing.engine"),
        ("nothing.xml", "nothing.xml"),
        ("nothing.pth", "nothing.pth"),
    ],
)
def test_what_is_not_there_is_named(name, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        open_runtime(tmp_path / name)


def test_a_file_of_unknown_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"expected a checkpoint folder, a \.pth file .* or an exported file"):
        open_runtime(tmp_path / "notes.txt")
