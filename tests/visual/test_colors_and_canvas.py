"""The color map and the shared pieces of the pictures."""

import numpy as np
import pytest
from PIL import Image

from hat.errors import UsageError
from hat.visual import colorize, overlay, scale_to_unit
from hat.visual.canvas import Canvas, fit_image
from hat.visual.color_map import color_table
from hat.visual.map_table import Column, draw_map_table


def lightness(colors):
    """CIE L* of sRGB colors, a second way to measure lightness than the one that the table is built with."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_lightness_grows_evenly_and_neighbors_differ_little():
    table = color_table().astype(float) / 255
    assert table.shape == (256, 3)
    steps = np.diff(lightness(table)[::8])
    assert (steps > 0.5).all()
    assert np.abs(np.diff(table, axis=0)).max() < 0.03, "a jump of color would look like an edge"
    assert lightness(table)[0] < 12
    assert lightness(table)[-1] > 94


def test_maps_are_scaled_each_to_its_own_range():
    maps = np.array([[[1.0, 3.0], [2.0, 1.5]], [[-4.0, -4.0], [0.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 1], [0.5, 0.25]], [[0, 0], [1, 0.5]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(scale_to_unit(maps), expected)
    almost = np.full((1, 2, 2), 5.0)
    almost[0, 0, 0] += 1e-9
    assert not scale_to_unit(almost).any(), "rounding errors are no picture"


def test_values_become_their_colors_in_place():
    picture = np.asarray(colorize(np.array([[0.0, 1.0], [0.5, 0.25]]), (200, 400)))
    assert picture.shape == (400, 200, 3)
    for (y, x), value in {(10, 10): 0, (10, 190): 255, (390, 10): 128, (390, 190): 64}.items():
        assert picture[y, x].tolist() == color_table()[value].tolist()


def test_an_overlay_shows_both_the_image_and_the_map():
    image = Image.new("RGB", (10, 20), (250, 250, 250))
    image.paste((5, 5, 5), (0, 0, 10, 10))
    flat = np.asarray(overlay(image, np.full((4, 2), 0.5), (50, 100))).astype(int)
    assert flat[10, 25].sum() < flat[90, 25].sum() - 100, "the dark half of the image stays darker"
    sides = np.asarray(overlay(Image.new("L", (10, 20), 128), np.array([[0.0, 1.0]]), (50, 100))).astype(int)
    assert sides[50, 5].sum() < sides[50, 45].sum() - 100, "the high half of the map is lighter"


@pytest.mark.parametrize("size", [(30, 60), (60, 60), (20, 200), (1, 400)])
def test_a_crop_is_fitted_whole_and_in_its_proportions(size):
    tile = np.asarray(fit_image(Image.new("RGB", size, (200, 0, 0)), (104, 208))).astype(int)
    assert tile.shape == (208, 104, 3)
    red = (tile[..., 0] > 150) & (tile[..., 1] < 60)
    height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert height == 208 or width == 104
    assert width / height == pytest.approx(size[0] / size[1], abs=0.02)


def test_a_long_line_is_cut_and_a_huge_sheet_refused():
    canvas = Canvas(200, 50, "")
    canvas.text((10, 10), "many words " * 30, max_width=100)
    assert not (np.asarray(canvas.image)[:, 112:] < 200).any()
    assert (np.asarray(canvas.image)[:, 60:112] < 200).any()
    with pytest.raises(UsageError, match="ask for fewer"):
        Canvas(20_000, 20_000, "title")


@pytest.mark.parametrize("num_rows", [1, 2, 8])
def test_a_table_shows_every_tile_once(num_rows):
    tiles = [
        [Image.new("RGB", (112, 224), (40 * column + 10, 20 * row + 10, 77)) for row in range(num_rows)] for column in range(3)
    ]
    columns = [Column(f"c{index}", tiles[index], group="pair" if index else "") for index in range(3)]
    picture = np.asarray(draw_map_table(columns, "Title", ("Subtitle",), ("low", "high")))
    for column in range(3):
        for row in range(num_rows):
            shown = (picture == (40 * column + 10, 20 * row + 10, 77)).all(axis=2)
            assert shown.sum() == 112 * 224
    if num_rows == 8:
        assert picture.shape[1] > 2 * 3 * 112, "a tall table is broken into blocks side by side"
