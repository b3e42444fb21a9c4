"""The ONNX Runtime runtime and opening by path, on a hand-made model: a matrix between pixels and unit rows."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from fake_tensorrt import EMBED_DIM, SIZE, small_info

import hat
from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import METADATA_KEY, BatchProfile, info_to_json
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from hat.runtime import Runtime, open_runtime
from hat.runtime.onnxruntime_runtime import add_in_32_bits
from hat.runtime.protocol import model_input

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")

NUM_PIXELS = 3 * SIZE[0] * SIZE[1]
MATRIX = np.random.default_rng(0).normal(size=(NUM_PIXELS, EMBED_DIM)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (7, 3, *SIZE), dtype=np.uint8)


def embeddings_of(pixels):
    rows = pixels.reshape(len(pixels), -1).astype(np.float32) @ MATRIX
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path, num_rows="N", element="uint8", **metadata):
    proto = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 18]>
        hand_made ({element}[{num_rows}, 3, {SIZE[0]}, {SIZE[1]}] images) => (float[{num_rows}, {EMBED_DIM}] embeddings) {{
            pixels = Cast <to = 1> (images)
            rows = Reshape (pixels, shape)
            product = MatMul (rows, matrix)
            length = ReduceL2 <keepdims = 1> (product, axes)
            embeddings = Div (product, length)
        }}""")
    for name, value in {"shape": np.array([-1, NUM_PIXELS]), "matrix": MATRIX, "axes": np.array([1])}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.helper.set_model_props(proto, {METADATA_KEY: info_to_json(small_info(**metadata))})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("input_type", ["uint8", "float32", "normalized"])
