"""OpenVINO files: what they compute, what they say of themselves, and what is refused."""

import itertools
import types
from dataclasses import replace

import numpy as np
import pytest

from hat.errors import ConfigError, UsageError, WorkError
from hat.export.request import ExportRequest

openvino = pytest.importorskip("openvino", reason="the extra export is not installed")
pytest.importorskip("nncf", reason="the extra export is not installed")

from hat.export.openvino import to_openvino  # noqa: E402
from hat.export.openvino.to_openvino import export_openvino  # noqa: E402
from hat.io.openvino_file import read_openvino_info, stored_as, stored_elements  # noqa: E402
from hat.runtime.openvino_runtime import OpenVINORuntime, openvino_core  # noqa: E402

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
PLAIN = {"bias_correction": "none", "smooth_quant": False, "max_drop": 1.0}  # without the seconds that remedies take
CAPABILITIES = openvino_core("testing").get_property("CPU", "OPTIMIZATION_CAPABILITIES")
HAS_BF16, HAS_FP16 = "BF16" in CAPABILITIES, "FP16" in CAPABILITIES


@pytest.fixture(scope="module")
def files(small_model, calibration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino")
    made = {}
    for precision in PRECISIONS:
        path = folder / f"{precision}.xml"
        request = ExportRequest(name="small", precision=precision, calibration=calibration)
        made[precision] = types.SimpleNamespace(path=path, info=export_openvino(small_model, path, request))
    return made


@pytest.fixture(scope="module")
def embeddings(files, pixels):
    """Precision -> embeddings of the pixels, for every precision that this processor runs."""
    return {name: OpenVINORuntime(files[name].path).run(pixels) for name in PRECISIONS if name != "bf16" or HAS_BF16}


def worst_cosine(first, second):
    return float((first * second).sum(axis=1).min())


@pytest.mark.parametrize(
    ("precision", "least"),
    # Most processors compute a file with float16 weights in float32.
    [("fp32", 0.999999), ("bf16", 0.999), ("fp16", 0.999 if HAS_FP16 else 0.99999), ("int8", 0.99)],
)
def test_every_precision_gives_the_models_embeddings(precision, least, embeddings, reference):
    if precision not in embeddings:
        pytest.skip("this processor has no bfloat16")
    rows = embeddings[precision]
    assert worst_cosine(rows, reference) >= least
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    if precision == "fp32":
        np.testing.assert_allclose(rows, reference, atol=1e-5)


def test_a_precision_is_not_another_one_under_its_name(embeddings):
    for first, second in itertools.combinations(embeddings, 2):
        assert not np.array_equal(embeddings[first], embeddings[second]), (first, second)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_holds_its_metadata_and_a_dynamic_batch(precision, files):
    file = files[precision]
    assert read_openvino_info(file.path) == file.info
    assert (file.info.precision, file.info.name, file.info.batch) == (precision, "small", None)
    assert {"openvino", "torch", "onnx"} <= set(file.info.versions)
    model = openvino_core("testing").read_model(file.path)
    assert model.inputs[0].get_partial_shape().to_string() == "[?,3,64,32]"
    assert (model.inputs[0].get_any_name(), model.outputs[0].get_any_name()) == ("images", "embeddings")


def test_weights_are_stored_as_the_precision_says(files):
    core = openvino_core("testing")
    stored = {precision: stored_as(core.read_model(file.path)) for precision, file in files.items()}
    assert stored == {"fp32": "fp32", "bf16": "fp16", "fp16": "fp16", "int8": "int8"}
    sizes = {precision: file.path.with_suffix(".bin").stat().st_size for precision, file in files.items()}
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.05)
    assert sizes["int8"] < 0.4 * sizes["fp32"]
    assert stored_elements(core.read_model(files["int8"].path))["i8"] > 0


def test_int8_leaves_pixels_and_the_l2_norm_in_floats(files):
    model = openvino_core("testing").read_model(files["int8"].path)
    path, node = [], model.inputs[0].get_node()
    while node.get_type_name() != "Convolution":
        readers = [port.get_node() for port in node.output(0).get_target_inputs()]
        (node,) = [reader for reader in readers if reader.get_type_name() != "ShapeOf"]
        path.append(node.get_type_name())
    assert path[:3] == ["Convert", "Multiply", "Add"] and path[-2:] == ["FakeQuantize", "Convolution"]
    assert path[3:-2] in ([], ["Multiply"]), "nothing but SmoothQuant's scale stands between pixels and quantization"

    makers, seen = [model.outputs[0].get_node()], set()
    while makers:
        node = makers.pop()
        seen.add(node.get_type_name())
        if node.get_type_name() not in ("Concat", "Constant"):
            makers += [value.get_node() for value in node.input_values()]
    assert "ReduceL2" in seen or "Sqrt" in seen
    assert "FakeQuantize" not in seen


