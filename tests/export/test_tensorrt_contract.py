"""Building and refitting against stand-ins for TensorRT 10.3, 10.16, 11.4 and RTX: no TensorRT runs in this file.

Each stand-in has exactly the names of its version (`tensorrt_stand_in`), so that these tests show which calls are made on which
version, and what is done with the answers; that engines are right is shown by the tests that run real libraries.
"""

import hashlib
import json
import os

import pytest
import tensorrt_stand_in
from tensorrt_stand_in import L4, small_info, small_onnx, stand_in

from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.tensorrt.builder import build_engine, rebuild_engine
from hat.export.tensorrt.options import EngineOptions
from hat.export.tensorrt.refit import refit_engine
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.engine import engine_facts, read_engine_info
from hat.runtime.tensorrt.library import Gpu

ALL = ["10.3.0", "10.16", "11.4", "rtx"]
WITH_GPU = ["10.3.0", "10.16", "11.4"]


def build(version, path, onnx=None, *, gpu=L4, change=None, **arguments):
    trt, script = stand_in(version, gpu)
    for name, value in (change or {}).items():
        setattr(script, name, value)
    info = build_engine(onnx or small_onnx(), path, module=trt, flavor=trt.flavor, **arguments)
    return info, script


def nothing_in(folder):
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("version", ALL)
def test_an_engine_and_its_side_file_appear_on_every_version(version, tmp_path):
    path = tmp_path / "small.engine"
    onnx = small_onnx()
    info, _ = build(version, path, onnx, profile=BatchProfile(min=2, opt=4, max=6))
    assert read_engine_info(path) == info
    facts = engine_facts(info, "it")
    assert info.batch == BatchProfile(min=2, opt=4, max=6)
    assert json.loads(path.read_bytes())["batch"] == [2, 4, 6]
    assert facts.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts.onnx_sha256 == hashlib.sha256(onnx).hexdigest()
    assert info.device == ("compute capability 8.0 and newer" if version == "rtx" else "Stand-in L4 (compute capability 8.9)")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]


@pytest.mark.parametrize("version", ALL)
def test_networks_are_strongly_typed_and_no_flag_chooses_a_precision(version, tmp_path):
    _, script = build(version, tmp_path / "small.engine")
    names = tensorrt_stand_in.SURFACES[tensorrt_stand_in.VERSIONS[version]]["BuilderFlag"].split()
    assert ("FP16" in names) == version.startswith("10")  # what the versions are known to differ in
    assert script.flags == set()  # TF32 is on by default and is cleared: fp32 means fp32
    trt, _ = stand_in(version)
    assert script.network_flags == 1 << trt.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED


