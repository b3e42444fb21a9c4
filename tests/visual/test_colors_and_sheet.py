"""The color map, and the sheet that pictures of people are drawn on."""

import numpy as np
import pytest
from PIL import Image

from hat.errors import UsageError
from hat.visual import colorize, overlay, scale_to_unit
from hat.visual.color_map import color_table
from hat.visual.map_table import Column, draw_map_table
from hat.visual.tile_sheet import Tile, TileSheet, draw_ranking, fit_image


def lightness(colors):
    """CIE L* of sRGB colors, by its definition."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_color_table_grows_evenly_in_lightness():
    table = color_table().astype(float) / 255
    assert table.shape == (256, 3)
    steps = np.diff(lightness(table)[::8])
    assert (steps > 0.5).all()
    assert np.abs(np.diff(table, axis=0)).max() < 0.03, "a jump of color would look like an edge"
    assert lightness(table)[0] < 12
    assert lightness(table)[-1] > 94


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


@pytest.mark.parametrize("size", [(30, 60), (60, 60), (20, 200), (1, 400)])
def test_fit_image_shows_the_whole_crop_in_its_proportions(size):
    tile = np.asarray(fit_image(Image.new("RGB", size, (200, 0, 0)), (104, 208))).astype(int)
    assert tile.shape == (208, 104, 3)
    red = (tile[..., 0] > 150) & (tile[..., 1] < 60)
    height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert height == 208 or width == 104
    assert width / height == pytest.approx(size[0] / size[1], abs=0.02)


def test_text_is_cut_to_its_width_and_takes_dollars_and_any_script():
    sheet = TileSheet(200, 50, "", ())
    assert 80 < sheet.text(10, 20, "many words $x^2$ " * 30, max_width=100) <= 100
    assert sheet.text(10, 40, "\u5f20\u4f1f.jpg", max_width=300) > 0
    written = np.asarray(sheet.image()) < 200
    assert written[:, 60:112].any() and not written[:, 112:].any()


def test_tile_sheet_refuses_an_enormous_picture():
    with pytest.raises(UsageError, match="ask for fewer"):
        TileSheet(20_000, 20_000, "title")


def test_draw_ranking_without_any_match_or_picture():
    picture = draw_ranking([(Tile(None, ("id Anna", "a.jpg")), [])], "A title", ["a line"])
    assert picture.mode == "RGB" and picture.width >= 640


@pytest.mark.parametrize("num_rows", [1, 2, 8])
def test_draw_map_table_shows_every_tile_once(num_rows):
    tiles = [
        [Image.new("RGB", (112, 224), (40 * column + 10, 20 * row + 10, 77)) for row in range(num_rows)] for column in range(3)
    ]
    columns = [Column(f"c{index}", tiles[index], group="pair" if index else "") for index in range(3)]
    picture = np.asarray(draw_map_table(columns, "Title", ["Subtitle"]))
    for column in range(3):
        for row in range(num_rows):
            shown = (picture == (40 * column + 10, 20 * row + 10, 77)).all(axis=2)
            assert shown.sum() == 112 * 224
    if num_rows == 8:
        assert picture.shape[1] > 2 * 3 * 112, "a tall table is broken into blocks side by side"
