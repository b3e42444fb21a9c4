"""What may stand beside a precision, and what is recorded of the inspectors' reports of both layouts."""

import json

import pytest

from hat.errors import WorkError
from hat.export.tensorrt.precision import check_precision, inspector_types


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_inspector_types_are_counted_as_they_are_spelled(key):
    tensors = [{"Name": "a", key: "Half"}, {"Name": "b", key: "Row major linear FP16 format"}, {"Name": "a", key: "Half"}]
    report = {"Layers": [{"Name": "first", "Inputs": tensors[:1], "Outputs": tensors[1:]}]}
    assert inspector_types(json.dumps(report)) == {"Half": 1, "Row major linear FP16 format": 1}


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"Layers": ["name only"]}', '{"Layers": [{"Inputs": 1}]}'])
def test_inspector_types_of_a_report_that_cannot_be_read_are_none(text):
    assert inspector_types(text) == {}


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
def test_check_precision(precision, types, passes):
    if passes:
        check_precision(precision, types)
    else:
        with pytest.raises(WorkError, match=f"{precision} was asked for"):
            check_precision(precision, types)