def test_pixels_become_embeddings_whatever_the_file_takes(input_type, tmp_path):
    element = "uint8" if input_type == "uint8" else "float"
    runtime = open_runtime(write(tmp_path / "hand.onnx", element=element, input_type=input_type), num_threads=1)
    assert isinstance(runtime, Runtime) and runtime.max_batch is None
    assert (runtime.embed_dim, runtime.preprocessing.size) == (EMBED_DIM, SIZE)
    assert runtime.name == "onnxruntime fp32 cpu"
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (IMAGENET_MEAN, IMAGENET_STD))
    expected = embeddings_of((IMAGES / 255 - mean) / std if input_type == "normalized" else IMAGES)
    np.testing.assert_allclose(runtime.run(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(runtime.run(np.asfortranarray(IMAGES)), expected, atol=1e-5)  # strided
    batch = model_input(np.asfortranarray(IMAGES), input_type)
    assert batch.flags["C_CONTIGUOUS"]
    rows = torch.empty(expected.shape)
    runtime._run_bound(torch.from_numpy(batch), rows)  # as on a GPU, on the CPU's memory
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert runtime.run(IMAGES[:0]).shape == (0, EMBED_DIM)
    for wrong in (IMAGES[:, :, :16], IMAGES.astype(np.float32), IMAGES[0]):
        with pytest.raises(UsageError, match=r"expected images \(B, 3, 64, 32\) uint8"):
            runtime.run(wrong)


def test_int8_products_do_not_overflow(tmp_path):
    """Bright pixels times large weights: two such products exceed 16 bits. It fails only on x86 processors without VNNI."""
    weights = np.random.default_rng(2).integers(-30, 128, (NUM_PIXELS, EMBED_DIM), dtype=np.int8)
    proto = onnx.load(write(tmp_path / "float.onnx"))
    _, reshape, _, *rest = proto.graph.node
    reshape.input[0] = "images"
    parts = onnx.parser.parse_graph("""
        g (uint8[N, M] rows, float one, uint8 zero, int8 int8_zero, int8[M, D] int8_matrix, float step, uint8 middle)
          => (float[N, D] product) {
            sums = QLinearMatMul (rows, one, zero, int8_matrix, one, int8_zero, step, middle)
            product = DequantizeLinear (sums, step, middle)
        }""")
    del proto.graph.node[:]
    proto.graph.node.extend([reshape, *parts.node, *rest])
    bright = np.random.default_rng(3).integers(180, 256, (7, 3, *SIZE), dtype=np.uint8)
    sums = bright.reshape(7, -1).astype(np.int64) @ weights.astype(np.int64)
    step = np.float32(sums.max() / 127)
    constants = {"one": np.float32(1), "zero": np.uint8(0), "int8_zero": np.int8(0), "int8_matrix": weights, "step": step}
    for name, value in {**constants, "middle": np.uint8(128)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    (tmp_path / "int8.onnx").write_bytes(proto.SerializeToString())
    expected = np.clip(np.rint(sums / step), -128, 127).astype(np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(open_runtime(tmp_path / "int8.onnx").run(bright), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 fma\n", "1"),
        ("flags\t\t: avx2 avx_vnni\n", None),
        ("flags\t\t: avx512f avx512_vnni\n", None),
        ("Features\t: fp asimd\n", "1"),  # no x86: it changes nothing
        (None, "1"),
    ],
)
def test_sums_are_forced_to_32_bits_unless_the_processor_makes_them_so_anyway(text, expected, monkeypatch, tmp_path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr("hat.processor._CPUINFO", tmp_path / "cpuinfo")
    options = onnxruntime.SessionOptions()
    add_in_32_bits(options)
    if expected is None:
        with pytest.raises(Exception, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")
    else:
        assert options.get_session_config_entry("session.x64quantprecision") == expected


def test_a_file_of_one_batch_size_takes_any(tmp_path):
    runtime = open_runtime(write(tmp_path / "hand.onnx", num_rows=3, batch=BatchProfile(min=3, opt=3, max=3)))
    for count in (1, 3, 7):
        np.testing.assert_allclose(runtime.run(IMAGES[:count]), embeddings_of(IMAGES[:count]), atol=1e-5)


def test_it_is_an_embedders_model_and_may_be_called_from_threads(tmp_path):
    embedder = hat.Embedder.open(write(tmp_path / "hand.onnx"), batch_size=3)
    np.testing.assert_allclose(embedder.embed(list(IMAGES.transpose(0, 2, 3, 1))), embeddings_of(IMAGES), atol=1e-5)
    assert embedder.embed([]).shape == (0, EMBED_DIM)
    with ThreadPoolExecutor(8) as threads:
        for result in threads.map(embedder.runtime.run, [IMAGES] * 8):
            np.testing.assert_allclose(result, embeddings_of(IMAGES), atol=1e-5)


def test_a_graph_that_fails_is_an_error_of_ours(tmp_path):
    proto = onnx.load(write(tmp_path / "hand.onnx"))
    (shape,) = [tensor for tensor in proto.graph.initializer if tensor.name == "shape"]
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([2, NUM_PIXELS]), "shape"))
    onnx.save(proto, tmp_path / "hand.onnx")
    runtime = open_runtime(tmp_path / "hand.onnx")
    assert len(runtime.run(IMAGES[:2])) == 2
    with pytest.raises(WorkError, match="ONNX Runtime failed on cpu: "):
        runtime.run(IMAGES[:3])


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"embed_dim": 7}, "expected the output embeddings of 7 values"),
        ({"input_type": "float32"}, "expected the input"),
        ({"preprocessing": Preprocessing(height=64, width=16)}, "expected the input"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(metadata, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=f"is not what it says of itself: {sentence}"):
        open_runtime(write(tmp_path / "hand.onnx", **metadata))


def test_what_cannot_be_had_is_refused(tmp_path):
    path = write(tmp_path / "hand.onnx")
    assert open_runtime(path, "auto").name.endswith("cpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UsageError, match="cuda"):
            open_runtime(path, "cuda")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        open_runtime(path, "gpu")
    with pytest.raises(UsageError, match="leave out the precision fp16"):
        open_runtime(path, precision="fp16")
    for model in (path, tmp_path):
        with pytest.raises(UsageError, match="num_threads is at least 1, got 0"):
            open_runtime(model, num_threads=0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "there is no such checkpoint or file"),
        ("nothing.onnx", "there is no such file"),
        ("nothing.engine", "nothing.engine"),
        ("nothing.xml", "nothing.xml"),
        ("nothing.pth", "nothing.pth"),
        ("notes.txt", r"expected a checkpoint folder, a \.pth file .* or an exported file"),
    ],
)
def test_what_is_no_model_is_named(name, sentence, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=sentence):
        open_runtime(tmp_path / name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(tmp_path):
    runtime = open_runtime(write(tmp_path / "hand.onnx"), "cuda")
    for count in (1, 7, 3):
        np.testing.assert_allclose(runtime.run(IMAGES[:count]), embeddings_of(IMAGES[:count]), atol=1e-4)


@pytest.fixture
def cuda_session(monkeypatch):
    """ONNX Runtime with a CUDA provider that takes options and says what it left to the CPU, and computes nothing."""
    asked, real = {}, onnxruntime.InferenceSession
    left = [
        SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda name=name: [SimpleNamespace(op_type=name)])
        for name in ("Shape", "Gather", "LpNormalization")
    ]

    def session(path, options, providers):
        ((asked["provider"], asked["options"]),) = providers
        opened = real(path, options, providers=["CPUExecutionProvider"])
        names = {"get_providers": lambda: [asked["provider"]], "get_provider_graph_assignment_info": lambda: left}
        return SimpleNamespace(get_inputs=opened.get_inputs, get_outputs=opened.get_outputs, **names)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("hat.runtime.onnxruntime_runtime.choose_device", lambda device: torch.device(device or "cuda"))
    return asked


def test_cuda_computes_without_tf32_and_tells_what_stays_on_the_cpu(cuda_session, tmp_path, caplog):
    runtime = open_runtime(write(tmp_path / "hand.onnx"), "cuda:1")
    options = cuda_session["options"]
    assert (cuda_session["provider"], options["device_id"], options["use_tf32"]) == ("CUDAExecutionProvider", 1, "0")
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert runtime.on_cpu == {"LpNormalization": 1}
    assert "on the CPU what its CUDA provider lacks: 1 LpNormalization" in caplog.text


@pytest.mark.parametrize(("details", "chosen"), [({}, "cuda"), ({"quantization": {"scheme": "cpu"}}, "cpu")])
def test_an_int8_file_made_for_cpus_goes_to_no_gpu_by_itself(details, chosen, cuda_session, tmp_path):
    runtime = open_runtime(write(tmp_path / "hand.onnx", details=details))
    assert runtime.name == f"onnxruntime fp32 {chosen}"
