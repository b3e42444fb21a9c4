"""Identities of drawn pedestrians: body, clothes, hair, shoes and bag, the same in front of every camera."""

import colorsys
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Color = tuple[float, float, float]  # red, green and blue, sRGB in [0, 1]
BLACK: Color = (0.0, 0.0, 0.0)
WHITE: Color = (1.0, 1.0, 1.0)


def _table(text: str) -> dict[str, Color]:
    """Return colors by name from pairs of a name and a hexadecimal code."""
    pairs = zip(text.split()[::2], map(bytes.fromhex, text.split()[1::2]), strict=True)
    return {name.replace("_", " "): (red / 255, green / 255, blue / 255) for name, (red, green, blue) in pairs}


UPPERS = _table(
    "black 2a2a2f charcoal 4a4d54 gray 8c9096 white ebe9e4 cream ddcfb2 navy 28365c blue 3566a8 sky 86b1d6 teal 2b7f82 "
    "green 3d8453 olive 6d7042 red b8353a burgundy 6f2438 orange d47a35 mustard cfa23a pink d896a3 purple 6c5090 brown 76543c"
)
LOWERS = _table(
    "black 26262b charcoal 45484e gray 82868b navy 2a3553 blue 3f5f8f pale_blue 7d9cc0 khaki b6a179 olive 64663f brown 674a36 "
    "white dedbd4 burgundy 64273a"
)
SHOES = _table("black 242427 white e8e6e1 gray 7f8388 brown 6b4630 tan a97b4e navy 2b3657 red a8363a green 4c6e55")
BAGS = _table(
    "black 29292d gray 6f747b navy 2f3d66 blue 3d70ad red b03c3f green 4a7a55 tan b08452 brown 6f4a33 mustard cb9b37 "
    "pink cf8b98"
)
HAIR = _table("black 201c1d dark_brown 3b2820 brown 5f412c chestnut 7a4a2b blond c6a163 ginger a9562b gray 9a9894 white d4d0c8")
# Eight steps of lightness of equal weight, so that no tone is the default one.
SKIN_TONES = tuple(_table("1 eabc99 2 dfa981 3 d0966b 4 bb8058 5 a16a46 6 865439 7 69432d 8 4d3223").values())

HATS = ("cap", "beanie", "sun hat", "headscarf")
# Every style has the same share; hats and headscarves count as styles.
HAIR_STYLES = ("short", "side parted", "buzz cut", "bald", "curly", "afro", "bob", "long", "ponytail", "bun", *HATS)
# So many people of one seed are sure to differ: each has its own upper color, lower color, skin tone and hair style.
NUM_PEOPLE = len(UPPERS) * len(LOWERS) * len(SKIN_TONES) * len(HAIR_STYLES)

_UPPER_KINDS = {
    "t-shirt": 0.2, "long sleeve": 0.16, "shirt": 0.1, "hoodie": 0.14, "jacket": 0.14, "open jacket": 0.12, "coat": 0.14,
}  # fmt: skip
_LOWER_KINDS = {"trousers": 0.38, "jeans": 0.34, "wide trousers": 0.1, "shorts": 0.18}
_PATTERNS = {"plain": 0.46, "stripes": 0.13, "checks": 0.1, "logo": 0.13, "two-tone": 0.12, "dots": 0.06}
_BAG_KINDS = {"none": 0.34, "backpack": 0.24, "shoulder bag": 0.16, "handbag": 0.14, "suitcase": 0.12}
_SHOE_KINDS = {"trainers": 0.6, "leather shoes": 0.2, "boots": 0.2}


@dataclass(frozen=True)
class Person:
    """One identity."""

    height: float  # in meters, without shoes and hat
    girth: float  # of body and limbs relative to an average one
    curved: bool  # whether shoulders are narrow and hips wide, or the other way round
    skin: Color
    hair_style: str  # one of `HAIR_STYLES`
    hair: Color
    hat: Color
    beard: bool
    glasses: bool
    upper: str  # garment of the upper body, or "dress"
    upper_color: Color
    upper_accent: Color  # of its pattern, or of what is under it
    pattern: str
    contrast_sleeves: bool
    lower: str  # garment of the legs; "bare legs" or "tights" under a dress
    lower_color: Color
    hem: float  # height of the hem of dress, skirt or shorts as a share of body height
    side_stripe: bool
    shoes: str
    shoe_color: Color
    sole: Color
    bag: str
    bag_color: Color
    bag_side: int  # 1 where the bag is carried on the person's left, -1 on the right
    gait: float  # length of step and swing of arms relative to an average one
    texture: float  # phase of folds and width of patterns, 0 to 100
    description: str  # in words, such as "red hoodie, navy jeans, white trainers, bob ginger hair"

    @property
    def neck(self) -> Color:
        """Material at the neck: skin, or the headscarf."""
        return self.hat if self.hair_style == "headscarf" else self.skin


