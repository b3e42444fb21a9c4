"""Adopting models of other projects: what comes out is what their own forward pass gives, and what cannot be right is said."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_hat import batch_norms
from torch import nn
from torch.nn import functional

import hat
from hat.errors import CheckpointError, ConfigError, UsageError, WorkError
from hat.export import Calibration, ExportRequest, adopt, export_onnx, verify
from hat.export.deploy.deepstream import export_deepstream
from hat.export.deploy.triton import export_triton
from hat.export.foreign.adoption import AdoptWarning, probe_images
from hat.export.onnx_source import open_onnx_source
from hat.export.openvino.to_openvino import export_openvino, open_adopted
from hat.io.artifact import ArtifactInfo, info_from_json, info_to_json
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from hat.runtime import open_runtime
from hat.runtime.openvino_runtime import openvino_core
from hat.serve import Gallery, NewRecord, binding_of, search_gallery
from hat.train.teacher import OnlineTeacher

pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")
openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")

HEIGHT, WIDTH, DIM = 32, 16, 6
NUM_PIXELS = 3 * HEIGHT * WIDTH
MATRIX = np.random.default_rng(0).normal(size=(NUM_PIXELS, DIM)).astype(np.float32)
BIAS = np.random.default_rng(1).normal(size=DIM).astype(np.float32) * 9
PLAIN = {"color": "rgb", "value_range": 255}


class SmallOSNet(nn.Module):
    """What is particular in torchreid's OSNet: a gated residual block, a view by the batch, a linear layer with batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        point, depth = nn.Conv2d(16, 16, 1, bias=False), nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False)
        self.stream = nn.Sequential(point, depth, nn.BatchNorm2d(16), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24))

    def forward(self, x):
        x = self.stem(x)
        stream = self.stream(x)
        v = self.global_avgpool(torch.relu(x + stream * self.gate(stream)))
        return self.fc(v.view(v.size(0), -1))


class WithClassToken(nn.Module):
    """Its class token is not expanded to the batch: traced with one number of images, it runs on that number alone."""

    def __init__(self, batch):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(batch, 1, 8))
        self.token.data[:] = self.token.data[:1]
        self.mix = nn.Linear(9, 1)

    def forward(self, x):
        tokens = torch.cat([self.token, self.patches(x).flatten(2).transpose(1, 2)], dim=1)
        return self.mix(tokens.transpose(1, 2)).flatten(1)


def trace(net, path, batch=1, size=(HEIGHT, WIDTH), dynamo=False):
    """Export as a user of torchreid does: one example, no dynamic axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), torch.rand(batch, 3, *size), path, dynamo=dynamo, verbose=False)
    return path


def normalized(images):
    pixels = torch.from_numpy(images).float() / 255
    return (pixels - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


def own_forward(net, images, batch=None):
    with torch.inference_mode():
        return functional.normalize(torch.cat([net(part) for part in normalized(images).split(batch or len(images))])).numpy()


def some_images(count):
    return probe_images((HEIGHT, WIDTH), count)


def assert_embeds(path, expected, images, atol=2e-5):
    np.testing.assert_allclose(open_runtime(path, num_threads=1).run(images), expected, atol=atol)


def linear_onnx(path, shape=(1, 3, HEIGHT, WIDTH), matrix=MATRIX, bias=BIAS, outputs=("features",), center=False):
    """A graph that is one matrix over the flattened image, whatever its layout; ``center`` subtracts the batch's mean."""
    nodes = [helper.make_node("Flatten", ["images"], ["rows"]), helper.make_node("MatMul", ["rows", "matrix"], ["product"])]
    nodes.append(helper.make_node("ReduceMean", ["product"], ["mean"], axes=[0], keepdims=1))
    nodes.append(helper.make_node("Sub", ["product", "mean"], ["centered"]))
    nodes += [helper.make_node("Add", ["centered" if center else "product", "bias"], [name]) for name in outputs]
    sides = shape or ("b",)
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [sides[0], matrix.shape[1]]) for name in outputs],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(bias, "bias")],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
    return path


