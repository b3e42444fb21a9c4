"""Colors of the drawn world: skin, hair, clothes, shoes and bags, sRGB in [0, 1]. Every list is drawn from evenly."""

from __future__ import annotations

import colorsys

import numpy as np

__all__ = [
    "BAG_COLORS",
    "HAIR_COLORS",
    "LOWER_COLORS",
    "SHOE_COLORS",
    "SKIN_TONES",
    "UPPER_COLORS",
    "Color",
    "darken",
    "mix",
    "vary",
]

Color = tuple[float, float, float]
"""Red, green and blue, sRGB in [0, 1]."""


def _hex(text: str) -> Color:
    return (int(text[0:2], 16) / 255, int(text[2:4], 16) / 255, int(text[4:6], 16) / 255)


def _table(text: str) -> tuple[tuple[str, Color], ...]:
    words = text.split()
    return tuple((name.replace("_", " "), _hex(code)) for name, code in zip(words[::2], words[1::2], strict=True))


# Eight steps of lightness of equal weight, so that no tone is the default one.
SKIN_TONES = tuple(_hex(code) for code in ("eabc99", "dfa981", "d0966b", "bb8058", "a16a46", "865439", "69432d", "4d3223"))
HAIR_COLORS = _table(
    "black 201c1d dark_brown 3b2820 brown 5f412c chestnut 7a4a2b blond c6a163 ginger a9562b gray 9a9894 white d4d0c8"
)
UPPER_COLORS = _table(
    "black 2a2a2f charcoal 4a4d54 gray 8c9096 white ebe9e4 cream ddcfb2 navy 28365c blue 3566a8 sky 86b1d6 teal 2b7f82 "
    "green 3d8453 olive 6d7042 red b8353a burgundy 6f2438 orange d47a35 mustard cfa23a pink d896a3 purple 6c5090 brown 76543c"
)
LOWER_COLORS = _table(
    "black 26262b charcoal 45484e gray 82868b navy 2a3553 blue 3f5f8f pale_blue 7d9cc0 khaki b6a179 olive 64663f brown 674a36 "
    "white dedbd4 burgundy 64273a"
)
SHOE_COLORS = _table("black 242427 white e8e6e1 gray 7f8388 brown 6b4630 tan a97b4e navy 2b3657 red a8363a green 4c6e55")
BAG_COLORS = _table(
    "black 29292d gray 6f747b navy 2f3d66 blue 3d70ad red b03c3f green 4a7a55 tan b08452 "
    "brown 6f4a33 mustard cb9b37 pink cf8b98"
)


def vary(color: Color, rng: np.random.Generator, amount: float = 1.0) -> Color:
    """Move a color a little in hue, saturation and value, so that two red shirts are not the same red."""
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    turn, wash, light = rng.normal(0.0, (0.012, 0.05, 0.045)) * amount
    return colorsys.hsv_to_rgb(
        (hue + float(turn)) % 1.0,
        min(max(saturation + float(wash) * (saturation > 0.06), 0.0), 1.0),
        min(max(value + float(light), 0.1), 0.95),
    )


def mix(first: Color, second: Color, share: float) -> Color:
    """``share`` of the second color in the first."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return (red, green, blue)


def darken(color: Color, factor: float) -> Color:
    """Multiply a color, kept in [0, 1]."""
    red, green, blue = (min(max(channel * factor, 0.0), 1.0) for channel in color)
    return (red, green, blue)
