"""What is written: layout, names, counts, the same bytes every time, and nothing at all when something is wrong."""

import io
import json
import re

import pytest
from PIL import Image

from hat.cli import main
from hat.data.synth import draw_distractor, draw_person, generate, generate_dataset
from hat.data.synth.camera import make_camera
from hat.errors import UsageError, WorkError

TINY = {"num_ids": 5, "num_cameras": 3, "images_per_camera": 2, "size": (48, 24), "seed": 4}
TINIEST = {"num_ids": 2, "num_cameras": 2, "images_per_camera": 2, "size": (32, 16), "num_workers": 1}
NAME = re.compile(r"(\d{4})_c(\d)s1_(\d{6})_00\.jpg")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "drawn"
    generate_dataset(out, **TINY, num_distractors=5, num_workers=1)
    return out


def labels(folder):
    matches = [NAME.fullmatch(path.name) for path in sorted(folder.iterdir())]
    return [(int(match[1]), int(match[2])) for match in matches]


def test_generate_dataset_layout_of_market_1501(tiny):
    assert sorted(path.name for path in tiny.iterdir()) == ["bounding_box_test", "bounding_box_train", "query", "synth.json"]
    cameras = [1, 2, 3]
    assert labels(tiny / "bounding_box_train") == [(pid, cam) for pid in (1, 2) for cam in cameras for _ in range(2)]
    assert labels(tiny / "query") == [(pid, cam) for pid in (3, 4, 5) for cam in cameras]
    gallery = labels(tiny / "bounding_box_test")
    assert [entry for entry in gallery if entry[0] != 0] == [(pid, cam) for pid in (3, 4, 5) for cam in cameras]
    assert sorted(cam for pid, cam in gallery if pid == 0) == [1, 1, 2, 2, 3]
    for path in tiny.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (24, 48))
            image.load()
    manifest = json.loads((tiny / "synth.json").read_text())
    assert manifest["generator"] == "hat synth"
    assert (manifest["parameters"]["seed"], manifest["parameters"]["size"]) == (4, [48, 24])
    assert manifest["counts"] == {"num_train_images": 12, "num_query_images": 9, "num_gallery_images": 14}
    assert list(manifest["identities"]) == ["0001", "0002", "0003", "0004", "0005"]
    assert len(manifest["cameras"]) == 3


def test_generate_dataset_same_bytes_from_any_number_of_workers(tiny, tmp_path):
    seen = []
    summary = generate_dataset(
        tmp_path / "b", **TINY, num_distractors=5, num_workers=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert summary.num_workers == 2
    assert contents(tmp_path / "b") == contents(tiny)
    assert seen[-1] == (35, 35) and seen == sorted(seen)


@pytest.mark.parametrize(("name", "place"), [("0004_c2", (3, 1, 0)), ("0001_c3", (0, 2, 0)), ("0000_c3", None)])
def test_generate_dataset_file_is_what_is_drawn_by_itself(name, place, tiny):
    path = min(tiny.rglob(f"{name}*"), key=lambda path: path.name)
    camera = int(name[6]) - 1
    drawn = draw_person(*place, seed=4, size=(48, 24)) if place else draw_distractor(2, camera, seed=4, size=(48, 24))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=make_camera(4, camera).quality)
    assert path.read_bytes() == buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_ids": 1}, "number of identities must be from 2 to 9999, got 1"),
        ({"num_ids": 10_000}, "number of identities must be from 2 to 9999"),
        ({"num_cameras": 1}, "number of cameras must be from 2 to 99, got 1"),
        ({"num_cameras": 100}, "number of cameras"),
        ({"images_per_camera": 1}, "images per camera must be from 2 to 100"),
        ({"num_train_ids": 0}, "training identities must be from 1 to 4, got 0"),
        ({"num_train_ids": 5}, "training identities must be from 1 to 4, got 5"),
        ({"num_distractors": -1}, "number of distractors"),
        ({"size": (16, 24)}, "image height must be from 32 to 1024, got 16"),
        ({"size": (64, 8)}, "image width must be from 16 to 512, got 8"),
        ({"seed": -1}, "seed must be from 0"),
        ({"num_workers": 0}, "number of workers must be from 1 to 256"),
        ({"num_ids": 9999, "num_cameras": 99, "images_per_camera": 100}, "at most 2,000,000 images"),
    ],
)
def test_generate_dataset_refuses_parameters_out_of_bounds(change, message, tmp_path):
    with pytest.raises(UsageError, match=re.escape(message)):
        generate_dataset(tmp_path / "d", **TINY | change)
    assert not list(tmp_path.iterdir())


def test_generate_dataset_never_replaces_a_folder_with_other_things(tmp_path):
    out = tmp_path / "e"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    foreign, ours = "is not empty and holds no data set of hat synth", r"holds thesis\.txt, which hat synth did not write"
    for manifest, message in (("", foreign), ('{"generator": "other"}', foreign), ('{"generator": "hat synth"}', ours)):
        if manifest:
            (out / "synth.json").write_text(manifest)
        with pytest.raises(UsageError, match=message):
            generate_dataset(out, **TINY, force=True)
    assert (out / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file or a link"):
        generate_dataset(tmp_path / "file", **TINY, force=True)


def test_generate_dataset_force_replaces_a_drawn_data_set(tmp_path):
    out = tmp_path / "f"
    out.mkdir()
    (out / "synth.json").write_text('{"generator": "hat synth"}')
    with pytest.raises(UsageError, match="replace it with --force"):
        generate_dataset(out, **TINIEST)
    generate_dataset(out, **TINIEST, force=True)
    assert len(list(out.rglob("*.jpg"))) == 2 * 2 * 2
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_generate_dataset_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "g"
    out.mkdir()
    generate_dataset(out, **TINIEST)  # an empty folder is filled
    before = contents(out)
    drawn = []

    def full_disk(*arguments, **options):
        drawn.append(arguments)
        if len(drawn) > 5:
            raise OSError(28, "No space left on device")
        return draw_person(*arguments, **options)

    monkeypatch.setattr(generate, "draw_person", full_disk)
    with pytest.raises(WorkError, match="cannot be written: No space left on device"):
        generate_dataset(out, **TINIEST, force=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_synth_command_writes_reports_and_refuses(tiny, tmp_path, capsys, monkeypatch):
    def synth(out, options):
        monkeypatch.setattr("sys.argv", ["hat", "synth", str(out), *options.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    out = tmp_path / "h"
    options = "--ids 5 --cams 3 --images-per-camera 2 --size 48x24 --seed 4 --distractors 5"
    code, printed, errors = synth(out, f"{options} --json")
    assert code == 0, errors
    result = json.loads(printed)
    assert (result["num_images"], result["num_train_images"], result["num_query_images"]) == (35, 12, 9)
    assert result["size"] == [48, 24]
    assert contents(out) == contents(tiny)

    code, printed, errors = synth(out, options)
    assert (code, printed) == (2, "") and "replace it with --force" in errors

    code, printed, errors = synth(out, "--ids 3 --cams 2 --images-per-camera 2 --size 32x16 --force --train-ids 2")
    assert code == 0 and "train" in printed, errors
    assert len(labels(out / "query")) == 2

    code, _, errors = synth(tmp_path / "i", "--size big")
    assert code == 2
    assert "--size is height x width in pixels, like 256x128, got 'big'" in errors
    assert not (tmp_path / "i").exists()
