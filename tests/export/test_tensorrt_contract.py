"""Building against fakes of TensorRT 10.3, 10.16, 11.4 and RTX: which calls are made on which version. No TensorRT runs here.

That engines are right is shown by the plan, by the network interpreter, and on a GPU.
"""

import hashlib
import json
import os

import pytest
from fake_tensorrt import L4, NAMES, VERSIONS, fake_tensorrt, small_info, small_onnx

from hat.config import config_from_dict, parse_overrides
from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine
from hat.export.tensorrt.options import EngineOptions
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.engine import engine_metadata, read_engine_info
from hat.runtime.tensorrt.library import Gpu

ALL = ["10.3.0", "10.16", "11.4", "rtx"]
WITH_GPU = ["10.3.0", "10.16", "11.4"]
T4, A100 = Gpu(0, "T4", (7, 5), 40), Gpu(0, "A100", (8, 0), 108)


def build(version, path, onnx=None, *, gpu=L4, change=None, **arguments):
    trt, script = fake_tensorrt(version, gpu)
    for name, value in (change or {}).items():
        setattr(script, name, value)
    info = build_engine(onnx or small_onnx(), path, module=trt, variant=trt.variant, **arguments)
    return info, script


def nothing_in(folder):
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("version", ALL)
def test_an_engine_and_its_side_file_appear_on_every_version(version, tmp_path):
    path = tmp_path / "small.engine"
    onnx = small_onnx()
    info, _ = build(version, path, onnx, profile=BatchProfile(min=2, opt=4, max=6))
    assert read_engine_info(path) == info
    metadata = engine_metadata(info, "it")
    assert info.batch == BatchProfile(min=2, opt=4, max=6)
    assert json.loads(path.read_bytes())["batch"] == [2, 4, 6]
    assert metadata.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata.onnx_sha256 == hashlib.sha256(onnx).hexdigest()
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


def test_the_fakes_refuse_what_their_versions_do_not_have():
    network = {version: fake_tensorrt(version)[0].library for version in ALL}
    assert hasattr(network["10.16"].BuilderFlag, "FP16") and not hasattr(network["11.4"].BuilderFlag, "FP16")
    assert not hasattr(network["11.4"].NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    for version, name in [("10.16", "set_compute_capability"), ("11.4", "int8_calibrator"), ("rtx", "algorithm_selector")]:
        with pytest.raises(AttributeError, match=name):
            getattr(fake_tensorrt(version)[0].library.Builder(None).create_builder_config(), name)


def test_a_version_without_the_flag_for_strong_typing_is_strongly_typed_by_itself(tmp_path):
    trt, _ = fake_tensorrt("11.4")
    del trt.library.NetworkDefinitionCreationFlag
    trt.library.NetworkDefinitionCreationFlag = object()
    assert trt.network_flags() == 0


@pytest.mark.parametrize("version", ALL)
def test_every_message_of_the_parser_is_told(version, tmp_path):
    errors = [("conv", "Conv", "no such type"), ("", "MatMul", "shapes\n  differ"), ("", "", "and another")]
    with pytest.raises(WorkError) as caught:
        build(version, tmp_path / "small.engine", change={"parser_errors": errors})
    for words in ("cannot parse", "conv (Conv): no such type", "MatMul: shapes differ", "node 2: and another"):
        assert words in str(caught.value)
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", ALL)
def test_the_builders_words_are_told(version, tmp_path):
    with pytest.raises(WorkError, match=r"cannot build the engine: no kernel was found for conv$"):
        build(version, tmp_path / "small.engine", change={"builds": False})
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("precision", "types"),
    [
        ("fp16", ["FLOAT", "FLOAT"]),
        ("fp32", ["FLOAT", "HALF"]),
        ("fp16", ["HALF", "INT8"]),
        ("int8", ["HALF"]),
        ("bf16", ["HALF"]),
    ],
)
def test_another_precision_than_asked_for_is_not_written(version, precision, types, tmp_path):
    with pytest.raises(WorkError, match=f"{precision} was asked for and the parsed network has"):
        build(version, tmp_path / "small.engine", small_onnx(precision), change={"layer_types": types})
    assert nothing_in(tmp_path)


