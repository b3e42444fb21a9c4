"""Building against fakes of TensorRT 10.3, 10.16, 11.4 and RTX: which calls are made on which version. No TensorRT runs here.

That engines are right is shown by the plan, by the network interpreter, and on a GPU.
"""

import hashlib
import json

import onnx
import pytest
from fake_tensorrt import L4, NAMES, VERSIONS, fake_tensorrt, small_info, small_onnx

from hat.config import config_from_dict, parse_overrides
from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.inspection import check_precision, inspector_types
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.engine import engine_metadata, read_engine_info
from hat.runtime.tensorrt.library import Gpu

ALL = ["10.3.0", "10.16", "11.4", "rtx"]
WITH_GPU = ["10.3.0", "10.16", "11.4"]
T4, A100 = Gpu(0, "T4", (7, 5), 40), Gpu(0, "A100", (8, 0), 108)


def build(version, path, source=None, *, gpu=L4, change=None, **arguments):
    trt, script = fake_tensorrt(version, gpu)
    for name, value in (change or {}).items():
        setattr(script, name, value)
    info = build_engine(source or small_onnx(), path, module=trt, variant=trt.variant, **arguments)
    return info, script


def nothing_in(folder):
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("version", ALL)
def test_an_engine_and_its_side_file_appear_on_every_version(version, tmp_path):
    path = tmp_path / "small.engine"
    source = small_onnx()
    info, _ = build(version, path, source, profile=BatchProfile(min=2, opt=4, max=6))
    assert read_engine_info(path) == info
    metadata = engine_metadata(info, "it")
    assert info.batch == BatchProfile(min=2, opt=4, max=6)
    assert json.loads(path.read_bytes())["batch"] == [2, 4, 6]
    assert metadata.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata.onnx_sha256 == hashlib.sha256(source).hexdigest()
    assert info.device == ("sm80, sm86, sm89, sm120, sm121" if version == "rtx" else "Fake L4 (compute capability 8.9, 58 SMs)")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]


@pytest.mark.parametrize("version", ALL)
def test_networks_are_strongly_typed_and_no_flag_chooses_a_precision(version, tmp_path):
    _, script = build(version, tmp_path / "small.engine")
    names = NAMES[VERSIONS[version]]["BuilderFlag"].split()
    assert ("FP16" in names) == version.startswith("10")  # what the versions are known to differ in
    assert script.flags == set()  # TF32 is on by default and is cleared: fp32 means fp32
    trt, _ = fake_tensorrt(version)
    assert script.network_flags == 1 << trt.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    trt.library.NetworkDefinitionCreationFlag = object()
    assert trt.network_flags() == 0, "a version without the flag is strongly typed by itself"


@pytest.mark.parametrize("version", ALL)
def test_every_message_of_the_parser_is_told(version, tmp_path):
    errors = [("conv", "Conv", "no such type"), ("", "MatMul", "shapes\n  differ"), ("", "", "and another")]
    with pytest.raises(WorkError) as caught:
        build(version, tmp_path / "small.engine", change={"parser_errors": errors})
    for words in ("cannot parse", "conv (Conv): no such type", "MatMul: shapes differ", "node 2: and another"):
        assert words in str(caught.value)
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"builds": False}, r"cannot build the engine: no kernel was found for conv$"),
        ({"starts": False}, r"cannot start: CUDA initialization failure with error: 35$"),
        ({"layer_types": ["FLOAT", "HALF"]}, "fp32 was asked for and the parsed network has 1 FLOAT, 1 HALF"),
    ],
)
def test_what_cannot_be_built_is_told_in_the_librarys_words_and_leaves_nothing(version, change, words, tmp_path):
    with pytest.raises(WorkError, match=words):
        build(version, tmp_path / "small.engine", change=change)
    if version != "rtx":  # after a timing cache was read too
        options = EngineOptions(timing_cache=str(tmp_path / "kernels.cache"))
        with pytest.raises(WorkError, match=words):
            build(version, tmp_path / "small.engine", change=change, options=options)
    assert nothing_in(tmp_path)


