"""Reports are told apart, read with suspicion, and shown with their limits."""

import copy
import json
import os
from pathlib import Path

import pytest

from hat.demo.pages import report
from hat.demo.pages.report import benchmark_html, check_report_paths, find_reports, reports_html, verification_html
from hat.errors import UsageError


def check(name, value, limit, sense, level="embedding", passed=True):
    figure = {"level": level, "name": name, "value": value, "limit": limit, "sense": sense, "passed": passed}
    return {**figure, "reason": "because", "note": ""}


def candidate(name, *checks, passed=True, problems=(), hints=()):
    told = {"problems": list(problems), "hints": list(hints), "checks": list(checks)}
    return {"name": name, "runtime": "onnxruntime", "passed": passed, **told}


VERIFICATION = {
    **{"passed": False, "reference": "runs/market", "num_queries": 40, "num_gallery": 200, "machine": "a machine"},
    "candidates": [
        candidate("fp16.onnx", check("worst cosine", 0.9995, 0.999, ">="), check("relative shift", 0.01, 0.05, "<=")),
        candidate(
            "<b>int8</b>.onnx",
            check("worst cosine", 0.9, 0.98, ">=", passed=False),
            check("change of mAP", None, 0.01, "<=", "retrieval", passed=False),
            **{"passed": False, "problems": ["it gave <i>nothing</i>"], "hints": ["look there"]},
        ),
    ],
}


def measured(name, images_per_s, ratio, p50_s, utilization, **more):
    speed = {"mode": "embedding", "batch": 8, "images_per_s": images_per_s, "ratio": ratio, "utilization": utilization}
    speed |= {"p50_s": p50_s, "p95_s": 2 * p50_s, "p99_s": 3 * p50_s}
    return {"name": name, "runtime": "torch", "precision": "fp32", "peak_bytes": 2**30, "speeds": [speed], **more}


BENCHMARK = {
    **{"peaks": {}, "machine": "a machine", "is_busy": True},
    "candidates": [
        measured("runs/market", 20.0, 1.0, 0.4, 0.25, accuracy={"mINP": 0.25, "num_queries": 3, "rank1": 0.75, "mAP": 0.5}),
        measured("int8.onnx", 80.0, 4.0, 0.1, None, accuracy={}),
    ],
}


def write(path, content, age_s=0):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (1_700_000_000 - age_s,) * 2)
    return path


def test_reports_are_found_the_newest_first(tmp_path):
    old = write(tmp_path / "a.json", VERIFICATION, age_s=100)
    new = write(tmp_path / "b.json", BENCHMARK)
    write(tmp_path / "other.json", {"candidates": []})
    write(tmp_path / "broken.json", "{")
    found = find_reports([tmp_path])
    assert [(one.path, one.kind) for one in found] == [(new, "benchmark"), (old, "verification")]
    assert [one.path for one in find_reports([old])] == [old]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"candidates": []}', '{"candidates": [1], "reference": "a"}', "[" * 100_000, "\xff"]
)
def test_a_file_that_is_no_report_is_refused_by_name(tmp_path, content):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(UsageError, match=r"a\.json"):
        find_reports([path])
    with pytest.raises(UsageError, match="no report"):
        check_report_paths([tmp_path])


def test_a_missing_or_enormous_report_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no such report"):
        check_report_paths([tmp_path / "none.json"])
    monkeypatch.setattr(report, "MAX_REPORT_BYTES", 100)
    with pytest.raises(UsageError, match="larger than"):
        find_reports([write(tmp_path / "large.json", VERIFICATION)])


def test_a_verification_shows_verdicts_limits_and_how_much_of_them_is_used():
    page = verification_html(VERIFICATION)
    assert ">pass<" in page and ">fail<" in page and "Not every candidate" in page
    # 0.9995 against at least 0.999 uses half of it, 0.01 against at most 0.05 a fifth; 0.9 against 0.98 more than all of it.
    assert [share in page for share in ("50 %", "20 %", ">over<")] == [True] * 3
    assert page.count("not a number") == 2
    assert "it gave &lt;i&gt;nothing" in page and "look there" in page and "<b>int8" not in page


def test_a_benchmark_shows_rates_ratios_and_that_the_machine_was_busy():
    page = benchmark_html(BENCHMARK)
    assert "80.0" in page and "4.00×" in page and "width: 25.0%" in page and "width: 100.0%" in page
    assert "Others were at work" in page and "1,024" in page
    assert "mAP 50 %, Rank-1 75 %, mINP 25 %" in page, "in one order, whatever order the file has"


def test_the_page_shows_the_newest_of_each_kind_and_counts_the_older(tmp_path):
    write(tmp_path / "old.json", VERIFICATION, age_s=100)
    write(tmp_path / "new.json", {**VERIFICATION, "reference": "runs/newer"})
    write(tmp_path / "speed.json", BENCHMARK)
    page = reports_html([tmp_path])
    assert "runs/newer" in page and "runs/market</strong>" not in page and "1 older report not shown" in page
    assert "Images in a second" in page
    assert "hat verify" in reports_html([])


def test_a_report_that_breaks_off_gives_a_sentence(tmp_path):
    broken = copy.deepcopy(VERIFICATION)
    del broken["candidates"][0]["checks"][0]["limit"]
    path = write(tmp_path / "a.json", broken)
    assert "a.json cannot be shown" in reports_html([path])
    path.unlink()
    assert "no such report" in reports_html([Path(path)])