def test_the_stand_ins_refuse_what_their_versions_do_not_have():
    network = {version: stand_in(version)[0].library for version in ALL}
    assert hasattr(network["10.16"].BuilderFlag, "FP16") and not hasattr(network["11.4"].BuilderFlag, "FP16")
    assert not hasattr(network["11.4"].NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    for version, name in [("10.16", "set_compute_capability"), ("11.4", "int8_calibrator"), ("rtx", "algorithm_selector")]:
        with pytest.raises(AttributeError, match=name):
            getattr(stand_in(version)[0].library.Builder(None).create_builder_config(), name)


def test_a_version_without_the_flag_for_strong_typing_is_strongly_typed_by_itself(tmp_path):
    trt, _ = stand_in("11.4")
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
    with pytest.raises(WorkError, match=f"{precision} was asked for and the parsed network tells"):
        build(version, tmp_path / "small.engine", small_onnx(precision), change={"layer_types": types})
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("version", WITH_GPU)
def test_the_inspector_has_the_last_word_where_a_gpu_lets_it_speak(version, tmp_path):
    def report(kind):
        tensor = (
            {"Name": "between", "Format/Datatype": kind} if version.startswith("10") else {"Name": "between", "DataType": kind}
        )
        outside = {"Bindings": ["images"]} if version.startswith("10") else {"I/O Tensors": [{"Name": "images"}]}
        return {"Layers": [{"Name": "a", "Inputs": [{"Name": "images", "DataType": "UInt8"}], "Outputs": [tensor]}], **outside}

    onnx = small_onnx("fp16")
    info, _ = build(version, tmp_path / "a.engine", onnx, change={"layer_types": ["HALF"], "report": report("Half")})
    facts = engine_facts(info, "it")
    assert (facts.precision_source, facts.precision_types) == ("engine inspector", {"HALF": 1})
    with pytest.raises(WorkError, match="fp16 was asked for and the engine inspector tells 1 FLOAT"):
        build(version, tmp_path / "b.engine", onnx, change={"layer_types": ["HALF"], "report": report("Float")})
    assert not (tmp_path / "b.engine").exists()


@pytest.mark.parametrize("version", ALL)
def test_an_inspector_that_tells_nothing_leaves_the_networks_types(version, tmp_path):
    info, _ = build(version, tmp_path / "small.engine")
    assert engine_facts(info, "it").precision_source == "parsed network"


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


def test_options_become_flags(tmp_path):
    options = EngineOptions(
        strip_weights=True, version_compatible=True, hardware_compatible=True, tf32=True, workspace_bytes=1 << 20, opt_level=2
    )
    info, script = build("10.16", tmp_path / "small.engine", options=options)
    assert script.flags == {"STRIP_PLAN", "REFIT", "VERSION_COMPATIBLE", "TF32"}
    facts = engine_facts(info, "it")
    assert (facts.weights, facts.refittable, facts.hardware_compatible, facts.version_compatible) == (
        "stripped",
        True,
        True,
        True,
    )
    info, script = build("11.4", tmp_path / "other.engine", options=EngineOptions(refittable=True))
    assert script.flags == {"REFIT"}
    assert (engine_facts(info, "it").weights, engine_facts(info, "it").refittable) == ("inside", True)


def test_rtx_builds_for_named_compute_capabilities_without_a_gpu(tmp_path):
    options = EngineOptions(compute_capability=("sm86", "sm120"))
    info, script = build("rtx", tmp_path / "small.engine", gpu=None, options=options)
    assert script.targets == ["SM86", "SM120"]
    assert engine_facts(info, "it").targets == ("sm86", "sm120")
    assert (info.device, engine_facts(info, "it").gpu) == ("sm86, sm120", None)


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("rtx", {"timing_cache": "kernels.cache"}),
        ("rtx", {"hardware_compatible": True}),
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


def test_a_refittable_engine_that_fails_without_a_gpu_says_what_is_missing(tmp_path):
    with pytest.raises(WorkError, match="need a machine with a GPU"):
        build("rtx", tmp_path / "a.engine", gpu=None, options=EngineOptions(refittable=True), change={"builds": False})


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


@pytest.mark.parametrize("existing", ["small.engine", "small.engine.json", "small.engine.onnx"])
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


@pytest.mark.parametrize("version", ALL)
def test_a_refit_takes_the_new_weights_facts_and_keeps_the_profile(version, tmp_path):
    options = EngineOptions(strip_weights=True)
    build(version, tmp_path / "old.engine", options=options, profile=BatchProfile(min=1, opt=2, max=3))
    trt, _ = stand_in(version)
    retrained = small_onnx(info=small_info(source_sha256="2" * 64, fingerprint="3" * 64), seed=1)
    info = refit_engine(tmp_path / "old.engine", retrained, tmp_path / "new.engine", module=trt)
    assert read_engine_info(tmp_path / "new.engine") == info
    facts = engine_facts(info, "it")
    assert (info.source_sha256, info.batch.max, facts.weights) == ("2" * 64, 3, "inside")
    assert facts.onnx_sha256 == hashlib.sha256(retrained).hexdigest()
    # Whether a refitted engine can be written so that it stays refittable is something that 10.3 has no word for.
    assert facts.refittable == (version != "10.3.0")
    written = json.loads((tmp_path / "new.engine").read_bytes())
    assert written["excluded"] == ([] if version == "10.3.0" else ["INCLUDE_REFIT"])


def test_a_refit_is_refused_with_the_reason(tmp_path):
    build("11.4", tmp_path / "fixed.engine")
    build("11.4", tmp_path / "small.engine", options=EngineOptions(refittable=True))
    trt, script = stand_in("11.4")

    def refit(onnx, engine="small.engine", module=trt):
        return refit_engine(tmp_path / engine, onnx, tmp_path / "new.engine", module=module)

    with pytest.raises(UsageError, match="cannot be refitted: build it with"):
        refit(small_onnx(), engine="fixed.engine")
    with pytest.raises(UsageError, match="differ in precision"):
        refit(small_onnx("fp16"))
    with pytest.raises(UsageError, match="differ in embed_dim"):
        refit(small_onnx(info=small_info(embed_dim=8)))
    with pytest.raises(UsageError, match="torch sees none"):
        refit(small_onnx(), module=stand_in("11.4", None)[0])
    with pytest.raises(CheckpointError, match=r"built on Stand-in L4 .*this is A100"):
        refit(small_onnx(), module=stand_in("11.4", Gpu(0, "A100", (8, 0)))[0])
    script.missing = ["bottleneck.bias"]
    with pytest.raises(WorkError, match=r"needs weights that the ONNX does not have: bottleneck\.bias"):
        refit(small_onnx())
    script.missing, script.parser_errors = [], [("conv", "Conv", "count of kernel changed")]
    with pytest.raises(WorkError, match=r"cannot refit .*count of kernel changed"):
        refit(small_onnx())
    assert not (tmp_path / "new.engine").exists()


def test_an_engine_is_rebuilt_from_the_onnx_kept_beside_it(tmp_path):
    path = tmp_path / "small.engine"
    options = EngineOptions(keep_onnx=True, opt_level=1)
    build("10.16", path, options=options, profile=BatchProfile(min=1, opt=2, max=3))
    trt, _ = stand_in("11.4", Gpu(0, "Another", (9, 0)))
    info = rebuild_engine(path, module=trt)
    facts = engine_facts(info, "it")
    assert (facts.version, info.device, info.batch.max) == (trt.version, "Another (compute capability 9.0)", 3)
    assert EngineOptions(**facts.options) == options
    (tmp_path / "small.engine.onnx").unlink()
    with pytest.raises(CheckpointError, match="cannot be rebuilt"):
        rebuild_engine(path, module=trt)


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
    with pytest.raises(CheckpointError):
        build("11.4", tmp_path / "small.engine", tmp_path / "hostile.onnx")
    with pytest.raises(CheckpointError, match="another file"):
        build("11.4", tmp_path / "small.engine", proto.SerializeToString())
