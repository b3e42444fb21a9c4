"""Who a drawn pedestrian is: attributes that stay the same in front of every camera."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .palette import (
    BAG_COLORS,
    HAIR_COLORS,
    LOWER_COLORS,
    SHOE_COLORS,
    SKIN_TONES,
    UPPER_COLORS,
    Color,
    darken,
    mix,
    vary,
)

__all__ = ["HAIR_STYLES", "NUM_PEOPLE", "Person", "make_person"]

HAIR_STYLES = (
    "short", "side parted", "buzz cut", "bald", "curly", "afro", "bob", "long", "ponytail", "bun",
    "cap", "beanie", "sun hat", "headscarf",
)  # fmt: skip
"""Every style has the same share; hats and headscarves count as styles."""

_HATS = frozenset({"cap", "beanie", "sun hat", "headscarf"})
_UPPERS = {"t-shirt": 0.2, "long sleeve": 0.16, "shirt": 0.1, "hoodie": 0.14, "jacket": 0.14, "open jacket": 0.12, "coat": 0.14}
_LOWERS = {"trousers": 0.38, "jeans": 0.34, "wide trousers": 0.1, "shorts": 0.18}
_PATTERNS = {"plain": 0.46, "stripes": 0.13, "checks": 0.1, "logo": 0.13, "two-tone": 0.12, "dots": 0.06}
_BAGS = {"none": 0.34, "backpack": 0.24, "shoulder bag": 0.16, "handbag": 0.14, "suitcase": 0.12}
_SHOES = {"trainers": 0.6, "leather shoes": 0.2, "boots": 0.2}

NUM_PEOPLE = len(UPPER_COLORS) * len(LOWER_COLORS) * len(SKIN_TONES) * len(HAIR_STYLES)
"""How many people of one seed are sure to differ: each has its own upper color, lower color, skin tone and hair style."""


@dataclass(frozen=True)
class Person:
    """One identity. Lengths are in meters, colors sRGB in [0, 1].

    Attributes:
        index: Number of the person, counted from 0.
        height: Height without shoes and hat.
        girth: Width of body and limbs relative to an average one.
        curved: Whether shoulders are narrow and hips wide (True) or the other way round.
        skin: Skin color.
        hair_style: One of `HAIR_STYLES`.
        hair: Hair color.
        hat: Color of the hat or scarf; unused where the style has none.
        beard: Whether there is one.
        glasses: Whether there are any.
        upper: Garment of the upper body, or ``"dress"``.
        upper_color: Its first color.
        upper_accent: Its second color: of the pattern, of the sleeves, of the shirt under an open jacket.
        pattern: Pattern of the upper garment.
        contrast_sleeves: Whether the sleeves have the second color.
        lower: Garment of the legs; ``"bare legs"`` or ``"tights"`` under a dress.
        lower_color: Its color.
        lower_length: Height of the hem of skirt or shorts as a share of body height.
        side_stripe: Whether trousers have a stripe along the seam.
        shoes: Kind of shoes.
        shoe_color: Color of their uppers.
        sole: Color of their soles.
        bag: Kind of bag, or ``"none"``.
        bag_color: Its color.
        bag_side: 1 where it is carried on the person's left, -1 on the right.
        scarf: Color of a scarf, or None.
        gait: Length of step and swing of arms relative to an average one.
        texture: Seed of folds and other small things.
        description: The attributes in words, such as ``"red hoodie, navy jeans, white trainers, bob ginger hair"``.
    """

    index: int
    height: float
    girth: float
    curved: bool
    skin: Color
    hair_style: str
    hair: Color
    hat: Color
    beard: bool
    glasses: bool
    upper: str
    upper_color: Color
    upper_accent: Color
    pattern: str
    contrast_sleeves: bool
    lower: str
    lower_color: Color
    lower_length: float
    side_stripe: bool
    shoes: str
    shoe_color: Color
    sole: Color
    bag: str
    bag_color: Color
    bag_side: int
    scarf: Color | None
    gait: float
    texture: float
    description: str

    @property
    def wears_hat(self) -> bool:
        """Whether hat or headscarf covers the hair."""
        return self.hair_style in _HATS

    @property
    def neck(self) -> Color:
        """What shows at the neck: skin, or the headscarf."""
        return self.hat if self.hair_style == "headscarf" else self.skin


@functools.lru_cache(maxsize=4)
def _order(seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 1]).permutation(NUM_PEOPLE)


@functools.lru_cache(maxsize=1024)
def make_person(seed: int, index: int) -> Person:
    """The person with a number, the same whatever else is drawn with the seed.

    Four attributes come from a shuffled list of all their combinations, so no two people share all four and every skin tone and
    hair style gets the same share; the rest is drawn on its own, so single attributes are shared by many.

    Args:
        seed: Seed of the world.
        index: Number of the person, from 0 to `NUM_PEOPLE` - 1.

    Returns:
        The identity.
    """
    code = int(_order(seed)[index])
    code, upper_id = divmod(code, len(UPPER_COLORS))
    code, lower_id = divmod(code, len(LOWER_COLORS))
    style_id, skin_id = divmod(code, len(SKIN_TONES))
    style = HAIR_STYLES[style_id]
    rng = np.random.default_rng([seed, 2, index])

    covered = style == "headscarf"
    curved = bool(covered or rng.random() < 0.46)
    upper, lower = _clothes(rng, curved, covered)
    pattern = _pick(rng, _PATTERNS)
    if upper in ("jacket", "open jacket", "coat") and pattern in ("dots", "logo"):
        pattern = "plain"
    upper_name, upper_color = UPPER_COLORS[upper_id]
    lower_name, lower_color = LOWER_COLORS[lower_id]
    upper_color = vary(upper_color, rng)
    # Blond or ginger hair on dark skin and the like is rare, not excluded; gray comes with any tone.
    hair_weights = (
        np.array([3.0, 3, 2, 1.2, 1.2, 0.7, 1.2, 0.5]) if skin_id < 4 else np.array([6.0, 3, 0.6, 0.2, 0.15, 0.05, 1.2, 0.5])
    )
    hair_name, hair = HAIR_COLORS[int(rng.choice(len(HAIR_COLORS), p=hair_weights / hair_weights.sum()))]
    bag = _pick(rng, _BAGS)
    bag_name, bag_color = BAG_COLORS[int(rng.integers(len(BAG_COLORS)))]
    shoes = _pick(rng, _SHOES)
    shoe_name, shoe_color = SHOE_COLORS[
        int(rng.integers(len(SHOE_COLORS))) if shoes == "trainers" else int(rng.choice((0, 0, 3, 4)))
    ]
    accent_name, accent = _accent(rng, upper_id)
    height = float(np.clip(rng.normal(1.67 if curved else 1.75, 0.075), 1.50, 1.95))
    legs = "" if lower == "bare legs" else f", {lower_name} {lower}"
    figure = "" if pattern == "plain" else f"{pattern} "
    second = f" and {accent_name}" if pattern != "plain" or upper == "open jacket" else ""
    carried = "" if bag == "none" else f", {bag_name} {bag}"
    worn = style if style == "bald" or style in _HATS else f"{style} {hair_name} hair"
    return Person(
        index=index,
        height=height,
        girth=float(np.clip(rng.normal(1.03, 0.1), 0.86, 1.3)),
        curved=curved,
        skin=vary(SKIN_TONES[skin_id], rng, 0.3),
        hair_style=style,
        hair=vary(hair, rng, 0.4),
        hat=vary(UPPER_COLORS[int(rng.integers(len(UPPER_COLORS)))][1], rng),
        beard=bool(not curved and rng.random() < 0.3),
        glasses=bool(rng.random() < 0.18),
        upper=upper,
        upper_color=upper_color,
        upper_accent=vary(accent, rng),
        pattern=pattern,
        contrast_sleeves=bool(
            upper in ("t-shirt", "hoodie", "jacket") and pattern in ("plain", "logo") and rng.random() < 0.18
        ),
        lower=lower,
        lower_color=vary(lower_color, rng),
        lower_length=_hem(rng, lower, upper, covered),
        side_stripe=bool(lower in ("trousers", "shorts") and rng.random() < 0.22),
        shoes=shoes,
        shoe_color=vary(shoe_color, rng, 0.5),
        sole=(0.9, 0.89, 0.86)
        if shoes == "trainers" and rng.random() < 0.7
        else darken(mix(shoe_color, (0.12, 0.1, 0.1), 0.6), 0.9),
        bag=bag,
        bag_color=vary(bag_color, rng),
        bag_side=int(rng.choice((-1, 1))),
        scarf=vary(UPPER_COLORS[int(rng.integers(len(UPPER_COLORS)))][1], rng)
        if upper in ("coat", "jacket") and rng.random() < 0.3
        else None,
        gait=float(rng.uniform(0.8, 1.15)),
        texture=float(rng.uniform(0, 100)),
        description=f"{upper_name}{second} {figure}{upper}{legs}, {shoe_name} {shoes}, {worn}{carried}",
    )


def _clothes(rng: np.random.Generator, curved: bool, covered: bool) -> tuple[str, str]:
    """Upper and lower garment; who wears a headscarf is covered to wrists and ankles."""
    upper, lower = _pick(rng, _UPPERS), _pick(rng, _LOWERS)
    draw = rng.random()
    if curved and draw < 0.17:
        return "dress", "tights" if covered or rng.random() < 0.4 else "bare legs"
    if curved and draw < 0.4:
        lower = "skirt"
    if covered:
        upper = "long sleeve" if upper == "t-shirt" else upper
        lower = "wide trousers" if lower == "shorts" else lower
    if lower == "shorts" and upper == "coat":
        lower = "trousers"
    return upper, lower


def _hem(rng: np.random.Generator, lower: str, upper: str, covered: bool) -> float:
    if upper == "dress":
        return 0.12 if covered else float(rng.choice((0.27, 0.31, 0.2)))
    if lower == "skirt":
        return 0.1 if covered else float(rng.choice((0.33, 0.29, 0.16)))
    return float(rng.uniform(0.3, 0.36))


def _accent(rng: np.random.Generator, upper_id: int) -> tuple[str, Color]:
    """A second color that can be told from the first."""
    base = np.array(UPPER_COLORS[upper_id][1])
    far = [entry for entry in UPPER_COLORS if float(np.abs(np.array(entry[1]) - base).sum()) > 0.6]
    return far[int(rng.integers(len(far)))]


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names, shares = list(weights), np.array(list(weights.values()))
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]
