"""People in a video: the right frame, the right part of it, and videos that are none."""

import io
import sys

import numpy as np
import pytest
from enrolled_people import write_video
from PIL import Image

from hat.errors import DataError, ImageError, MissingExtraError, UsageError
from hat.serve.enroll.image_sources import ImageSources
from hat.serve.enroll.items import Labels
from hat.serve.enroll.video import read_boxes, read_frames, video_items
from hat.serve.gallery.person_crops import content_hash

av = pytest.importorskip("av")

HEIGHT, WIDTH, NUM_FRAMES = 96, 128, 30


def frame_of(number):
    """Frame `number` is as bright as its number says, with a white patch at the upper left."""
    pixels = np.full((HEIGHT, WIDTH, 3), 8 * number, dtype=np.uint8)
    pixels[:32, :32] = 255
    return pixels


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "yard.mp4", NUM_FRAMES, frame_of)


def table(folder, text):
    path = folder / "boxes.csv"
    path.write_text(text)
    return path


def decoded(item):
    with Image.open(io.BytesIO(item.read())) as image:
        return np.asarray(image.convert("RGB"))


def brightness(item):
    return round(float(decoded(item).mean()) / 8)


def test_frames_by_number_with_their_boxes(video, tmp_path):
    boxes = table(
        tmp_path,
        "frame,left,top,right,bottom,pid,camid,track\n0,40,40,60,80,1,,a\n7,40,40,60,80,2,3,b\n7,0,0,30,30,,,c\n"
        "29,100,50,999,90,1,,d\n",
    )
    sources = ImageSources([str(video)], boxes=boxes, labels=Labels(time_s=1000.0, attributes={"site": "yard"}))
    items = list(sources.items())
    assert sources.count() == len(items) == 4 and sources.notes == []  # people in whole frames, and no whole frames
    assert [item.source for item in items] == [f"{video}#{number}" for number in (0, 7, 7, 29)]
    assert [item.pid for item in items] == [1, 2, None, 1] and [item.camid for item in items] == [None, 3, None, None]
    assert [item.time_s for item in items] == pytest.approx([1000.0, 1000.7, 1000.7, 1002.9])
    assert [brightness(items[place]) for place in (0, 1, 3)] == [0, 7, 29]
    assert decoded(items[2]).shape == (30, 30, 3) and decoded(items[2]).mean() > 250
    assert decoded(items[3]).shape == (40, 28, 3)
    assert dict(items[1].attributes) == {"track": "b", "box": "40,40,60,80", "site": "yard"}


def test_the_same_video_gives_the_same_bytes_and_is_decoded_as_far_as_it_is_needed(video, tmp_path, monkeypatch):
    seen = []

    def counted(path):
        for frame in read_frames(path):
            seen.append(frame.number)
            yield frame

    monkeypatch.setattr("hat.serve.enroll.video.read_frames", counted)
    boxes = table(tmp_path, "frame,left,top,right,bottom\n3,0,0,64,64\n3,32,0,64,64\n")
    first, second = ([content_hash(item.read()) for item in video_items(video, read_boxes(boxes))] for _ in range(2))
    assert first == second and len(set(first)) == 2 and max(seen) <= 4


def test_frames_by_time_even_where_they_come_unevenly(tmp_path):
    times = [0.0, 0.1, 0.2, 1.0, 1.05, 2.0]
    path = write_video(tmp_path / "uneven.mkv", 6, frame_of, times=times)
    moments = [0.0, 0.09, 0.1, 0.999, 1.0, 1.5, 2.0, 2.5, 9.0]
    boxes = table(tmp_path, "time,left,top,right,bottom\n" + "".join(f"{time},40,40,60,80\n" for time in moments))
    items = list(video_items(path, read_boxes(boxes)))
    assert [item.source.rpartition("#")[2] for item in items[:-1]] == ["0", "0", "1", "2", "3", "4", "5", "5"]
    with pytest.raises(ImageError, match=r"line 10: no frame is shown at this time"):
        items[-1].read()


