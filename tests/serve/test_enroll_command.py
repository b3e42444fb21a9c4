"""`hat enroll` as a user meets it: exit codes, what it says, and what is in the gallery afterwards."""

import io
import signal
import zipfile

import numpy as np
import pytest
from enrolled_people import coarse_noise, save_model, write_video
from PIL import Image

from hat.embedder import Embedder
from hat.serve import Gallery


@pytest.fixture
def gallery(tmp_path):
    return tmp_path / "people.gallery"


def noise(path, seed=0, size=(64, 32)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def test_a_folder_is_enrolled_with_what_its_names_say_and_again_adds_nothing(run, world, gallery):
    answer = run("enroll", gallery, world / "people" / "bounding_box_test", "--model", world / "model", "--json")
    assert answer.code == 0, answer.err
    result = answer.json
    assert (result["num_added"], result["num_known"], result["num_bad"], result["num_records"]) == (12, 0, 0, 12)
    paths = sorted(str(path) for path in (world / "people" / "bounding_box_test").iterdir())
    with Gallery.open(gallery, read_only=True) as opened:
        records = list(opened.records())
        assert [record.source for record in records] == paths
        assert [record.pid for record in records] == [None] * 2 + [pid for pid in (2, 3, 4, 5, 6) for _ in (1, 2)]
        assert [record.camid for record in records] == [1, 2] * 6
        assert records[2].attributes == {"sequence": 1, "frame": 689} and records[2].thumbnail is None
        embeddings = opened.embeddings([record.id for record in records])
    np.testing.assert_allclose(embeddings, Embedder.open(world / "model").embed(paths), atol=1e-6)
    again = run("enroll", gallery, world / "people", "--model", world / "model", "--batch-size", 3, "--json").json
    assert (again["num_known"], again["num_added"], again["num_records"]) == (12, 14, 26)


def test_options_for_all_images(run, world, gallery, tmp_path):
    images = (noise(tmp_path / "a.png"), noise(tmp_path / "0002_c1s1_000001_00.png", 1))
    answer = run(
        "enroll", gallery, *images, "--model", world / "model",
        "--pid", 8, "--camid", 3, "--time", "2026-11-25T08:30:15", "--attribute", "site=north", "--attribute", "floor=2",
        "--thumbnail-height", 32, "--float16",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    with Gallery.open(gallery, read_only=True) as opened:
        assert opened.stored_type == "float16"
        for record in opened.get([1, 2], thumbnails=True):
            assert (record.pid, record.camid, record.time_s) == (8, 3, 1795595415.0)
            assert record.attributes["site"] == "north" and record.attributes["floor"] == 2
            with Image.open(io.BytesIO(record.thumbnail)) as small:
                assert small.size == (16, 32)
    assert run("enroll", tmp_path / "plain.gallery", tmp_path / "a.png", "--model", world / "model").code == 0
    refused = run("enroll", tmp_path / "plain.gallery", tmp_path / "a.png", "--model", world / "model", "--float16")
    assert refused.code == 2 and "--float16 is for a new gallery" in refused.err


def test_people_in_a_video(run, world, gallery, tmp_path):
    write_video(tmp_path / "yard.mp4", 12, coarse_noise)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("frame,left,top,right,bottom,pid\n0,0,0,40,90,1\n4,10,0,50,90,1\n4,60,0,999,90,2\n40,0,0,9,9,3\n")
    options = ("--boxes", boxes, "--model", world / "model", "--time", "1000", "--json")
    arguments = ("enroll", gallery, tmp_path / "yard.mp4", *options)
    answer = run(*arguments)
    assert answer.code == 0, answer.err
    assert (answer.json["num_added"], answer.json["num_bad"]) == (3, 1) and "line 5: the video has 12 frames" in answer.err
    with Gallery.open(gallery, read_only=True) as opened:
        assert [(r.source.rpartition("/")[2], r.pid, r.time_s) for r in opened.records()] == [
            ("yard.mp4#0", 1, 1000.0),
            ("yard.mp4#4", 1, pytest.approx(1000.4)),
            ("yard.mp4#4", 2, pytest.approx(1000.4)),
        ]
    assert run(*arguments).json["num_known"] == 3


def test_bad_files_are_told_a_zip_bomb_among_them_and_the_rest_is_enrolled(run, world, gallery, tmp_path, monkeypatch):
    folder = tmp_path / "mixed"
    folder.mkdir()
    noise(folder / "good.png")
    (folder / "[bold]text.jpg").write_bytes(b"hello")
    (folder / "empty.png").write_bytes(b"")
    whole = noise(folder / "cut.png", 1).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    answer = run("enroll", gallery, folder, "--model", world / "model", "--json")
    assert answer.code == 0 and (answer.json["num_added"], answer.json["num_bad"]) == (1, 3)
    assert "[bold]text.jpg: not an image" in answer.err and "empty (0 bytes)" in answer.err
    (folder / "good.png").unlink()
    (folder / "notes.doc").write_text("x")
    nothing = run("enroll", gallery, folder, "--model", world / "model")
    assert nothing.code == 1 and "cannot be used" in nothing.out and "left out" in nothing.out
    assert "nothing could be enrolled: none of 3 images can be used; the first:" in nothing.err
    assert f"not read: {folder}/notes.doc" in nothing.err
    monkeypatch.setattr("hat.data.images.MAX_FILE_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * 10_000_000)
        archive.write(noise(tmp_path / "good.png", 2), "good.png")
    answer = run("enroll", gallery, tmp_path / "bomb.zip", "--model", world / "model", "--json")
    assert answer.code == 0 and answer.json["num_added"] == 1
    assert "larger than the limit" in answer.json["bad"][0]["reason"]


def test_wrong_requests_end_with_2_and_make_no_gallery(run, world, gallery, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"PEOPLE": world / "people" / "query", "EMPTY": tmp_path / "empty"}
    for arguments, sentence in (
        (["nowhere.jpg"], "nowhere.jpg: there is no such file or folder"),
        (["EMPTY"], "there is no image to enroll in"),
        (["PEOPLE", "--time", "noon"], "--time: 'noon' is not a time"),
        (["PEOPLE", "--attribute", "red"], "--attribute is NAME=VALUE"),
        (["PEOPLE", "--attribute", "a\tb=x"], r"'a\tb' is not a name for an attribute"),
        (["PEOPLE", "--names", "best"], "names are read as auto, market, none, got 'best'"),
        (["PEOPLE", "--boxes", "boxes.csv"], "--boxes belongs to one video"),
        (["PEOPLE", "--device", "cuda:99"], "cuda"),
        (["PEOPLE", "--batch-size", "0"], "greater than or equal to 1"),
        (["PEOPLE", "--thumbnails", "--thumbnail-height", "2"], "16"),
    ):
        answer = run("enroll", gallery, *(places.get(one, one) for one in arguments), "--model", world / "model")
        assert answer.code == 2 and sentence in answer.err and not gallery.exists(), arguments


def test_the_model_is_needed_and_must_be_the_gallerys(run, world, gallery, tmp_path):
    images = world / "people" / "query"
    assert run("enroll", gallery, images).code == 2
    assert run("enroll", gallery, images, "--model", tmp_path / "none").code == 2
    assert run("enroll", gallery, images, "--model", world / "model").code == 0
    other = run("enroll", gallery, images, "--model", save_model(tmp_path / "other", seed=1))
    assert other.code == 2 and "was made by another model" in other.err and "re-embed" in other.err


def test_an_interrupt_keeps_what_was_written_and_the_rest_follows(run, world, gallery, tmp_path, monkeypatch):
    for number in range(24):
        noise(tmp_path / f"{number:03d}.png", number)
    arguments = ("enroll", gallery, tmp_path, "--model", world / "model", "--batch-size", "4")
    embed, asked = Embedder.embed, []

    def interrupted(self, images):
        asked.append(len(images))
        if len(asked) == 3:
            signal.raise_signal(signal.SIGINT)
        return embed(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "embed", interrupted)
        answer = run(*arguments)
    assert answer.code == 1 and "interrupted: 8 images were added and stay" in answer.err
    result = run(*arguments, "--json").json
    assert (result["num_known"], result["num_added"], result["num_records"]) == (8, 16, 24)


def test_known_images_with_other_labels_are_named_and_update_changes_them(run, world, gallery, tmp_path):
    picture = noise(tmp_path / "a.png")
    options = ("--model", world / "model")
    assert run("enroll", gallery, picture, *options, "--pid", 7).code == 0
    assert run("enroll", gallery, picture, *options).code == 0  # nothing is said of labels: nothing to compare
    answer = run("enroll", gallery, picture, *options, "--pid", "alice", "--camid", 2, "--json")
    assert answer.code == 1 and answer.json["num_conflicts"] == 1
    assert "pid is 7 and not 'alice', camid is unknown and not 2" in answer.json["conflicts"][0]["reason"]
    assert "--update changes them" in answer.err
    with Gallery.open(gallery, read_only=True) as opened:
        assert (opened.get([1])[0].pid, opened.get([1])[0].camid) == (7, None)
    answer = run("enroll", gallery, picture, *options, "--pid", "alice", "--camid", 2, "--update", "--json")
    assert answer.code == 0 and (answer.json["num_updated"], answer.json["num_conflicts"]) == (1, 0)
    with Gallery.open(gallery, read_only=True) as opened:
        assert (opened.get([1])[0].pid, opened.get([1])[0].camid) == ("alice", 2)
    # One image twice with two identities.
    (tmp_path / "people.csv").write_text("path,pid\na.png,alice\na.png,8\n")
    answer = run("enroll", gallery, tmp_path / "people.csv", *options, "--json")
    assert answer.code == 1 and (answer.json["num_known"], answer.json["num_conflicts"]) == (2, 1)