def test_int8_meets_its_default_drop_and_records_how_it_was_made(files, calibration, embeddings, reference):
    details = files["int8"].info.details
    assert details["calibration"] == calibration.details and details["calibration"]["images"] == list(calibration.paths)
    assert (details["float_precision"], details["quantization"]["preset"]) == ("fp32", "mixed")
    assert (details["quantization"]["bias_correction"], details["quantization"]["smooth_quant"]) == ("fast", True)
    assert details["num_products"] > 30 and len(details["float_products"]) < 10
    assert details["cosine_drop"] <= details["quantization"]["max_drop"] == 0.001
    assert 1 - (embeddings["int8"] * reference).sum(axis=1).mean() < 0.0012


def test_layers_can_be_left_out_of_int8(small_model, calibration, tmp_path, pixels, reference):
    path = tmp_path / "part.xml"
    options = PLAIN | {"ignored_patterns": ["mfe.*"], "subset_size": 4}
    request = ExportRequest(name="part", precision="int8", calibration=calibration, options=options)
    info = export_openvino(small_model, path, request)
    left = info.details["float_products"]
    assert len(left) > 1 and all(name.startswith(("mfe", "projection")) for name in left)
    assert len(left) < info.details["num_products"]
    assert info.details["calibration"]["num_images"] == 4
    runtime = OpenVINORuntime(path)
    assert runtime.execution_types["f32"] >= len(left)
    assert worst_cosine(runtime.run(pixels), reference) > 0.99


def test_float_images_give_the_same_embeddings(small_model, tmp_path, pixels, reference):
    path = tmp_path / "float.xml"
    info = export_openvino(small_model, path, ExportRequest(name="small", input_type="float32"))
    assert openvino_core("testing").read_model(path).inputs[0].get_element_type() == openvino.Type.f32
    assert info.input_type == "float32"
    np.testing.assert_allclose(OpenVINORuntime(path).run(pixels), reference, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "file", "error", "words"),
    [
        ({"precision": "fp8"}, "x.xml", UsageError, "no fp8"),
        ({}, "x.onnx", UsageError, "ends in .xml"),
        ({"precision": "fp32", "options": {"preset": "mixed"}}, "x.xml", UsageError, "no option preset"),
        ({}, "none/x.xml", UsageError, "is no folder"),
        ({"calibration": None}, "x.xml", UsageError, "needs calibration images"),
        ({"options": {"presett": "mixed"}}, "x.xml", ConfigError, "did you mean preset"),
        ({"options": {"ignored_names": ["no"]} | PLAIN}, "x.xml", UsageError, "graph has not: no"),
        ({"options": {"ignored_patterns": ["q9z"]} | PLAIN}, "x.xml", UsageError, "q9z"),
    ],
)
def test_what_cannot_be_had_is_refused_and_leaves_nothing(changes, file, error, words, small_model, calibration, tmp_path):
    request = replace(ExportRequest(name="x", precision="int8", calibration=calibration), **changes)
    with pytest.raises(error, match=words):
        export_openvino(small_model, tmp_path / file, request)
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_only_when_asked(small_model, tmp_path):
    path = tmp_path / "model.xml"
    path.with_suffix(".bin").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=r"model\.bin is there already"):
        export_openvino(small_model, path, ExportRequest(name="x"))
    assert path.with_suffix(".bin").read_bytes() == b"somebody's"
    export_openvino(small_model, path, ExportRequest(name="x", overwrite=True))
    with pytest.raises(UsageError, match="is there already"):
        export_openvino(small_model, path, ExportRequest(name="x"))
    assert OpenVINORuntime(path).info.name == "x"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_what_is_made_otherwise_than_asked_for_does_not_appear(small_model, calibration, tmp_path, monkeypatch):
    """Weights that are not compressed, a quantizer that does nothing, and OpenVINO's own failure."""
    save = openvino.save_model

    def export(precision):
        request = ExportRequest("x", precision, calibration=calibration, options=PLAIN if precision == "int8" else {})
        export_openvino(small_model, tmp_path / "model.xml", request)

    def fail(*args, **kwargs):
        raise RuntimeError("Check failed\nNo space left on device")

    monkeypatch.setattr(to_openvino, "quantize_openvino", lambda graph, request: (graph, {}))
    with pytest.raises(WorkError, match="int8 was asked for and the weights are stored in fp32"):
        export("int8")
    monkeypatch.setattr(openvino, "save_model", lambda model, path, compress_to_fp16: save(model, path, compress_to_fp16=False))
    with pytest.raises(WorkError, match="fp16 was asked for and the weights are stored in fp32"):
        export("fp16")
    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(WorkError, match=r"cannot write model\.xml: No space left"):
        export("fp32")
    assert list(tmp_path.iterdir()) == []
