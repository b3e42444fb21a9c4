"""Cameras of 12 bits write them into files of 16: scaled by an option, they are what the upper 8 of the 12 bits are."""

import json

import numpy as np
import pytest
from broken_graphs import small_model
from gray_pictures import draw_gray_twice

import hat

SPLITS = {"bounding_box_train": (1,), "query": (1,), "bounding_box_test": (2, 3)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and one data set twice: ``deep/people`` in 12 bits, ``plain/people`` in the upper 8 of these."""
    root = tmp_path_factory.mktemp("gray")
    hat.save_checkpoint(small_model(0), root / "model")
    shots = [(split, pid, camera) for split, cameras in SPLITS.items() for pid in range(1, 5) for camera in cameras]
    draw_gray_twice(root, [f"people/{split}/{pid:04d}_c{camera}s1_000001_01.png" for split, pid, camera in shots])
    return root


@pytest.fixture
def twice(folders, monkeypatch, call):
    """Call a command in both folders, in the deep one with the option, and give what it says as JSON."""
    monkeypatch.setattr("hat.data.images._default_gray_bits", None)  # the command sets it for its process

    def run(*arguments):
        said = []
        for name, options in (("deep", ("--gray-bits", 12)), ("plain", ())):
            monkeypatch.chdir(folders / name)
            code, out, err = call(*arguments, "--json", *options)
            assert code == 0, err
            said.append(json.loads(out))
        return said

    return run


def test_verify_compares_them_as_the_scaled_images(twice):
    deep, plain = twice("verify", "../model", "../model@graph", "--images", "people/query", "--data", "people")
    assert deep["candidates"] == plain["candidates"]
    assert deep["dataset"]["reference"] == plain["dataset"]["reference"]


def test_bench_measures_their_accuracy_in_its_processes(twice):
    found = twice("bench", "../model", "--batch", "2", "--seconds", "0.01", "--rounds", "1", "--data", "people")
    deep, plain = (said["candidates"][0]["accuracy"] for said in found)
    assert deep == plain and "mAP" in plain


def test_export_calibrates_on_them_as_on_the_scaled_images(twice, folders):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    calibration = ("--calibration-data", "people", "--num-calibration", 4, "--max-drop", 1)
    twice("export", "../model", "--to", "onnx", "--precision", "int8", *calibration, "--out", "int8.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 64, 32), dtype=np.uint8)
    deep, plain = (hat.Embedder.open(folders / name / "int8.onnx").runtime.run(pixels) for name in ("deep", "plain"))
    np.testing.assert_array_equal(deep, plain)