@pytest.mark.parametrize(
    ("precision", "right", "wrong"),
    [
        ("fp32", ["FLOAT"], ["FLOAT HALF", "INT8", ""]),
        ("fp16", ["HALF FLOAT"], ["FLOAT", "HALF BF16", "HALF INT8"]),
        ("bf16", ["BF16 FLOAT"], ["HALF"]),
        ("int8", ["INT8 HALF FLOAT"], ["HALF FLOAT", "INT8 FP8"]),
        ("fp8", ["FP8 HALF"], ["INT8"]),
    ],
)
def test_check_precision_wants_the_types_that_were_asked_for(precision, right, wrong):
    for types in right:
        check_precision(precision, dict.fromkeys(types.split(), 3))
    for types in wrong:
        with pytest.raises(WorkError, match=f"{precision} was asked for"):
            check_precision(precision, dict.fromkeys(types.split(), 3))


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_inspector_types_are_counted_as_they_are_spelled(key):
    tensors = [{"Name": "a", key: "Half"}, {"Name": "b", key: "Row major linear FP16 format"}, {"Name": "a", key: "Half"}]
    report = {"Layers": [{"Name": "first", "Inputs": tensors[:1], "Outputs": tensors[1:]}]}
    assert inspector_types(json.dumps(report)) == {"Half": 1, "Row major linear FP16 format": 1}
    for unreadable in ("", "not JSON", "[]", "{}", '{"Layers": ["name only"]}', '{"Layers": [{"Inputs": 1}]}'):
        assert inspector_types(unreadable) == {}


@pytest.mark.parametrize("version", WITH_GPU)
def test_what_the_inspector_and_the_builder_tell_is_recorded_and_throws_no_engine_away(version, tmp_path):
    warnings = ["weights were clamped", "weights were clamped", "a slow kernel"]
    halves = '{"Layers": [{"Inputs": [{"Name": "a", "DataType": "Half"}], "Outputs": []}]}'
    for report, types in ((None, {}), ("not JSON", {}), (halves, {"Half": 1})):
        change = {"report": report, "warnings": warnings}
        info, _ = build(version, tmp_path / "small.engine", change=change, overwrite=True)
        metadata = engine_metadata(info, "it")
        assert metadata.precision_types == {"FLOAT": 1}  # the network's
        assert metadata.inspector_types == types and metadata.warnings == ("weights were clamped", "a slow kernel")


def test_options_become_flags(tmp_path):
    chosen = {"version_compatible": True, "hardware_compatibility": "ampere_plus", "tf32": True}
    options = EngineOptions(**chosen, workspace_bytes=1 << 20, opt_level=2)
    info, script = build("10.16", tmp_path / "small.engine", options=options)
    assert (script.flags, script.level) == ({"VERSION_COMPATIBLE", "TF32"}, "AMPERE_PLUS")
    assert info.device == "compute capability 8.0 and newer"
    assert EngineOptions(**engine_metadata(info, "it").options) == options


@pytest.mark.parametrize("given", ["sm89", "[sm89]", "8.9", "[8.9]", "89"])
def test_compute_capability_may_be_written_as_a_number(given):
    assert config_from_dict(EngineOptions, parse_overrides([f"compute_capability={given}"])).compute_capability == ("sm89",)


def test_an_engine_for_one_compute_capability_needs_a_version_that_has_it(tmp_path):
    options = EngineOptions(hardware_compatibility="same_compute_capability")
    info, script = build("10.16", tmp_path / "small.engine", options=options)
    assert (script.level, info.device) == ("SAME_COMPUTE_CAPABILITY", "compute capability 8.9")
    with pytest.raises(UsageError, match="has no same_compute_capability: ask for ampere_plus"):
        build("10.3.0", tmp_path / "other.engine", options=options)


