"""`hat gallery` as a user meets it: what it shows, what it removes, what it rebuilds, what it accepts and what it refuses."""

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enrolled_people import coarse_noise, new_gallery, save_model, write_video
from gallery_cases import new_record
from PIL import Image

from hat.embedder import Embedder
from hat.runtime import open_runtime, runtime_info
from hat.serve import Gallery, Item, binding_of, calibrate_thresholds, enroll_images
from hat.serve.enroll.image_sources import ImageSources


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("galleries") / "whole.gallery"
    with new_gallery(path, Embedder.open(world / "model"), [world / "people" / "bounding_box_test"], thumbnail_height=48):
        return path


@pytest.fixture
def gallery(whole, tmp_path):
    """A copy that a test may change."""
    return shutil.copy(whole, tmp_path / "people.gallery")


@pytest.fixture
def run(call):
    return lambda *arguments: call("gallery", *arguments)


def test_info_list_and_show(run, world, gallery, tmp_path):
    result = run("info", gallery, "--json").json
    assert (result["num_records"], result["num_identities"], result["stored_type"]) == (12, 5, "float32")
    assert result["by_pid"] == {"2": 2, "3": 2, "4": 2, "5": 2, "6": 2} and result["num_without_pid"] == 2
    assert result["by_camid"] == {"1": 6, "2": 6}
    fingerprint = runtime_info(open_runtime(world / "model")).fingerprint
    assert result["model"]["fingerprint"] == fingerprint and result["num_bytes"] > 0
    table = run("info", gallery, "--model", world / "model")
    assert table.code == 0 and "made it" in table.out and "5, and 2 images of unknown people" in table.out
    other = run("info", gallery, "--model", save_model(tmp_path / "other", seed=1))
    assert other.code == 2 and "was made by another model" in other.err
    result = run("list", gallery, "--pid", 3, "--json").json
    assert result["num_matching"] == 2 and [record["pid"] for record in result["records"]] == [3, 3]
    page = run("list", gallery, "--offset", 4, "--limit", 3, "--json").json
    assert [record["id"] for record in page["records"]] == [5, 6, 7] and page["num_matching"] == 12
    assert "3 of 12 records" in run("list", gallery, "--limit", 3).out
    shown = run("show", gallery, 3, "--json").json
    assert (shown["pid"], shown["camid"], shown["has_thumbnail"]) == (2, 1, True)
    assert "embedding" not in shown and "frame = 689" in run("show", gallery, 3).out
    assert run("show", gallery, 3, "--picture", tmp_path / "p.png").code == 0
    with Image.open(tmp_path / "p.png") as image:
        assert image.height == 48
    (tmp_path / "p.png").write_bytes(b"somebody's")
    assert run("show", gallery, 3, "--picture", tmp_path / "p.png").code == 2
    assert (tmp_path / "p.png").read_bytes() == b"somebody's"
    missing = run("show", gallery, 999)
    assert missing.code == 2 and "999" in missing.err


def test_remove_by_id_by_person_and_by_a_retention_period(run, gallery):
    assert run("remove", gallery, "--older-than", 1, "--json").json["num_removed"] == 0
    with Gallery.open(gallery) as opened:
        month_ago = [new_record(name, enrolled_s=time.time() - 31 * 86400) for name in ("a", "b")]
        opened.add(opened.embeddings([1, 2]), month_ago)
        assert run("remove", gallery, "--older-than", 30, "--vacuum", "--json").json["num_removed"] == 2
        assert opened.ids().tolist() == list(range(1, 13))
    assert run("remove", gallery, "--id", 1, "--id", 4, "--json").json["num_removed"] == 2
    expected = {"gallery": str(gallery), "num_removed": 2, "num_records": 8, "vacuumed": False}
    assert run("remove", gallery, "--pid", 3, "--json").json == expected
    with Gallery.open(gallery, read_only=True) as opened:
        assert opened.ids().tolist() == [2, 3, 7, 8, 9, 10, 11, 12]
    assert "hat gallery vacuum" in run("remove", gallery, "--pid", 4).out
    assert run("vacuum", gallery).code == 0
    assert run("remove", gallery, "--pid", 99, "--json").json["num_removed"] == 0
    wrong = run("remove", gallery, "--id", 2, "--id", 999)
    with Gallery.open(gallery, read_only=True) as opened:
        assert wrong.code == 2 and "999" in wrong.err and len(opened) == 6
    for conditions in ([], ["--pid", 1, "--older-than", 3], ["--id", 1, "--pid", 1]):
        answer = run("remove", gallery, *conditions)
        assert answer.code == 2 and "exactly one of --id, --pid and --older-than" in answer.err


