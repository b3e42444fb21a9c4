"""A gallery belongs to the model that made it; another is refused with every difference, a verified compatible model is not."""

import dataclasses
import json

import pytest
from gallery_cases import BINDING, new_records, open_small, unit_rows

from hat.errors import UsageError, WorkError
from hat.preprocessing import Preprocessing
from hat.serve import CompatibleModel, Gallery
from hat.serve.gallery.binding import binding_from_json, binding_to_json, read_compatible_model

COMPATIBLE = dataclasses.replace(BINDING, fingerprint="c" * 64, precision="int8")
VERIFIED = CompatibleModel(fingerprint="c" * 64, precision="int8", worst_cosine=0.998)


def test_a_gallery_needs_its_model_and_spells_out_the_differences_of_another(tmp_path):
    with pytest.raises(UsageError, match="which model its embeddings come from: give a binding"):
        Gallery.open(tmp_path / "g", create=True)
    assert not list(tmp_path.iterdir())
    open_small(tmp_path / "g").close()
    other = dataclasses.replace(
        BINDING,
        fingerprint="d" * 64,
        name="duke",
        model={"backbone": {"name": "resnet101"}, "depths": [0, 4, 4, 4]},
        preprocessing=Preprocessing(height=384, width=128),
        source_sha256="e" * 64,
        precision="fp16",
        embed_dim=4,
    )
    with pytest.raises(UsageError) as caught:
        Gallery.open(tmp_path / "g", binding=other)
    for difference in (
        "model.backbone.name: resnet50, resnet101",
        "preprocessing.height: 256, 384",
        "width of an embedding: 8, 4",
        "trained weights: market (bbbbbbbbbbbb), duke (eeeeeeeeeeee)",
        "precision: fp32, fp16",
        "hat gallery re-embed",
    ):
        assert difference in str(caught.value)
    assert "depths" not in str(caught.value) and "hat gallery accept" not in str(caught.value)
    Gallery.open(tmp_path / "g").close()  # who brings no model may look into it


def test_a_verified_compatible_model_is_accepted_for_good(tmp_path):
    with open_small(tmp_path / "g") as gallery, open_small(tmp_path / "g", read_only=True) as reader:
        gallery.add(unit_rows(1), new_records("a"))
        with pytest.raises(UsageError, match=r"precision: fp32, int8.*hat gallery accept"):
            gallery.check_model(COMPATIBLE)
        with pytest.raises(UsageError, match="read only"):
            reader.accept(VERIFIED)
        gallery.accept(dataclasses.replace(VERIFIED, worst_cosine=0.9))
        gallery.accept(CompatibleModel(fingerprint="f" * 64, precision="fp16", worst_cosine=0.9999))
        gallery.accept(VERIFIED)  # verified again
        gallery.check_model(COMPATIBLE)
        reader.check_model(COMPATIBLE)  # which was open before
    with Gallery.open(tmp_path / "g", binding=COMPATIBLE) as gallery:
        assert gallery.binding.fingerprint == "a" * 64 and len(gallery) == 1
        accepted = [(one.fingerprint[0], one.worst_cosine) for one in gallery.binding.compatible_models]
        assert accepted == [("f", 0.9999), ("c", 0.998)]
        with pytest.raises(UsageError, match="was made by another model"):
            gallery.check_model(dataclasses.replace(COMPATIBLE, fingerprint="9" * 64))


def test_binding_from_json_reads_what_earlier_versions_called_siblings():
    binding = dataclasses.replace(BINDING, compatible_models=(VERIFIED,))
    text = binding_to_json(binding).replace('"compatible_models"', '"siblings"')
    assert '"siblings"' in text and binding_from_json(text, "g") == binding


def report_with(change, path):
    """What ``hat verify --report-json`` writes of two files, the second of which is `COMPATIBLE`."""
    checks = [{"level": "embedding", "name": "worst cosine", "value": 0.991, "passed": True}]
    report = {
        "passed": True,
        "reference": "market",
        "reference_fingerprint": BINDING.fingerprint,
        "num_images": 32,
        "candidates": [
            {"name": "other", "fingerprint": None, "passed": False, "checks": []},
            {"name": "market-int8", "fingerprint": COMPATIBLE.fingerprint, "passed": True, "checks": checks},
        ],
    }
    change(report)
    path.write_text(json.dumps(report))
    return path


def test_read_compatible_model_takes_the_worst_cosine_and_refuses_other_and_failed_reports(tmp_path):
    path = report_with(lambda report: None, tmp_path / "verify.json")
    expected = dataclasses.replace(VERIFIED, worst_cosine=0.991)
    assert read_compatible_model(path, BINDING, COMPATIBLE, min_cosine=0.99) == expected
    for candidate, sentence in (
        (BINDING, "nothing to accept"),
        (dataclasses.replace(COMPATIBLE, source_sha256="e" * 64), "is of other weights"),
        (dataclasses.replace(COMPATIBLE, preprocessing=Preprocessing(height=384)), "prepares images in another way"),
    ):
        with pytest.raises(UsageError, match=sentence):
            read_compatible_model(path, BINDING, candidate, min_cosine=0.99)
    with pytest.raises(UsageError, match="No such file"):
        read_compatible_model(tmp_path / "none.json", BINDING, COMPATIBLE, min_cosine=0.99)
    for change, error, sentence in (
        (lambda report: report.update(reference_fingerprint="1" * 64), UsageError, "is not the model that made the gallery"),
        (lambda report: report.update(reference_fingerprint=None), UsageError, "names no fingerprints"),
        (lambda report: report["candidates"].pop(), UsageError, "none of its candidates is this file"),
        (lambda report: report["candidates"][1].update(passed=False), WorkError, "did not pass"),
        (lambda report: report["candidates"][1].update(passed="yes"), UsageError, "no report of hat verify"),
        (lambda report: report["candidates"][1]["checks"][0].update(value=0.97), WorkError, "cosine of 0.9700"),
        (lambda report: report["candidates"][1]["checks"][0].update(value=float("nan")), WorkError, "cosine of nan"),
        (lambda report: report["candidates"][1]["checks"][0].update(value=None), WorkError, "cosine of nan"),
        (lambda report: report["candidates"][1].update(checks="none"), UsageError, "no report of hat verify"),
        (lambda report: report.update(num_images=31), UsageError, "31 images were compared"),
        (lambda report: report.clear(), UsageError, "no report of hat verify"),
    ):
        report_with(change, path)
        with pytest.raises(error, match=sentence):
            read_compatible_model(path, BINDING, COMPATIBLE, min_cosine=0.99)