def mix(first: Color, second: Color, share: float) -> Color:
    """Return the first color with a share of the second in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return (red, green, blue)


def vary(color: Color, rng: np.random.Generator, amount: float = 1.0) -> Color:
    """Move a color a little in hue, saturation and value, so that two red shirts are not the same red."""
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    turn, wash, light = rng.normal(0.0, (0.012, 0.05, 0.045)) * amount
    saturation = min(max(saturation + float(wash) * (saturation > 0.06), 0.0), 1.0)
    return colorsys.hsv_to_rgb((hue + float(turn)) % 1.0, saturation, min(max(value + float(light), 0.1), 0.95))


@functools.lru_cache(maxsize=4)
def _order(seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 1]).permutation(NUM_PEOPLE)


@functools.lru_cache(maxsize=1024)
def make_person(seed: int, index: int) -> Person:
    """Return the person of a seed with a number from 0 to `NUM_PEOPLE` - 1, the same whatever else is drawn with the seed."""
    # Four attributes come from a shuffled list of all their combinations, so no two people share all four and every skin tone
    # and hair style gets the same share; the rest is drawn on its own, so single attributes are shared by many.
    code, upper_id = divmod(int(_order(seed)[index]), len(UPPERS))
    code, lower_id = divmod(code, len(LOWERS))
    style_id, skin_id = divmod(code, len(SKIN_TONES))
    style = HAIR_STYLES[style_id]
    rng = np.random.default_rng([seed, 2, index])

    covered = style == "headscarf"
    curved = bool(covered or rng.random() < 0.46)
    upper, lower, hem = _clothes(rng, curved, covered)
    pattern = _pick(rng, _PATTERNS)
    if upper in ("jacket", "open jacket", "coat") and pattern in ("dots", "logo"):
        pattern = "plain"
    upper_name, lower_name = list(UPPERS)[upper_id], list(LOWERS)[lower_id]
    # The second color is distinct from the first.
    base = np.array(UPPERS[upper_name])
    accent_name = _pick(rng, {name: float(np.abs(base - color).sum() > 0.6) for name, color in UPPERS.items()})
    # Blond or ginger hair on dark skin and the like is rare, not excluded; gray comes with any tone.
    weights = (3.0, 3, 2, 1.2, 1.2, 0.7, 1.2, 0.5) if skin_id < 4 else (6.0, 3, 0.6, 0.2, 0.15, 0.05, 1.2, 0.5)
    hair_name = _pick(rng, dict(zip(HAIR, weights, strict=True)))
    bag, shoes = _pick(rng, _BAG_KINDS), _pick(rng, _SHOE_KINDS)
    bag_name = _pick(rng, dict.fromkeys(BAGS, 1.0))
    shoe_name = _pick(rng, dict.fromkeys(SHOES, 1.0) if shoes == "trainers" else {"black": 2.0, "brown": 1.0, "tan": 1.0})
    white_sole = shoes == "trainers" and rng.random() < 0.7
    trimmed = upper in ("t-shirt", "hoodie", "jacket") and pattern in ("plain", "logo")

    words = [upper_name, "and", accent_name, pattern if pattern != "plain" else "", upper]
    if pattern == "plain" and upper != "open jacket":
        words = [upper_name, upper]
    parts = [
        " ".join(filter(None, words)),
        "" if lower == "bare legs" else f"{lower_name} {lower}",
        f"{shoe_name} {shoes}",
        style if style in ("bald", *HATS) else f"{style} {hair_name} hair",
        "" if bag == "none" else f"{bag_name} {bag}",
    ]
    return Person(
        height=float(np.clip(rng.normal(1.67 if curved else 1.75, 0.075), 1.50, 1.95)),
        girth=float(np.clip(rng.normal(1.03, 0.1), 0.86, 1.3)),
        curved=curved,
        skin=vary(SKIN_TONES[skin_id], rng, 0.3),
        hair_style=style,
        hair=vary(HAIR[hair_name], rng, 0.4),
        hat=vary(UPPERS[_pick(rng, dict.fromkeys(UPPERS, 1.0))], rng),
        beard=bool(not curved and rng.random() < 0.3),
        glasses=bool(rng.random() < 0.18),
        upper=upper,
        upper_color=vary(UPPERS[upper_name], rng),
        upper_accent=vary(UPPERS[accent_name], rng),
        pattern=pattern,
        contrast_sleeves=bool(trimmed and rng.random() < 0.18),
        lower=lower,
        lower_color=vary(LOWERS[lower_name], rng),
        hem=hem,
        side_stripe=bool(lower in ("trousers", "shorts") and rng.random() < 0.22),
        shoes=shoes,
        shoe_color=vary(SHOES[shoe_name], rng, 0.5),
        sole=(0.9, 0.89, 0.86) if white_sole else mix(SHOES[shoe_name], (0.1, 0.08, 0.08), 0.65),
        bag=bag,
        bag_color=vary(BAGS[bag_name], rng),
        bag_side=int(rng.choice((-1, 1))),
        gait=float(rng.uniform(0.8, 1.15)),
        texture=float(rng.uniform(0, 100)),
        description=", ".join(filter(None, parts)),
    )


def _clothes(rng: np.random.Generator, curved: bool, covered: bool) -> tuple[str, str, float]:
    """Return upper garment, lower garment and hem; who wears a headscarf is covered to wrists and ankles."""
    upper, lower, draw = _pick(rng, _UPPER_KINDS), _pick(rng, _LOWER_KINDS), rng.random()
    if curved and draw < 0.17:
        legs = "tights" if covered or rng.random() < 0.4 else "bare legs"
        return "dress", legs, 0.12 if covered else float(rng.choice((0.27, 0.31, 0.2)))
    if covered and upper == "t-shirt":
        upper = "long sleeve"
    if curved and draw < 0.4:
        return upper, "skirt", 0.1 if covered else float(rng.choice((0.33, 0.29, 0.16)))
    if lower == "shorts" and (covered or upper == "coat"):
        lower = "wide trousers" if covered else "trousers"
    return upper, lower, float(rng.uniform(0.3, 0.36))


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]