def test_the_builders_words_are_told_after_a_timing_cache_was_read_too(tmp_path):
    options = EngineOptions(timing_cache=str(tmp_path / "kernels.cache"))
    with pytest.raises(WorkError, match=r"cannot build the engine: no kernel was found for conv$"):
        build("11.4", tmp_path / "small.engine", options=options, change={"builds": False})
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", ALL)
def test_a_library_that_cannot_start_says_why(version, tmp_path):
    with pytest.raises(WorkError, match=r"cannot start: CUDA initialization failure with error: 35$"):
        build(version, tmp_path / "small.engine", change={"starts": False})
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", WITH_GPU)
@pytest.mark.parametrize(
    "report", [None, "not JSON", '{"Layers": [{"Inputs": [{"Name": "a", "DataType": "Half"}], "Outputs": []}]}']
)
def test_what_the_inspector_tells_is_recorded_and_throws_no_engine_away(version, report, tmp_path):
    info, _ = build(version, tmp_path / "small.engine", change={"report": report})
    metadata = engine_metadata(info, "it")
    assert metadata.precision_types == {"FLOAT": 1}  # the network's
    assert metadata.inspector_types == ({"Half": 1} if report and "Half" in report else {})


def test_warnings_of_a_build_are_kept(tmp_path):
    warnings = ["weights were clamped", "weights were clamped", "a slow kernel"]
    info, _ = build("11.4", tmp_path / "small.engine", change={"warnings": warnings})
    assert engine_metadata(info, "it").warnings == ("weights were clamped", "a slow kernel")


def test_options_become_flags(tmp_path):
    options = EngineOptions(
        version_compatible=True, hardware_compatibility="ampere_plus", tf32=True, workspace_bytes=1 << 20, opt_level=2
    )
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
    ],
)
def test_a_precision_that_a_gpu_lacks_is_refused_before_anything_is_built(version, precision, gpu, options, reason, tmp_path):
    onnx = small_onnx(info=small_info(precision))
    with pytest.raises(UsageError, match=reason):
        build(version, tmp_path / "small.engine", onnx, gpu=gpu, options=EngineOptions(**options))
    assert nothing_in(tmp_path)


def test_an_rtx_engine_of_fp8_is_built_for_the_gpus_that_have_it(tmp_path):
    onnx = small_onnx(info=small_info("fp8"))
    info, script = build("rtx", tmp_path / "small.engine", onnx, gpu=None, change={"layer_types": ["FP8"]})
    assert script.targets == ["SM89", "SM120", "SM121"]
    assert info.device == "sm89, sm120, sm121"


def test_an_opset_that_no_parser_knows_is_refused(tmp_path):
    import onnx

    proto = onnx.load_model_from_string(small_onnx())
    proto.opset_import[0].version = 23
    with pytest.raises(UsageError, match="export it with --opset 22"):
        build("11.4", tmp_path / "small.engine", proto.SerializeToString())


def test_rtx_builds_for_named_compute_capabilities_without_a_gpu(tmp_path):
    options = EngineOptions(compute_capability=("sm86", "sm120"))
    info, script = build("rtx", tmp_path / "small.engine", gpu=None, options=options)
    assert script.targets == ["SM86", "SM120"]
    assert engine_metadata(info, "it").targets == ("sm86", "sm120")
    assert (info.device, engine_metadata(info, "it").gpu) == ("sm86, sm120", None)


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("rtx", {"timing_cache": "kernels.cache"}),
        ("rtx", {"hardware_compatibility": "ampere_plus"}),
        ("rtx", {"version_compatible": True}),
        ("10.16", {"compute_capability": ("sm86",)}),
        ("11.4", {"compute_capability": ("sm86",)}),
    ],
)
def test_what_a_product_cannot_do_is_refused(version, option, tmp_path):
    with pytest.raises(UsageError, match=f"{next(iter(option))} is not for TensorRT"):
        build(version, tmp_path / "small.engine", options=EngineOptions(**option))
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", WITH_GPU)
def test_without_a_gpu_only_rtx_builds(version, tmp_path):
    with pytest.raises(UsageError, match="torch sees none"):
        build(version, tmp_path / "small.engine", gpu=None)


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


@pytest.mark.parametrize("existing", ["small.engine", "small.engine.json"])
def test_nothing_is_overwritten_unasked(existing, tmp_path):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(UsageError, match=f"{existing} is there already"):
        build("11.4", tmp_path / "small.engine")
    assert (tmp_path / existing).read_text() == "precious"
    build("11.4", tmp_path / "small.engine", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"precious"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="No space left on device"):
        build("11.4", tmp_path / "small.engine")
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x09\x3a\x02\x0a\x00"])
def test_what_is_no_onnx_is_refused(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(CheckpointError):
        build("11.4", tmp_path / "small.engine", tmp_path / "bad.onnx")
    if content:
        with pytest.raises(CheckpointError):
            build("11.4", tmp_path / "small.engine", content)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "other.data"])
def test_weights_outside_their_place_are_not_read(location, tmp_path):
    import onnx

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
