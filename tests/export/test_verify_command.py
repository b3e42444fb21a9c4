"""`hat verify` as a user meets it: its exit codes, what it prints, and the reports that it writes."""

import functools
import html
import json
import re

import numpy as np
import pytest
from broken_graphs import draw_people, people, small_model
from PIL import Image

import hat
from hat.export.parity.verification_report import CandidateResult, VerificationReport
from hat.runtime import open_runtime, runtime_info


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two checkpoints, images, and a data set of Market's names."""
    folder = tmp_path_factory.mktemp("verify")
    hat.save_checkpoint(small_model(0), folder / "model")
    hat.save_checkpoint(small_model(1), folder / "other")
    draw_people(folder / "images", 20)
    Image.fromarray(people(77)).save(folder / "images" / "a&b <i>.png")
    root = folder / "Market-1501-v15.09.15"
    noise = np.random.default_rng(1)
    for split, cameras in (("bounding_box_train", (1,)), ("query", (1,)), ("bounding_box_test", (2, 3))):
        (root / split).mkdir(parents=True)
        for pid in range(1, 9):
            for camera in cameras:
                pixels = (people(pid) * 0.7 + noise.integers(0, 70, (64, 32, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / f"{pid:04d}_c{camera}s1_000001_01.jpg", quality=95)
    return folder


@pytest.fixture
def run(place, monkeypatch, call):
    monkeypatch.chdir(place)
    return functools.partial(call, "verify")


def test_a_faithful_candidate_ends_with_0_and_reports_all_three_levels(run, place):
    code, out, err = run(
        "model", "model@graph", "--images", "images", "--data", "market1501=.", "--json",
        "--report", place / "a.html", "--report-json", place / "a.json",
    )  # fmt: skip
    assert code == 0, err
    content = json.loads(out)
    fingerprint = runtime_info(open_runtime(place / "model")).fingerprint
    assert content["reference_fingerprint"] == content["candidates"][0]["fingerprint"] == fingerprint
    assert content == json.loads((place / "a.json").read_text()) and content["passed"]
    (candidate,) = content["candidates"]
    assert {check["level"] for check in candidate["checks"]} == {"rows", "embedding", "batch", "ranking", "retrieval"}
    assert candidate["runtime"] == "torch fp32 inference graph cpu" and content["num_images"] == 21
    assert content["dataset"]["reference"]["num_queries"] == 8
    retrieval = [check for check in candidate["checks"] if check["level"] == "retrieval"]
    assert [check["name"] for check in retrieval] == ["change of mAP", "change of Rank-1", "change of mINP"]
    assert "/9j/" not in out  # not a byte of an image


def test_another_checkpoint_ends_with_1_says_why_and_the_page_stands_by_itself(run, place):
    arguments = ("model", "model", "other", "--images", "images", "--data", "market1501=.", "--num-ids", 5)
    code, out, err = run(*arguments, "--report", "b.html")
    assert code == 1
    assert err.startswith("hat: failed: 1 of 2 candidates disagree with model: other (") and "worst cosine" in err
    assert "pass" in out and "FAIL" in out and "it was made from other weights" in out
    page = (place / "b.html").read_text()
    assert "5 of 8 query identities" in html.unescape(page)
    assert "This page holds images of persons" in page
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', page))
    # Of each candidate: five queries of 21 images have one pair each, and eight images are shown by themselves.
    assert page.count("<img ") == 2 * (5 * 2 + 8)
    assert "<i>.png" not in page and page.count("<section") == page.count("</section>") == 3
    refused, _, message = run(*arguments, "--report", "b.html")
    assert refused == 2 and "--force" in message
    assert run("model", "other", "--images", "images", "--num-images", 4, "--report", "b.html", "--force")[0] == 1
    assert (place / "b.html").read_text() != page


def test_the_page_of_images_without_pixels_holds_none():
    lost = CandidateResult("<b>", "onnxruntime fp32 cpu", "fp32", "fp32", problems=("not comparable: <size>",))
    page = VerificationReport("ref", "torch", (lost,), "images", ("a",) * 4, 1, 0).to_html()
    assert "<img " not in page and "persons" not in page
    assert "&lt;size&gt;" in page and "<b>" not in page.split("</style>")[1].replace("<b>This", "")


def test_a_candidate_that_cannot_be_opened_costs_no_other_its_result(run, place):
    (place / "broken.onnx").write_bytes(b"no graph")
    code, out, _ = run("model", "broken.onnx", "model@graph", "--images", "images", "--json")
    broken, right = json.loads(out)["candidates"]
    assert code == 1 and right["passed"] and not broken["passed"]
    assert broken["problems"][0].startswith("it cannot be opened: ")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["model", "model", "--images", "nowhere"], 2, "nowhere"),
        (["model", "model", "--images", "empty"], 1, "nothing was compared"),
        (["model", "missing.onnx", "--images", "images"], 2, "missing.onnx: there is no such checkpoint or file"),
        (["model", "model@fast", "--images", "images"], 2, "cannot read 'fast' behind the @"),
        (["model", "model", "--images", "images", "--num-ids", "4"], 2, "--data"),
        (["model", "model", "--images", "images", "--report", "no/such/report.html"], 2, "is no folder"),
        (["model", "model", "--images", "images", "--data", "market1501=images"], 2, "Market-1501 was not found"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(run, place, arguments, code, sentence):
    (place / "empty").mkdir(exist_ok=True)
    got, out, err = run(*arguments)
    assert got == code and sentence in err and err.count("\n") == 1 and out == ""