def test_a_gallery_is_rebuilt_by_another_model(run, world, gallery, tmp_path):
    other = save_model(tmp_path / "other", seed=1)
    scene = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(scene)
    embedder = Embedder.open(world / "model")
    with Gallery.open(gallery, binding=binding_of(runtime_info(embedder.runtime))) as opened:
        labels = {"pid": 77, "camid": 3, "time_s": 5.0, "attributes": {"a": True}}
        boxed = Item(source=str(scene), read=scene.read_bytes, box=(5, 5, 60, 85), **labels)
        upload = Item(source="upload.jpg", read=(world / "people/query/0002_c1s1_000664_00.jpg").read_bytes)
        changed = Item(source=str(scene), read=sorted((world / "people" / "query").iterdir())[3].read_bytes)
        enroll_images(opened, embedder, [boxed, upload, changed], thumbnail_height=48)
    new = tmp_path / "new.gallery"
    answer = run("re-embed", gallery, new, "--model", other, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["num_records"], [one["source"] for one in answer.json["gone"]]) == (13, ["upload.jpg", str(scene)])
    assert "another image than the one that was enrolled" in answer.json["gone"][1]["reason"]
    with Gallery.open(new, read_only=True) as rebuilt, Gallery.open(gallery, read_only=True) as old:
        assert rebuilt.binding.fingerprint == runtime_info(open_runtime(other)).fingerprint
        for before, after in zip(old.records(), rebuilt.records(), strict=False):
            # The date of enrollment too, or what must be gone after a week would stay for another one.
            assert replace(after, id=before.id) == before
        with Image.open(scene) as image:
            expected = Embedder.open(other).embed([image.convert("RGB").crop((5, 5, 60, 85))])
        np.testing.assert_allclose(rebuilt.embeddings([13]), expected, atol=1e-6)
        assert rebuilt.get([13], thumbnails=True)[0].thumbnail is not None
        assert len(old) == 15
    assert not list(tmp_path.glob("*.partial*"))
    again = run("re-embed", gallery, new, "--model", other)
    assert again.code == 2 and "is there already" in again.err


def test_a_rebuild_that_was_stopped_takes_over_what_was_changed_in_between(run, world, gallery, tmp_path, monkeypatch):
    from hat.serve.enroll import enrolling

    add = Gallery.add_new
    calls = []

    def stop_at_the_second(self, *arguments):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return add(self, *arguments)

    new = tmp_path / "new.gallery"
    rebuild = ("re-embed", gallery, new, "--model", world / "model", "--batch-size", 6)
    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "add_new", stop_at_the_second)
        stopped = run(*rebuild)
    assert stopped.code == 1 and "goes on from 6 images" in stopped.err
    other_type = run(*rebuild, "--float16")
    assert other_type.code == 2 and "was begun in float32" in other_type.err
    assert run("remove", gallery, "--pid", 2).code == 0 and run("label", gallery, "--pid", 3, "--to", "bob").code == 0

    reembedded = enrolling.enroll_images

    def remove_one_meanwhile(*arguments, **options):
        done = reembedded(*arguments, **options)
        assert run("remove", gallery, "--id", 12).code == 0
        return done

    monkeypatch.setattr(enrolling, "enroll_images", remove_one_meanwhile)
    assert run(*rebuild).code == 0
    with Gallery.open(new, read_only=True) as rebuilt, Gallery.open(gallery, read_only=True) as old:
        assert {replace(one, id=0) for one in map(_hashable, rebuilt.records())} == {
            replace(one, id=0) for one in map(_hashable, old.records())
        }
        assert len(rebuilt) == 9 and "bob" in {record.pid for record in rebuilt.records()}


def _hashable(record):
    return replace(record, attributes=tuple(sorted(record.attributes.items())))