def test_frames_that_are_not_there_and_boxes_outside_are_reported_one_by_one(video, tmp_path):
    boxes = table(
        tmp_path, "frame,left,top,right,bottom\n1,200,0,240,50\n2,30,30,20,20\n2,40,40,60,80\n30,0,0,20,40\n99,0,0,20,40\n"
    )
    items = list(video_items(video, read_boxes(boxes)))
    assert len(items) == 5 and brightness(items[2]) == 2
    for place, sentence in ((0, "inside the picture"), (1, "inside the picture"), (3, "has 30 frames"), (4, "has 30 frames")):
        with pytest.raises(ImageError, match=sentence):
            items[place].read()


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write the note")
def test_a_phone_that_was_held_upright(tmp_path):
    path = write_video(tmp_path / "turned.mp4", 2, frame_of, turned=90)
    frame = next(read_frames(path))
    pixels = np.asarray(frame.picture())
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    # Turned a quarter to the left: what was at the upper left is at the lower left.
    assert pixels[-20:, :20].mean() > 200 and pixels[:20, :20].mean() < 100


def test_a_video_that_breaks_off_keeps_what_came_before(tmp_path):
    path = write_video(tmp_path / "whole.ts", 30, frame_of, codec="mpeg2video")
    data = path.read_bytes()
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data[: len(data) // 2])
    boxes = table(tmp_path, "frame,left,top,right,bottom\n0,40,40,60,80\n29,40,40,60,80\n")
    items = list(video_items(broken, read_boxes(boxes)))
    assert brightness(items[0]) == 0
    with pytest.raises(ImageError, match="line 3"):
        items[1].read()


def test_a_mistake_in_the_boxes_is_named_before_anything_is_done(video, tmp_path):
    for text, sentence in (
        ("frame,left,top,right\n1,2,3,4\n", "bottom missing"),
        ("left,top,right,bottom\n1,2,3,4\n", "expected a number in the column frame or time"),
        ("frame,left,top,right,bottom\n5,0,0,9,9\n4,0,0,9,9\n", "line 3: 4 comes after 5; sort the table"),
        ("time,left,top,right,bottom\n-1,0,0,9,9\n", "time is -1"),
        ("time,left,top,right,bottom\nnan,0,0,9,9\n", "time is nan"),
        ("frame,left,top,right,bottom\n1.5,0,0,9,9\n", "frame is '1.5'"),
        ("frame,left,top,right,bottom\n1,,,,\n", "the box is empty"),
        ("frame,left,top,right,bottom,camid\n1,0,0,9,9,door\n", "camid is 'door'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            ImageSources([str(video)], boxes=table(tmp_path, text)).count()
    boxes = table(tmp_path, "frame,left,top,right,bottom\n1,0,0,9,9\n")
    with pytest.raises(UsageError, match="give a table of the people in it with --boxes"):
        ImageSources([str(video)])
    for inputs in ([str(video), str(video)], [str(tmp_path)]):
        with pytest.raises(UsageError, match="one video, given by itself"):
            ImageSources(inputs, boxes=boxes)


def test_what_is_no_video_of_its_ending_is_refused(tmp_path):
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    listing = b"ffconcat version 1.0\nfile '/etc/hostname'\n"
    for name, data in (("a.mp4", playlist), ("b.mkv", listing), ("c.avi", b""), ("d.mp4", b"\0" * 4096)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: (cannot be read as a video|has no video stream)"):
            list(read_frames(tmp_path / name))
    with pytest.raises(DataError, match="no such file"):
        list(read_frames(tmp_path / "gone.mp4"))


def test_frames_larger_than_the_limit_are_refused_and_without_pyav_it_says_what_to_install(video, monkeypatch):
    monkeypatch.setattr("hat.serve.enroll.video.MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(DataError, match="128 x 96 pixels are more than the limit"):
        list(read_frames(video))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"av is needed .*hat-reid\[serve\]"):
        list(read_frames(video))


def test_read_boxes_of_the_mot_challenge(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,3,10.0,20,30,60.4,1,1,0.9\n3,3,12,20,30,60,1,1,1\n\n1,-1,0,0,5,9,0.5,-1,-1,-1\n2,4,1,2,3,4,0,1,1\n")
    rows = list(read_boxes(path))
    assert [(row.frame, row.labels.pid, row.box) for row in rows] == [
        (0, 3, (10, 20, 40, 80)),
        (0, None, (0, 0, 5, 9)),
        (2, 3, (12, 20, 42, 80)),
    ]
    path.write_text("1,3,10,20,30,60,1\n0,3,12,20,30,60,1\n")
    with pytest.raises(DataError, match="line 2: frame and track are whole numbers, frames from 1"):
        list(read_boxes(path))
    path.write_text("1,3,10,20,30,60,1\n2,x\n")
    with pytest.raises(DataError, match="line 2: expected frame, track"):
        list(read_boxes(path))
