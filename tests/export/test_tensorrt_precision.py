"""Reading precision back: inspectors' reports of both layouts, and what may stand beside what."""

import json

import pytest

from hat.errors import WorkError
from hat.export.tensorrt.precision import ReadBack, check_precision, inspector_types


def report(*tensors, key="Format/Datatype", outside=None):
    layers = [
        {"Name": f"layer {number}", "Inputs": [], "Outputs": [{"Name": f"t{number}", key: kind}]}
        for number, kind in enumerate(tensors)
    ]
    outside = outside if outside is not None else {"Bindings": []}
    return json.dumps({"Layers": layers, **outside})


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Row major linear FP16 format", "HALF"),
        ("Channel major FP16 format where channel % 4 == 0", "HALF"),
        ("Half", "HALF"),
        ("Float", "FLOAT"),
        ("Row major linear FP32 format (kLINEAR)", "FLOAT"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "INT8"),
        ("INT8", "INT8"),
        ("BFloat16", "BF16"),
        ("Row major linear BF16 format", "BF16"),
        ("FP8", "FP8"),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_types_are_read_from_both_layouts(words, kind, key):
    assert inspector_types(report(words, key=key)).types == {kind: 1}


def test_inputs_and_outputs_of_the_whole_engine_prove_nothing():
    content = {
        "Layers": [
            {
                "Name": "everything",
                "Inputs": [{"Name": "images", "Format/Datatype": "UInt8"}],
                "Outputs": [{"Name": "embeddings", "Format/Datatype": "Float"}],
            }
        ]
    }
    assert inspector_types(json.dumps(content | {"Bindings": ["images", "embeddings"]})) is None
    assert inspector_types(json.dumps(content | {"I/O Tensors": [{"Name": "images"}, {"Name": "embeddings"}]})) is None
    assert inspector_types(json.dumps(content)).types == {"FLOAT": 1}


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[]", "{}", '{"Layers": ["name only"]}', report("N/A due to dynamic shapes"), report("Int64")]
)
def test_a_report_without_types_tells_nothing(text):
    assert inspector_types(text) is None


@pytest.mark.parametrize(
    ("precision", "types", "passes"),
    [
        ("fp32", {"FLOAT": 3}, True),
        ("fp32", {"FLOAT": 3, "HALF": 1}, False),
        ("fp32", {"INT8": 3}, False),
        ("fp16", {"FLOAT": 3, "HALF": 1}, True),
        ("fp16", {"FLOAT": 3}, False),
        ("fp16", {"HALF": 3, "BF16": 1}, False),
        ("bf16", {"BF16": 3, "FLOAT": 1}, True),
        ("bf16", {"HALF": 3}, False),
        ("int8", {"INT8": 3, "HALF": 1, "FLOAT": 1}, True),
        ("int8", {"HALF": 3, "FLOAT": 1}, False),
        ("int8", {"INT8": 3, "FP8": 1}, False),
        ("fp8", {"FP8": 3, "HALF": 1}, True),
        ("fp8", {"INT8": 3}, False),
        ("fp32", {}, False),
    ],
)
def test_what_may_stand_beside_a_precision(precision, types, passes):
    found = ReadBack("engine inspector", types)
    if passes:
        check_precision(precision, found)
    else:
        with pytest.raises(WorkError, match=f"{precision} was asked for"):
            check_precision(precision, found)