def test_people_of_a_video_are_rebuilt_from_it(run, world, tmp_path):
    write_video(tmp_path / "yard.mp4", 8, coarse_noise)
    (tmp_path / "boxes.csv").write_text("frame,left,top,right,bottom,pid\n0,0,0,40,90,1\n4,10,0,50,90,1\n4,60,0,110,90,2\n")
    sources = ImageSources([str(tmp_path / "yard.mp4")], boxes=tmp_path / "boxes.csv")
    embedder = Embedder.open(world / "model")
    with new_gallery(tmp_path / "a.gallery", embedder) as opened:
        items = list(sources.items())
        enroll_images(opened, embedder, [items[1], items[2], items[0]])
        embeddings = opened.embeddings([1, 2, 3])
    answer = run("re-embed", tmp_path / "a.gallery", tmp_path / "b.gallery", "--model", world / "model", "--json")
    assert answer.code == 0 and answer.json["num_records"] == 3, answer.err
    with Gallery.open(tmp_path / "b.gallery", read_only=True) as rebuilt:
        assert [record.source.rpartition("#")[2] for record in rebuilt.records()] == ["4", "4", "0"]
        assert [record.pid for record in rebuilt.records()] == [1, 2, 1]
        np.testing.assert_allclose(rebuilt.embeddings([1, 2, 3]), embeddings, atol=1e-6)
    (tmp_path / "yard.mp4").unlink()
    gone = run("re-embed", tmp_path / "a.gallery", tmp_path / "c.gallery", "--model", world / "model")
    assert gone.code == 1 and "none of 3 images is there any more" in gone.err and "there is no such file" in gone.err
    assert not list(tmp_path.glob("c.gallery*"))


def test_a_real_report_of_hat_verify_is_understood(call, world, gallery, tmp_path, monkeypatch):
    compatible, path = open_runtime(world / "model", "cpu", "bf16"), tmp_path / "verify.json"
    models = (world / "model", f"{world / 'model'}@bf16")
    verified = call("verify", *models, "--images", world / "people" / "bounding_box_test", "--report-json", path, "--json")
    report = json.loads(path.read_text())
    assert report["candidates"][0]["fingerprint"] == runtime_info(compatible).fingerprint, verified.err
    report["num_images"], report["candidates"][0]["passed"] = 256, True  # twelve images prove nothing
    path.write_text(json.dumps(report))
    binding = binding_of(runtime_info(compatible))
    with Gallery.open(gallery, read_only=True) as opened:
        assert opened.binding.differences(binding)
    accept = ("gallery", "accept", gallery, "--report", path, "--model")
    own = call(*accept, world / "model")
    assert own.code == 2 and "nothing to accept" in own.err
    monkeypatch.setattr("hat.runtime.open_runtime", lambda path: compatible)
    answer = call(*accept, "x", "--min-cosine", "0.5", "--json")
    assert answer.code == 0, answer.err
    (cosine,) = (check["value"] for check in report["candidates"][0]["checks"] if check["name"] == "worst cosine")
    assert (answer.json["worst_cosine"], answer.json["precision"]) == (min(1, cosine), "bf16")
    with Gallery.open(gallery, binding=binding, read_only=True) as opened:
        assert opened.binding.differences(binding) == []
    assert f"worst cosine {min(1, cosine):.6f}" in call("gallery", "info", gallery).out


def test_calibrate_prints_what_the_library_finds(run, gallery, tmp_path):
    result = run("calibrate", gallery, "--json").json
    with Gallery.open(gallery, read_only=True) as opened:
        expected = calibrate_thresholds(opened)
    assert [result[key] for key in ("num_identities", "num_pairs", "num_genuine_pairs")] == [5, 40, 5]
    assert [row["similarity"] for row in result["roc"]] == [point.similarity for point in expected.roc()] != []
    table = run("calibrate", gallery, "--rate", 0.2, "--rate", 0.5).out
    assert f"{expected.threshold_at(0.2):.4f}" in table and f"{expected.threshold_at(0.5):.4f}" in table
    assert "all pairs of 10 images of 5 known people" in table and "any among 12" in table
    too_low = run("calibrate", gallery, "--rate", 0.001)
    assert too_low.code == 2 and "cannot be shown" in too_low.err
    assert run("calibrate", gallery, "--rate", 7).code == 2
    for pid in (2, 3, 4, 5):
        run("remove", gallery, "--pid", pid)
    unknown = run("calibrate", gallery)
    assert unknown.code == 2 and "knows 1 identities" in unknown.err


def test_calibrate_draws(run, gallery, tmp_path):
    pytest.importorskip("matplotlib")
    names = ("roc.png", "roc.txt", "no/roc.png", "roc.png")
    assert [run("calibrate", gallery, "--picture", tmp_path / name).code for name in names] == [0, 2, 2, 2]
    with Image.open(tmp_path / "roc.png") as picture:
        assert picture.width > picture.height > 300


@pytest.mark.parametrize("command", ["info", "list", "show", "remove", "vacuum", "re-embed", "accept", "calibrate"])
def test_every_subcommand_has_examples_and_json_and_refuses_what_is_not_there(run, command, tmp_path, world):
    text = run(command, "--help").out
    assert f"hat gallery {command} " in text and "Examples:" in text and "--json" in text
    rest = {
        "show": [1],
        "remove": ["--pid", 1],
        "re-embed": [tmp_path / "new.gallery", "--model", world / "model"],
        "accept": ["--report", "r.json", "--model", world / "model"],
    }
    answer = run(command, tmp_path / "none.gallery", *rest.get(command, []))
    assert answer.code == 2 and re.search(r"none\.gallery", answer.err)
    assert list(tmp_path.iterdir()) == []


