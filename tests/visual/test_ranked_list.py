"""The ranked-list picture, read back pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import ImageError, UsageError
from hat.visual import rank_rows, ranked_list
from hat.visual.tile_sheet import COLOR, RIGHT, WRONG

FRAMES = [tuple(bytes.fromhex(color[1:])) for color in (COLOR, RIGHT, WRONG)]


@pytest.fixture
def case(tmp_path):
    """Embeddings and a data set whose images are each of one color of their own, in a person's proportions."""
    rng = np.random.default_rng(0)

    def split(name, count):
        samples = []
        for index in range(count):
            path = tmp_path / f"{name}{index}.png"
            Image.new("RGB", (32, 64), color_of(name, index)).save(path)
            samples.append(Sample(str(path), int(rng.integers(0, 4)), int(rng.integers(1, 3))))
        return Split(name, samples)

    dataset = ReIDDataset("made", Split("train", []), split("query", 6), split("gallery", 30))
    return rng.standard_normal((6, 5)), rng.standard_normal((30, 5)), dataset


def color_of(name, index):
    return (20 + 7 * index, 90, 200) if name == "gallery" else (200, 20 + 30 * index, 90)


def framed_rows(picture):
    """For each row of tiles, the (frame color, color of the tile's middle) from left to right."""
    pixels, rows, y = np.asarray(picture).astype(int), [], 0
    while y < len(pixels):
        # Nothing but the upper edge of a frame is a line of one of these colors over 50 pixels long; a badge covers its end.
        codes = sum(code * (pixels[y] == color).all(axis=1) for code, color in enumerate(FRAMES, start=1))
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = np.append(starts[1:], len(codes))
        edges = [(start, codes[start]) for start, end in zip(starts, ends, strict=True) if codes[start] and end - start > 50]
        if edges:
            rows.append([(FRAMES[code - 1], tuple(pixels[y + 100, x + 40].tolist())) for x, code in edges])
            y += 230  # past the lower edges
        y += 1
    return rows


def test_ranked_list_frames_every_crop_in_its_place(case):
    query, gallery, dataset = case
    picture = ranked_list(query, gallery, dataset, num_queries=3, top_k=6, seed=1, title="model")
    expected = []
    for row in rank_rows(query, gallery, dataset, num_queries=3, top_k=6, seed=1):
        tiles = [(FRAMES[0], color_of("query", row.query))]
        tiles += [(FRAMES[1 if item.is_match else 2], color_of("gallery", item.index)) for item in row.top]
        expected.append(tiles)
    assert framed_rows(picture) == expected
    colors = {frame for tiles in expected for frame, _ in tiles}
    assert colors == set(FRAMES), "the case must show both kinds"


def test_ranked_list_follows_given_distances(case):
    query, gallery, dataset = case
    distances = np.tile(np.arange(len(gallery), dtype=np.float32), (len(query), 1))
    (tiles,) = framed_rows(ranked_list(query, gallery, dataset, num_queries=1, top_k=4, distances=distances))
    shown = [middle[0] for _, middle in tiles[1:]]
    assert shown == sorted(shown), "gallery colors grow with the index, as the distances do"


def test_ranked_list_with_few_images_and_a_long_title(case):
    query, gallery, dataset = case
    picture = ranked_list(query, gallery, dataset, num_queries=1, top_k=500, title="a very long name " * 40)
    (row,) = rank_rows(query, gallery, dataset, num_queries=1, top_k=500)
    assert len(framed_rows(picture)[0]) == 1 + len(row.top)
    assert picture.mode == "RGB"


def test_ranked_list_refuses_an_enormous_picture_and_a_missing_file(case, tmp_path):
    query, gallery, dataset = case
    with pytest.raises(UsageError, match="ask for fewer"):
        labels = Split("gallery", list(dataset.gallery) * 2000)
        ranked_list(query, np.tile(gallery, (2000, 1)), ReIDDataset("m", dataset.train, dataset.query, labels), top_k=50_000)
    (tmp_path / "gallery0.png").unlink()
    with pytest.raises(ImageError, match=r"gallery0\.png"):
        ranked_list(query, gallery, dataset, top_k=30)