def linear_openvino(path, shape=(1, 3, HEIGHT, WIDTH), outputs=("features",), half=False):
    """The same as an OpenVINO file; ``half`` stores its weights in float16."""
    from openvino import opset13

    images = opset13.parameter(openvino.PartialShape(list(shape)), np.float32, name="data")
    images.output(0).set_names({"data"})
    rows = opset13.reshape(images, np.array([0, -1]), special_zero=True)
    constants = [opset13.constant(values.astype(np.float16 if half else np.float32)) for values in (MATRIX, BIAS)]
    matrix, bias = [opset13.convert(values, "f32") for values in constants] if half else constants
    results = []
    for name in outputs:
        sums = opset13.add(opset13.matmul(rows, matrix, False, False), bias)
        sums.output(0).set_names({name})
        results.append(opset13.result(sums))
    openvino.save_model(openvino.Model(results, [images], "linear"), path, compress_to_fp16=False)
    return path


WRITERS = [(linear_onnx, ".onnx"), (linear_openvino, ".xml")]


def linear_reference(images, color="rgb", layout="nchw", mean=(0, 0, 0), std=(1, 1, 1), value_range=255):
    pixels = images.astype(np.float64) * (value_range / 255)
    pixels = (pixels - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    pixels = pixels[:, ::-1] if color == "bgr" else pixels
    pixels = pixels.transpose(0, 2, 3, 1) if layout == "nhwc" else pixels
    rows = pixels.reshape(len(images), -1) @ MATRIX + BIAS
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def osnet():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = SmallOSNet().eval()
        for module in batch_norms(net):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def adopted(osnet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adopted")
    adopt(trace(osnet, folder / "osnet.onnx"), folder / "ours.onnx", like="torchreid")
    return folder / "ours.onnx"


@pytest.mark.parametrize("dynamo", [False, True])
def test_adopt_of_a_traced_osnet_equals_its_own_forward(dynamo, osnet, adopted, tmp_path):
    if dynamo:
        adopted = tmp_path / "ours.onnx"
        made = adopt(trace(osnet, tmp_path / "osnet.onnx", dynamo=True), adopted, like="torchreid")
    runtime = open_runtime(adopted, num_threads=1)
    info = runtime.info
    assert info.batch is None and info.model is None and (not dynamo or made == info)
    assert (info.name, info.adopted.file, info.adopted.family) == ("osnet", "osnet.onnx", "torchreid")
    assert info.preprocessing == Preprocessing(height=HEIGHT, width=WIDTH) and info.precision == "fp32"
    for count in (1, 3, 8):
        images = some_images(count)
        np.testing.assert_allclose(runtime.run(images), own_forward(osnet, images), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_adopt_of_a_graph_that_takes_one_batch_size_runs_in_pieces(batch, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = WithClassToken(batch).eval()
    info = adopt(trace(net, tmp_path / "token.onnx", batch), tmp_path / "ours.onnx", like="torchreid")
    assert (info.batch.min, info.batch.max) == (batch, batch) and info.details["batch_fixed_because"]
    images = some_images(6)
    expected = own_forward(net, images, batch)
    runtime = open_runtime(tmp_path / "ours.onnx", num_threads=1)
    np.testing.assert_allclose(runtime.run(images), expected, atol=1e-5)
    np.testing.assert_allclose(runtime.run(images[:5]), expected[:5], atol=1e-5)
    embedder = hat.Embedder(runtime, batch_size=4)
    np.testing.assert_allclose(embedder.embed(list(images.transpose(0, 2, 3, 1))), expected, atol=1e-5)


@pytest.mark.parametrize(("write", "ending"), WRITERS)
@pytest.mark.parametrize(("value_range", "mean", "std"), [(255, (0, 0, 0), (1, 1, 1)), (1, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))])
@pytest.mark.parametrize(("color", "layout"), [("rgb", "nhwc"), ("bgr", "nchw"), ("bgr", "nhwc")])
def test_adopt_feeds_the_graph_what_was_declared(color, layout, value_range, mean, std, write, ending, tmp_path):
    shape = (1, 3, HEIGHT, WIDTH) if layout == "nchw" else (1, HEIGHT, WIDTH, 3)
    foreign = write(tmp_path / f"foreign{ending}", shape)
    info = adopt(foreign, tmp_path / f"ours{ending}", color=color, value_range=value_range, mean=mean, std=std)
    assert (info.adopted.layout, info.adopted.color, info.batch) == (layout, color, None)
    images = some_images(5)
    expected = linear_reference(images, color, layout, mean, std, value_range)
    assert_embeds(tmp_path / f"ours{ending}", expected, images)
    # What the file says of its preprocessing is the same arithmetic from the host's side.
    pixels = info.preprocessing.normalize(torch.from_numpy(images)).double().numpy()
    said = linear_reference(pixels, color, layout)
    np.testing.assert_allclose(said, expected, atol=2e-5)


def test_adopt_of_an_openvino_file_with_half_weights_is_float32(tmp_path):
    info = adopt(linear_openvino(tmp_path / "foreign.xml", half=True), tmp_path / "ours.xml", **PLAIN)
    assert info.precision == "fp32"
    assert_embeds(tmp_path / "ours.xml", linear_reference(some_images(5)), some_images(5), atol=2e-3)


def pairs_openvino(path):
    """A graph that takes two images and nothing else: the number is in a reshape and in what is put behind each row."""
    from openvino import opset13

    images = opset13.parameter([2, 3, HEIGHT, WIDTH], np.float32, name="data")
    rows = opset13.reshape(images, np.array([2, NUM_PIXELS]), special_zero=False)
    tokens = opset13.matmul(rows, opset13.constant(MATRIX), False, False)
    joined = opset13.concat([tokens, opset13.constant(np.tile(BIAS, (2, 1)))], 1)
    openvino.save_model(openvino.Model([opset13.result(joined)], [images], "pairs"), path, compress_to_fp16=False)
    return path


def test_adopt_of_an_openvino_file_that_takes_one_batch_size_runs_in_pieces(tmp_path):
    info = adopt(pairs_openvino(tmp_path / "pairs.xml"), tmp_path / "ours.xml", **PLAIN)
    assert (info.batch.min, info.batch.max, info.embed_dim) == (2, 2, 2 * DIM)
    pixels = some_images(5)
    rows = np.concatenate([pixels.reshape(5, -1).astype(np.float64) @ MATRIX, np.tile(BIAS, (5, 1))], axis=1)
    assert_embeds(tmp_path / "ours.xml", rows / np.linalg.norm(rows, axis=1, keepdims=True), pixels)


ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from hat.export import adopt
from hat.runtime import open_runtime
height, width = map(int, sys.argv[3:])
info = adopt(sys.argv[1], sys.argv[2], color="rgb", value_range=255)
rows = open_runtime(sys.argv[2]).run(np.ones((5, 3, height, width), dtype=np.uint8))
print(info.batch.max, len(rows))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not keep a process on one core")
def test_adopt_on_one_core_does_not_run_a_batch_that_the_graph_cannot_take(tmp_path):
    # There OpenVINO would not refuse it but write beyond its arrays, and the process would die of it later on.
    files = [pairs_openvino(tmp_path / "pairs.xml"), tmp_path / "ours.xml", HEIGHT, WIDTH]
    done = subprocess.run([sys.executable, "-c", ON_ONE_CORE, *map(str, files)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["2", "5"]), done.stderr


@pytest.mark.parametrize(("write", "ending"), WRITERS)
def test_adopt_takes_the_output_that_was_chosen(write, ending, tmp_path):
    foreign = write(tmp_path / f"foreign{ending}", outputs=("logits", "features"))
    with pytest.raises(UsageError, match="2 outputs: say which is the embedding, --output logits or features"):
        adopt(foreign, tmp_path / f"ours{ending}", **PLAIN)
    with pytest.raises(UsageError, match="no output 'feature'"):
        adopt(foreign, tmp_path / f"ours{ending}", output="feature", **PLAIN)
    info = adopt(foreign, tmp_path / f"ours{ending}", output="features", **PLAIN)
    assert info.adopted.output == "features"
    assert_embeds(tmp_path / f"ours{ending}", linear_reference(some_images(3)), some_images(3))


@pytest.mark.parametrize(("write", "ending", "unknown"), [(linear_onnx, ".onnx", "side"), (linear_openvino, ".xml", -1)])
def test_adopt_of_a_file_for_any_size_wants_to_be_told(write, ending, unknown, tmp_path):
    foreign = write(tmp_path / f"foreign{ending}", (unknown, 3, unknown, unknown))
    with pytest.raises(UsageError, match=r"images of any size .* --image-size"):
        adopt(foreign, tmp_path / f"ours{ending}", **PLAIN)
    with pytest.raises(WorkError, match="cannot be run on images of 64 x 32"):
        adopt(foreign, tmp_path / f"ours{ending}", image_size=(64, 32), **PLAIN)
    info = adopt(foreign, tmp_path / f"ours{ending}", image_size=(HEIGHT, WIDTH), **PLAIN)
    assert info.preprocessing.size == (HEIGHT, WIDTH) and info.batch is None
    assert_embeds(tmp_path / f"ours{ending}", linear_reference(some_images(3)), some_images(3))


@pytest.mark.parametrize(
    ("shape", "declared", "sentence"),
    [
        (("b", 3, 3, 3), {}, "where the channels are: say --layout"),
        (("b", 3, HEIGHT, WIDTH), {"image_size": (HEIGHT, 2 * WIDTH)}, "image size 32x32 does not fit"),
        (("b", 3, HEIGHT, WIDTH), {"layout": "nhwc"}, "no batch of RGB images in nhwc"),
        (("b", 1, HEIGHT, WIDTH), {}, "no batch of RGB images"),
        (("b", NUM_PIXELS), {}, "2 dimensions"),
        (None, {}, "does not say how many dimensions its input has"),
    ],
)
def test_adopt_refuses_an_input_that_takes_other_images(shape, declared, sentence, tmp_path):
    foreign = linear_onnx(tmp_path / "foreign.onnx", shape)
    with pytest.raises(UsageError, match=sentence):
        adopt(foreign, tmp_path / "ours.onnx", **PLAIN, **declared)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


@pytest.mark.parametrize(
    ("size", "sentence"), [((0, 32), "at least 16"), ((8, 8), "at least 16"), ((10**5, 10**5), "limit of 2048")]
)
def test_adopt_refuses_sizes_that_no_image_has_before_it_runs_the_graph(size, sentence, tmp_path):
    foreign = linear_onnx(tmp_path / "foreign.onnx", ("b", 3, "height", "width"))
    with pytest.raises((UsageError, ConfigError), match=sentence):
        adopt(foreign, tmp_path / "ours.onnx", image_size=size, **PLAIN)


def test_adopt_keeps_a_familys_mean_and_std_for_another_range(tmp_path):
    foreign = linear_onnx(tmp_path / "foreign.onnx")
    info = adopt(foreign, tmp_path / "ours.onnx", like="torchreid", value_range=255)
    np.testing.assert_allclose((info.preprocessing.mean, info.preprocessing.std), (IMAGENET_MEAN, IMAGENET_STD), atol=1e-6)
    mean, std = np.array(IMAGENET_MEAN) * 255, np.array(IMAGENET_STD) * 255
    assert_embeds(tmp_path / "ours.onnx", linear_reference(some_images(3), mean=mean, std=std), some_images(3))


@pytest.mark.parametrize(("kind", "name"), [(np.uint8, "u8"), (np.int64, "i64"), (bool, "boolean")])
def test_adopt_refuses_an_openvino_file_that_takes_no_floats(kind, name, tmp_path):
    from openvino import opset13

    images = opset13.parameter([1, 3, HEIGHT, WIDTH], kind, name="data")
    rows = opset13.reshape(opset13.convert(images, "f32"), np.array([0, -1]), special_zero=True)
    product = opset13.matmul(rows, opset13.constant(MATRIX), False, False)
    openvino.save_model(openvino.Model([opset13.result(product)], [images], "whole"), tmp_path / "foreign.xml")
    with pytest.raises(UsageError, match=f"images of type {name}, expected f32 or f16"):
        adopt(tmp_path / "foreign.xml", tmp_path / "ours.xml", **PLAIN)


def test_adopt_finds_an_output_by_any_of_its_names(tmp_path):
    foreign = linear_openvino(tmp_path / "foreign.xml", outputs=("first", "second"))
    model = openvino.Core().read_model(foreign)
    model.outputs[1].set_names({"alias", "second"})
    openvino.save_model(model, tmp_path / "named.xml")
    for name in ("alias", "second"):
        adopt(tmp_path / "named.xml", tmp_path / f"{name}.xml", output=name, **PLAIN)
        assert_embeds(tmp_path / f"{name}.xml", linear_reference(some_images(3)), some_images(3), atol=2e-3)


def test_adopt_refuses_a_graph_that_mixes_the_images_of_a_batch_or_gives_no_embeddings(tmp_path):
    mixing = linear_onnx(tmp_path / "mixing.onnx", ("b", 3, HEIGHT, WIDTH), center=True)
    overflowing = linear_onnx(tmp_path / "overflowing.onnx", matrix=MATRIX * np.float32(1e30))
    nothing = linear_onnx(tmp_path / "nothing.onnx", matrix=MATRIX * np.float32(np.nan))
    for foreign, sentence in (
        (mixing, "change each other's embeddings"),
        (overflowing, "no unit vectors"),
        (nothing, "no unit vectors: values overflow, are not finite"),
    ):
        with pytest.raises(WorkError, match=sentence):
            adopt(foreign, tmp_path / "ours.onnx", **PLAIN)


GRAY = np.tile(MATRIX[: NUM_PIXELS // 3], (3, 1))


@pytest.mark.parametrize(
    ("matrix", "bias", "sentence"),
    [
        (MATRIX * 1e-9, BIAS, "different images get almost the same embedding, so range 0-255"),
        (MATRIX, BIAS * 0, "does not change with the scale of the pixels"),
        (GRAY, BIAS, "does not change when red and blue are swapped"),
    ],
)
def test_adopt_warns_of_what_cannot_be_right(matrix, bias, sentence, tmp_path):
    with pytest.warns(AdoptWarning, match=sentence):
        adopt(linear_onnx(tmp_path / "foreign.onnx", matrix=matrix, bias=bias), tmp_path / "ours.onnx", **PLAIN)
    assert (tmp_path / "ours.onnx").is_file()


def test_fingerprint_of_an_adopted_model_is_what_decides_an_embedding(tmp_path):
    foreign = linear_onnx(tmp_path / "foreign.onnx", outputs=("first", "second"))
    (tmp_path / "renamed.onnx").write_bytes(foreign.read_bytes())

    def made(file="foreign.onnx", **changes):
        declared = {"color": "rgb", "value_range": 255, "output": "first"} | changes
        return adopt(tmp_path / file, tmp_path / "ours.onnx", overwrite=True, **declared)

    first = made()
    assert first.fingerprint == made("renamed.onnx", name="another", like="omz", color="rgb").fingerprint
    others = [made(color="bgr"), made(output="second"), made(value_range=1), made(mean=(1, 2, 3)), made(resize="bicubic")]
    other_weights = linear_onnx(tmp_path / "changed.onnx", matrix=MATRIX * 2, outputs=("first", "second"))
    others.append(made(other_weights.name))
    assert len({first.fingerprint, *(info.fingerprint for info in others)}) == 1 + len(others)


def test_fingerprint_of_the_model_that_comes_along_is_what_it_always_was():
    """Galleries are bound to it: whoever changes how it is computed makes them useless. New weights have another."""
    from hat.io.checkpoint import shipped_model

    if shipped_model() is None:
        pytest.skip("this installation has no trained model")
    info = open_runtime(shipped_model(), "cpu").info
    assert info.source_sha256 == "59bbd956d343e88da9751a9f48d875ceb0efcad7fbfb70be4b62630ad89fe010"
    assert info.fingerprint == "250abaa95af3b7e57d801a4273a04a4bd57f89a31f6c86a6d105a34166a6e1fb"


def test_info_from_json_reads_files_from_before_models_were_adopted(small_model):
    runtime = hat.runtime.TorchRuntime(small_model, "cpu")
    metadata = json.loads(info_to_json(runtime.info))
    del metadata["adopted"]
    assert info_from_json(json.dumps(metadata | {"format_version": 1}), "old.onnx").fingerprint == runtime.info.fingerprint
    with pytest.raises(CheckpointError, match="expected one of the two"):
        info_from_json(json.dumps(metadata | {"model": None}), "neither.onnx")


def test_an_adopted_file_is_taken_by_gallery_verify_and_training(osnet, adopted, tmp_path):
    info = open_runtime(adopted).info
    assert isinstance(info, ArtifactInfo) and binding_of(info).model["file"] == "osnet.onnx"
    images = some_images(12)
    rows = own_forward(osnet, images)
    embedder = hat.Embedder.open(adopted)
    with Gallery.open(tmp_path / "people.gallery", binding=binding_of(info), create=True) as gallery:
        records = [NewRecord(content_hash=f"{n:064x}", source=f"{n}.jpg") for n in range(12)]
        gallery.add(embedder.embed(list(images.transpose(0, 2, 3, 1))), records)
        (found,) = search_gallery(gallery, rows[4:5], top=3)
        expected = np.argsort(-(rows @ rows[4]))[:3]
        assert [match.record.source for match in found] == [f"{n}.jpg" for n in expected]
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    assert verify(adopted, [adopted], tmp_path, num_images=12).passed
    teacher = OnlineTeacher(open_runtime(adopted), "fp32")
    np.testing.assert_allclose(teacher.embed(torch.from_numpy(images), torch.arange(12)), rows, rtol=0, atol=1e-5)


def test_export_openvino_of_an_adopted_file_makes_openvino_files_in_other_precisions(osnet, adopted, tmp_path):
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    images = some_images(24)
    calibration = Calibration(images=images[:12], paths=tuple(map(str, range(12))), dataset="drawn", seed=0)
    expected = own_forward(osnet, images)
    made, source = {}, open_onnx_source(adopted)  # adopted or not, an ONNX file of ours is what any export may begin with
    for precision, least in (("fp32", 0.99999), ("fp16", 0.999), ("int8", 0.98)):
        int8 = {"calibration": calibration, "options": {"max_drop": 1}} if precision == "int8" else {}
        request = ExportRequest(name="osnet", precision=precision, opset=open_onnx_source(adopted).opset, **int8)
        made[precision] = export_openvino(source, tmp_path / f"{precision}.xml", request)
        runtime = open_runtime(tmp_path / f"{precision}.xml")
        assert (runtime.run(images) * expected).sum(axis=1).min() > least
        assert runtime.info == made[precision] and runtime.info.adopted.file == "osnet.onnx"
        source = open_adopted(tmp_path / "fp32.xml", "openvino")  # the others are made of the OpenVINO file
    assert len({info.fingerprint for info in made.values()}) == 3
    assert made["fp32"].fingerprint == open_runtime(adopted).info.fingerprint
    assert made["int8"].details["num_products"] > len(made["int8"].details["float_products"])
    with pytest.raises(UsageError, match="computes in int8"):
        open_adopted(tmp_path / "int8.xml", "openvino")
    with pytest.raises(UsageError, match="can be exported to openvino alone, got onnx"):
        open_adopted(tmp_path / "fp32.xml", "onnx")


class Old(nn.Module):
    """Layers that every operator set has."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def calibration_of(images):
    return Calibration(images=images, paths=tuple(map(str, range(len(images)))), dataset="drawn", seed=0)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_adopted_file_of_an_old_operator_set_becomes_int8(opset, tmp_path):
    net = Old().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.rand(1, 3, HEIGHT, WIDTH), tmp_path / "old.onnx", dynamo=False, opset_version=opset)
    adopt(tmp_path / "old.onnx", tmp_path / "ours.onnx", like="torchreid")
    source = open_onnx_source(tmp_path / "ours.onnx")
    images = some_images(24)
    request = source.request(precision="int8", calibration=calibration_of(images[:12]), options={"max_drop": 1})
    for name, expected in (("uint8", 13), ("normalized", 13)):
        info = export_onnx(source, tmp_path / f"{name}.onnx", replace(request, input_type=name))
        assert info.details["opset"] == expected
        assert (open_runtime(tmp_path / f"{name}.onnx").run(images) * own_forward(net, images)).sum(axis=1).min() > 0.98


@pytest.mark.parametrize("batch", [1, 2])
def test_an_adopted_file_of_a_fixed_batch_becomes_int8_and_is_refused_where_batches_vary(batch, tmp_path):
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = WithClassToken(batch).eval()
    adopt(trace(net, tmp_path / "token.onnx", batch), tmp_path / "ours.onnx", like="torchreid")
    source, images = open_onnx_source(tmp_path / "ours.onnx"), some_images(16)
    request = source.request(precision="int8", calibration=calibration_of(images[:11]), options={"max_drop": 1})
    export_onnx(source, tmp_path / "int8.onnx", request)
    export_openvino(source, tmp_path / "int8.xml", request)
    expected = own_forward(net, images, batch)
    for file in ("int8.onnx", "int8.xml"):
        assert (open_runtime(tmp_path / file).run(images) * expected).sum(axis=1).min() > 0.98, file
    for export, reader in ((export_triton, "Triton"), (export_deepstream, "DeepStream")):
        with pytest.raises(UsageError, match=f"takes batches of {batch} alone, and {reader} sends"):
            export(source, tmp_path / reader)


def test_a_file_that_another_project_has_quantized_is_exported_as_it_is(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"input": normalized(some_images(8)[place : place + 1]).numpy()} for place in range(8)])

        def get_next(self):
            return next(self.rows, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Old().eval(), torch.rand(1, 3, HEIGHT, WIDTH), tmp_path / "net.onnx", dynamo=False, input_names=["input"]
        )
    quantize_static(tmp_path / "net.onnx", tmp_path / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ)
    info = adopt(tmp_path / "qdq.onnx", tmp_path / "ours.onnx", like="torchreid")
    assert info.precision == "int8"
    export_onnx(open_onnx_source(tmp_path / "ours.onnx"), tmp_path / "again.onnx")
    images = some_images(6)
    assert_embeds(tmp_path / "again.onnx", open_runtime(tmp_path / "ours.onnx", num_threads=1).run(images), images)


def test_weights_that_an_old_file_lists_among_its_inputs_are_no_inputs(tmp_path):
    foreign = linear_onnx(tmp_path / "foreign.onnx")
    proto = onnx.load(foreign)
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(proto, foreign)
    adopt(foreign, tmp_path / "ours.onnx", like="torchreid")
    source = open_onnx_source(tmp_path / "ours.onnx")
    assert [value.name for value in source.proto.graph.input] == ["images"]
    export_openvino(source, tmp_path / "ours.xml", source.request())
    images = some_images(4)
    assert_embeds(tmp_path / "ours.xml", open_runtime(tmp_path / "ours.onnx", num_threads=1).run(images), images)


def test_layers_in_a_function_of_the_file_are_found(tmp_path):
    proto = onnx.load(linear_onnx(tmp_path / "foreign.onnx"))
    *nodes, last = proto.graph.node
    imports = proto.opset_import
    body = helper.make_function("project", "Features", ["images", "matrix", "bias"], ["features"], [*nodes, last], imports)
    call = helper.make_node("Features", ["images", "matrix", "bias"], ["features"], domain="project")
    del proto.graph.node[:]
    proto.graph.node.append(call)
    proto.functions.append(body)
    imports.append(helper.make_opsetid("project", 1))
    onnx.save(proto, tmp_path / "foreign.onnx")
    images = some_images(5)
    adopt(tmp_path / "foreign.onnx", tmp_path / "out.onnx", **PLAIN)
    assert_embeds(tmp_path / "out.onnx", linear_reference(images), images)


def test_a_model_that_is_too_large_for_one_message_is_told_by_its_files(tmp_path, monkeypatch):
    foreign = linear_onnx(tmp_path / "foreign.onnx")
    onnx.save_model(onnx.load(foreign), foreign, save_as_external_data=True, location="weights.bin", size_threshold=0)
    small = adopt(foreign, tmp_path / "small.onnx", like="torchreid")
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1000)
    large = adopt(foreign, tmp_path / "large.onnx", like="torchreid")
    assert small.source_sha256 != large.source_sha256
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.write(np.float32(3).tobytes())
    other = adopt(foreign, tmp_path / "other.onnx", like="torchreid")
    assert other.source_sha256 not in (small.source_sha256, large.source_sha256)


@pytest.mark.parametrize(("to", "sentence"), [("onnx", "ends in .onnx"), ("openvino", "")])
def test_hat_export_takes_an_adopted_file(to, sentence, adopted, tmp_path, call):
    out = tmp_path / "out.xml"
    code, _, messages = call("export", adopted, "--to", to, "--out", out, "--json")
    assert code == (2 if sentence else 0) and sentence in messages
    assert out.is_file() == (not sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "color and value_range were not given: name a family with --like"),
        (["--like", "torchried"], "did you mean torchreid?"),
        (["--like", "omz", "--color", "blue"], "color: input should be 'rgb' or 'bgr', got 'blue'"),
        (["--like", "omz", "--image-size", "big"], "--image-size is height x width"),
        (["--like", "omz", "--mean", "nan,0,0"], "mean"),
        (["--like", "omz", "--mean", "1,2"], "--mean is three numbers"),
        (["--like", "omz", "--out", "ours.xml"], "expected a name that ends in .onnx"),
        (["--like", "omz", "--out", "ours.ONNX"], "expected a name that ends in .onnx"),
        (["--like", "omz", "--out", "foreign.onnx"], "is the foreign file itself"),
    ],
)
def test_hat_adopt_answers_a_wrong_request_in_one_sentence(arguments, sentence, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    linear_onnx(tmp_path / "foreign.onnx")
    code, _, messages = call("adopt", "foreign.onnx", "--out", "ours.onnx", *arguments)
    message = messages.strip().splitlines()[-1]
    assert code == 2 and message.startswith("hat: usage: ") and sentence in message
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


def test_hat_adopt_tells_what_it_made_and_what_it_doubts(tmp_path, call):
    foreign, out = linear_onnx(tmp_path / "foreign.onnx", matrix=GRAY), tmp_path / "ours.onnx"
    arguments = ["--out", out, "--color", "bgr", "--range", "255", "--mean", "imagenet", "--json"]
    code, printed, messages = call("adopt", foreign, *arguments)
    result = json.loads(printed)
    assert code == 0 and result["artifact"]["adopted"]["color"] == "bgr"
    np.testing.assert_allclose(result["artifact"]["preprocessing"]["mean"], IMAGENET_MEAN)
    assert len(result["warnings"]) == 1 and result["warnings"][0] in messages
    assert "adopted from foreign.onnx" in call("info", out)[1]


def test_adopt_refuses_what_is_no_foreign_model(adopted, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to adopt"):
        adopt(adopted, tmp_path / "again.onnx", like="torchreid")
    with pytest.raises(UsageError, match="expected an ONNX file"):
        adopt(tmp_path / "weights.pth", tmp_path / "ours.onnx", like="torchreid")
    with pytest.raises(CheckpointError, match="no such file"):
        adopt(tmp_path / "missing.xml", tmp_path / "ours.xml", like="omz")
    with pytest.raises(ConfigError, match="unknown key shade"):
        adopt(adopted, tmp_path / "ours.onnx", like="omz", shade="rgb")
    foreign = linear_openvino(tmp_path / "foreign.xml")
    foreign.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"foreign\.bin, which is not beside it"):
        adopt(foreign, tmp_path / "ours.xml", like="omz")
    with pytest.raises(CheckpointError, match="becomes one of ours by hat adopt"):
        open_runtime(foreign)


@pytest.mark.parametrize("number", ["0277", "0286", "0287", "0288"])
def test_adopt_of_open_model_zoo_equals_the_file_itself(number, tmp_path):
    folder = os.environ.get("HAT_PEERS")
    if not folder:
        pytest.skip("HAT_PEERS names no folder with Open Model Zoo's person-reidentification-retail-* files")
    (foreign,) = Path(folder).glob(f"**/person-reidentification-retail-{number}/FP16/*.xml")
    info = adopt(foreign, tmp_path / "ours.xml", like="omz")
    assert (info.embed_dim, info.batch, info.precision) == (256, None, "fp32")
    core = openvino_core("testing")
    own = core.compile_model(core.read_model(foreign), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = probe_images((256, 128), 3)
    rows = np.concatenate([own(image[None, ::-1].astype(np.float32))[0].reshape(1, -1) for image in images])
    assert_embeds(tmp_path / "ours.xml", rows / np.linalg.norm(rows, axis=1, keepdims=True), images, atol=1e-5)