def test_label_relabels_renames_and_merges(run, gallery, tmp_path):
    log = tmp_path / "audit.log"
    result = run("label", gallery, "--id", 1, "--id", 2, "--to", "alice", "--audit", log, "--json").json
    assert (result["num_changed"], result["num_records"], result["num_merged"]) == (2, 2, 0)
    assert run("label", gallery, "--pid", "alice", "--to", "bob", "--audit", log).code == 0  # renamed
    answer = run("label", gallery, "--pid", 2, "--to", "bob", "--audit", log)
    assert answer.code == 0 and "2 of 2 records changed; bob had 2 images before" in answer.out  # merged
    assert run("info", gallery, "--json").json["by_pid"] == {"bob": 4, "3": 2, "4": 2, "5": 2, "6": 2}
    assert "bob" in run("list", gallery, "--pid", "bob").out
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["num_merged"] for line in lines] == [0, 0, 2] and all(line["action"] == "label" for line in lines)
    assert not any("bob" in line for line in log.read_text().splitlines())  # counts alone
    assert run("label", gallery, "--pid", 3, "--unknown", "--camid", 9, "--time", "12.5", "--attribute", "hat=red").code == 0
    (record, _) = run("list", gallery, "--attribute", "hat=red", "--json").json["records"]
    assert (record["pid"], record["camid"], record["time_s"]) == (None, 9, 12.5)
    assert run("remove", gallery, "--pid", "bob", "--json").json["num_removed"] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_label_changes_nothing_that_the_audit_log_cannot_hold(run, gallery):
    before = run("list", gallery, "--json").json
    answer = run("label", gallery, "--id", 1, "--to", "alice", "--audit", "/dev/full")
    assert answer.code == 1 and "/dev/full: cannot be written" in answer.err
    assert run("list", gallery, "--json").json == before


def test_label_refuses_what_is_unclear(run, gallery):
    before = run("list", gallery, "--json").json
    for arguments, sentence in (
        (["--to", "x"], "either --id or --pid"),
        (["--id", "1", "--pid", "2", "--to", "x"], "either --id or --pid"),
        (["--id", "1"], "say what they are to have"),
        (["--id", "1", "--to", "x", "--unknown"], "give one of them"),
        (["--id", "99", "--to", "x"], "no record with id 99"),
        (["--pid", "nobody", "--to", "x"], "has no image of nobody"),
        (["--id", "1", "--to", "-1"], "--to: -1 is junk"),
        (["--id", "1", "--to", "x", "--audit", "/nowhere/log"], "cannot be opened"),
    ):
        answer = run("label", gallery, *arguments)
        assert answer.code == 2 and sentence in answer.err
    assert run("list", gallery, "--json").json == before


def test_copy_holds_what_is_still_in_the_log_and_refuses_a_damaged_gallery(run, world, gallery, tmp_path):
    with Gallery.open(gallery) as opened:
        (record,) = opened.get([1], thumbnails=True)
        embeddings = opened.embeddings(list(range(1, 13)))
        for number in range(20):  # as a service does, which goes on running
            opened.update([number % 12 + 1], {"attributes": {"seen": number}})
        torn = shutil.copy(gallery, tmp_path / "torn.gallery")
        result = run("copy", gallery, tmp_path / "copy.gallery", "--json").json
        expected = list(opened.records())
    assert result["num_records"] == 12 and [path.name for path in tmp_path.glob("copy*")] == ["copy.gallery"]
    with Gallery.open(tmp_path / "copy.gallery") as copied, Gallery.open(torn, read_only=True) as incomplete:
        assert list(copied.records()) == expected != list(incomplete.records())
        assert copied.get([1], thumbnails=True)[0].thumbnail == record.thumbnail is not None
        np.testing.assert_array_equal(copied.embeddings(list(range(1, 13))), embeddings)
        copied.remove(ids=[1])
    again = run("copy", gallery, tmp_path / "copy.gallery")
    assert again.code == 2 and "is there already" in again.err
    content = bytearray(gallery.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = b"\xff" * 4096
    gallery.write_bytes(content)
    answer = run("copy", gallery, tmp_path / "copy2.gallery")
    assert answer.code == 1 and "damaged" in answer.err and not (tmp_path / "copy2.gallery").exists()