@pytest.mark.parametrize(
    ("version", "precision", "gpu", "options", "reason"),
    [
        ("10.16", "bf16", T4, {}, r"bf16 needs compute capability 8.0 .*T4"),
        ("11.4", "fp8", A100, {}, r"fp8 needs compute capability 8.9 .*A100"),
        ("11.4", "fp8", L4, {"hardware_compatibility": "ampere_plus"}, "every GPU from Ampere on"),
        ("rtx", "bf16", None, {"compute_capability": ("sm75", "sm86")}, "run on sm75: ask for fp16"),
        ("rtx", "fp8", None, {"compute_capability": ("sm86", "sm89")}, "run on sm86: ask for fp16"),
        ("rtx", "fp32", None, {"timing_cache": "kernels.cache"}, "timing_cache is not for TensorRT for RTX"),
        ("rtx", "fp32", None, {"hardware_compatibility": "ampere_plus"}, "hardware_compatibility is not for TensorRT for RTX"),
        ("rtx", "fp32", None, {"version_compatible": True}, "version_compatible is not for TensorRT for RTX"),
        ("10.16", "fp32", L4, {"compute_capability": ("sm86",)}, "compute_capability is not for TensorRT 10"),
        ("11.4", "fp32", None, {}, "torch sees none"),
    ],
)
def test_what_a_product_or_a_gpu_lacks_is_refused_before_anything_is_built(version, precision, gpu, options, reason, tmp_path):
    source = small_onnx(info=small_info(precision))
    with pytest.raises(UsageError, match=reason):
        build(version, tmp_path / "small.engine", source, gpu=gpu, options=EngineOptions(**options))
    assert nothing_in(tmp_path)


@pytest.mark.parametrize(
    ("precision", "named", "targets"), [("fp32", ("sm86", "sm120"), ("sm86", "sm120")), ("fp8", (), ("sm89", "sm120", "sm121"))]
)
def test_rtx_builds_without_a_gpu_for_what_is_named_or_has_the_precision(precision, named, targets, tmp_path):
    source, options = small_onnx(info=small_info(precision)), EngineOptions(compute_capability=named)
    with pytest.raises(UsageError, match="builds without a GPU"):
        build("rtx", tmp_path / "small.engine", source, device="cuda:1")
    change = {"layer_types": ["FP8"]} if precision == "fp8" else {}
    info, script = build("rtx", tmp_path / "small.engine", source, gpu=None, options=options, change=change)
    assert script.targets == [name.upper() for name in targets]
    assert engine_metadata(info, "it").targets == targets and engine_metadata(info, "it").gpu is None
    assert info.device == ", ".join(targets)


def test_what_is_no_onnx_and_an_opset_that_no_parser_knows_are_refused(tmp_path):
    with pytest.raises(CheckpointError):
        build("11.4", tmp_path / "small.engine", b"no model at all")
    proto = onnx.load_model_from_string(small_onnx())
    proto.opset_import[0].version = 23
    with pytest.raises(UsageError, match="export it with --opset 22"):
        build("11.4", tmp_path / "small.engine", proto.SerializeToString())
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", WITH_GPU)
def test_a_timing_cache_is_made_used_again_and_refused_from_elsewhere(version, tmp_path):
    cache = tmp_path / "kernels.cache"
    options = EngineOptions(timing_cache=str(cache))
    _, script = build(version, tmp_path / "a.engine", options=options)
    assert script.timing_caches == [b""]
    kept = cache.read_bytes()
    _, script = build(version, tmp_path / "b.engine", options=options)
    assert script.timing_caches == [kept]
    cache.write_bytes(b"from another machine")
    with pytest.raises(UsageError, match=r"kernels\.cache is not of this GPU .*cache of another device"):
        build(version, tmp_path / "c.engine", options=options)
    assert cache.read_bytes() == b"from another machine"
    assert not (tmp_path / "c.engine").exists()
    options = EngineOptions(timing_cache=str(tmp_path / "caches" / "a.cache"))
    with pytest.raises(UsageError, match="caches is no folder"):  # before it is built, which would fail
        build(version, tmp_path / "c.engine", change={"builds": False}, options=options)


@pytest.mark.parametrize("existing", ["small.engine", "small.engine.json"])
def test_nothing_is_overwritten_unasked(existing, tmp_path):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(UsageError, match=f"{existing} is there already"):
        build("11.4", tmp_path / "small.engine")
    assert (tmp_path / existing).read_text() == "precious"
    build("11.4", tmp_path / "small.engine", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"precious"


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "other.data"])
def test_weights_outside_their_place_are_not_read(location, tmp_path):
    proto = onnx.load_model_from_string(small_onnx())
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "other.data").write_bytes(b"0" * 10000)
    (tmp_path / "hostile.onnx").write_bytes(proto.SerializeToString())
    for source in (tmp_path / "hostile.onnx", proto.SerializeToString()):
        with pytest.raises(CheckpointError):
            build("11.4", tmp_path / "small.engine", source)
