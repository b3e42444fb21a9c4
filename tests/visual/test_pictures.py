"""The pictures themselves, read back pixel by pixel, and the colors of maps."""

import numpy as np
import pytest
from PIL import Image

from hat.data.datasets import ReIDDataset, Sample, Split
from hat.errors import ImageError, UsageError
from hat.visual import Tile, color_table, colorize, draw_grid, overlay, rank_rows, ranked_list, scale_to_unit

QUERY, RIGHT, WRONG = (tuple(bytes.fromhex(color)) for color in ("1c2026", "0c8a54", "cc2c24"))


def box_of(picture, color):
    """(left, top, right, bottom) of the pixels of a color, and the color of the frame around it at the left edge."""
    pixels = np.asarray(picture)
    mask = (pixels == color).all(axis=2)
    assert mask.any(), f"no pixel of {color}"
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1), tuple(pixels[(ys[0] + ys[-1]) // 2, xs[0] - 3].tolist())


def lightness(colors):
    """CIE L* of sRGB colors, by its definition."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_color_table_grows_evenly_in_lightness():
    table = color_table().astype(float) / 255
    assert table.shape == (256, 3)
    assert (np.diff(lightness(table)[::8]) > 0.5).all()
    assert np.abs(np.diff(table, axis=0)).max() < 0.03, "a jump of color would look like an edge"


def test_scale_to_unit_scales_each_map_to_its_own_range():
    maps = np.array([[[1.0, 3.0], [2.0, 1.5]], [[-4.0, -4.0], [0.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 1], [0.5, 0.25]], [[0, 0], [1, 0.5]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(scale_to_unit(maps), expected)
    almost = np.full((1, 2, 2), 5.0)
    almost[0, 0, 0] += 1e-9
    assert not scale_to_unit(almost).any(), "rounding errors are no picture"


def test_colorize_paints_values_in_their_places():
    picture = np.asarray(colorize(np.array([[0.0, 1.0], [0.5, 0.25]]), (200, 400)))
    assert picture.shape == (400, 200, 3)
    for (y, x), value in {(10, 10): 0, (10, 190): 255, (390, 10): 128, (390, 190): 64}.items():
        assert picture[y, x].tolist() == color_table()[value].tolist()


def test_overlay_shows_both_the_image_and_the_map():
    image = Image.new("RGB", (10, 20), (250, 250, 250))
    image.paste((5, 5, 5), (0, 0, 10, 10))
    flat = np.asarray(overlay(image, np.full((4, 2), 0.5), (50, 100))).astype(int)
    assert flat[10, 25].sum() < flat[90, 25].sum() - 100, "the dark half of the image stays darker"
    sides = np.asarray(overlay(Image.new("L", (10, 20), 128), np.array([[0.0, 1.0]]), (50, 100))).astype(int)
    assert sides[50, 5].sum() < sides[50, 45].sum() - 100, "the high half of the map is lighter"


def test_draw_grid_shows_whole_images_in_their_proportions_and_places():
    sizes, colors = [(30, 60), (60, 60), (20, 200)], [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [Tile(Image.new("RGB", size, color)) for size, color in zip(sizes, colors, strict=True)]
    picture = draw_grid([tiles[:2], tiles[2:]], "title", ["line"], row_labels=["a", "b"])
    boxes = [box_of(picture, color)[0] for color in colors]
    for (left, top, right, bottom), (width, height) in zip(boxes, sizes, strict=True):
        assert (right - left) / (bottom - top) == pytest.approx(width / height, abs=0.03)
    assert boxes[0][2] < boxes[1][0], "side by side"
    assert boxes[0][3] < boxes[2][1], "one under the other"


def test_draw_grid_cuts_long_names_and_takes_dollars_any_script_and_no_picture():
    wide = Image.new("RGB", (30, 60), (200, 0, 0))
    names = ["many words $x^2$ " * 30, "\u5f20\u4f1f.jpg", "a\tb\nc"]
    picture = np.asarray(draw_grid([[Tile(wide, names[0])], [Tile(wide, names[1])], [Tile(None, names[2])]], "", []))
    assert (picture[:, 240:] == 255).all(), "a caption of one column ends where the next one would begin"
    assert draw_grid([[Tile(None)]], "a very long $ name " * 40, ["line"]).width == 640


def test_draw_grid_refuses_an_enormous_picture():
    with pytest.raises(UsageError, match="ask for fewer"):
        draw_grid([[Tile("never read.png")] * 50_000], "title", [])


def test_ranked_list_frames_every_image_in_its_place(tmp_path):
    rng = np.random.default_rng(0)

    def split(name, colors, labels):
        samples = []
        for color, (pid, camid) in zip(colors, labels, strict=True):
            path = tmp_path / f"{name}{color[0]}.png"
            Image.new("RGB", (32, 64), color).save(path)
            samples.append(Sample(str(path), pid, camid))
        return Split(name, samples)

    queries, gallery = [(200, 50, 90), (201, 80, 90)], [(20 + 7 * index, 90, 200) for index in range(6)]
    dataset = ReIDDataset(
        "made",
        Split("train", []),
        split("query", queries, [(1, 1), (2, 1)]),
        split("gallery", gallery, [(1, 2), (2, 2), (3, 1), (1, 1), (2, 3), (3, 2)]),
    )
    rows = rank_rows(rng.standard_normal((2, 5)), rng.standard_normal((6, 5)), dataset, top_k=4)
    for row in rows:
        picture = ranked_list([row], dataset, title="model")
        shown = [box_of(picture, queries[row.query]), *(box_of(picture, gallery[index]) for index in row.top)]
        right = [dataset.gallery[index].pid == dataset.query[row.query].pid for index in row.top]
        assert len(set(right)) == 2, "the case must show both kinds"
        assert [frame for _, frame in shown] == [QUERY, *(RIGHT if is_match else WRONG for is_match in right)]
        assert [box[0] for box, _ in shown] == sorted(box[0] for box, _ in shown)
    (tmp_path / f"gallery{gallery[rows[0].top[0]][0]}.png").unlink()
    with pytest.raises(ImageError, match=r"gallery\d+\.png"):
        ranked_list(rows, dataset)
