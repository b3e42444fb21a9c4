"""Who is drawn: identities are distinct, evenly spread and stable, and the pictures hold something to learn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hat.data.synth import MAX_IDENTITIES, draw_distractor, draw_person, make_person
from hat.data.synth.palette import SKIN_TONES
from hat.data.synth.person import HAIR_STYLES, NUM_PEOPLE
from hat.data.synth.posture import pose_person
from hat.data.synth.view import View
from hat.errors import UsageError


def nearest_tone(color: tuple[float, float, float]) -> int:
    return int(np.abs(np.array(SKIN_TONES) - color).sum(1).argmin())


def color_histogram(pixels: np.ndarray) -> np.ndarray:
    """Square roots of 8 x 8 x 8 RGB histograms of six stripes, so that a dot product compares the shares of colors."""
    stripes = []
    for stripe in np.array_split(pixels.astype(int) // 32, 6, axis=0):
        codes = stripe.reshape(-1, 3) @ (64, 8, 1)
        stripes.append(np.sqrt(np.bincount(codes, minlength=512) / len(codes)))
    return np.concatenate(stripes)


def test_people_of_a_seed_differ_and_share_single_attributes() -> None:
    people = [make_person(3, index) for index in range(1000)]
    assert len({(p.description, nearest_tone(p.skin)) for p in people}) == 1000
    # Anyone's top is worn by many others too: its color alone tells nobody.
    tops = Counter(p.description.split(",")[0].split(" ")[0] for p in people)
    assert min(tops.values()) > 20
    assert NUM_PEOPLE > MAX_IDENTITIES


def test_another_seed_has_other_people() -> None:
    assert [make_person(0, i).description for i in range(20)] != [make_person(1, i).description for i in range(20)]


def test_skin_tones_hair_styles_and_figures_are_spread_evenly() -> None:
    people = [make_person(5, index) for index in range(1600)]
    tones = Counter(nearest_tone(p.skin) for p in people)
    assert len(tones) == len(SKIN_TONES)
    assert all(140 < count < 260 for count in tones.values()), tones
    styles = Counter(p.hair_style for p in people)
    assert set(styles) == set(HAIR_STYLES)
    assert all(80 < count < 150 for count in styles.values()), styles
    assert 0.42 < np.mean([p.curved for p in people]) < 0.58


def test_a_headscarf_comes_with_covered_arms_and_legs() -> None:
    scarved = [p for p in (make_person(2, index) for index in range(1500)) if p.hair_style == "headscarf"]
    assert scarved
    assert not [p for p in scarved if p.upper == "t-shirt" or p.lower in ("shorts", "bare legs") or p.beard]
    assert all(p.lower_length <= 0.12 for p in scarved if p.lower == "skirt" or p.upper == "dress")


@pytest.mark.parametrize("phase", np.linspace(0, 6.2, 9).tolist())
def test_a_walker_stands_on_the_ground_with_limbs_of_constant_length(phase: float) -> None:
    person = make_person(0, 1)
    posture = pose_person(person, phase, 1.0)
    lowest = min(float(leg[:, 1].min()) for leg in posture.legs)
    assert 0 <= lowest < 0.03 * person.height
    for leg in posture.legs:
        thigh, shin = np.linalg.norm(leg[1] - leg[0]), np.linalg.norm(leg[2] - leg[1])
        assert thigh == pytest.approx(0.238 * person.height, rel=0.01)
        assert shin == pytest.approx(0.235 * person.height, rel=0.01)


def test_half_a_step_later_the_other_foot_is_in_front() -> None:
    person = make_person(0, 1)
    now, later = pose_person(person, 1.0, 1.0), pose_person(person, 1.0 + np.pi, 1.0)
    for left, right in (("legs", 2), ("arms", 3)):
        swing = getattr(now, left)[0][right, 2] - getattr(now, left)[1][right, 2]
        swapped = getattr(later, left)[1][right, 2] - getattr(later, left)[0][right, 2]
        if left == "legs" or person.bag in ("none", "backpack", "shoulder bag"):
            assert swing == pytest.approx(swapped)
        assert abs(swing) > 0.05


def test_a_pinhole_projects_as_computed_by_hand() -> None:
    # Level camera 10 m away, looking at height 1 m; a point 2 m nearer is 10 / 8 larger.
    view = View(yaw=0.0, pitch=0.0, distance=10.0, middle=1.0, scale=100.0, left=-50.0, top=-80.0)
    assert view.point(0.4, 1.0, 2.0) == pytest.approx((50 + 40 * 10 / 8, 80, 125, 2.0))
    assert view.point(0.0, 1.8, 0.0)[:2] == pytest.approx((50, 0))
    # Turned by a quarter, the front (z) points to the right; turned by half, the left hand is on the left of the picture.
    assert View(np.pi / 2, 0.0, 10.0, 1.0).point(0.0, 1.0, 0.5)[0] == pytest.approx(0.5)
    assert View(np.pi, 0.0, 10.0, 1.0).point(0.5, 1.0, 0.0)[0] == pytest.approx(-0.5)
    # Looking straight down, the height above the ground is depth.
    assert View(0.0, np.pi / 2, 10.0, 1.0).point(0.0, 2.0, 0.0)[3] == pytest.approx(1.0)


def test_drawing_depends_on_its_arguments_alone() -> None:
    first = np.asarray(draw_person(4, 1, 2, seed=9, size=(64, 32)))
    draw_person(5, 0, 0, seed=8, size=(64, 32))
    assert first.shape == (64, 32, 3)
    assert np.array_equal(first, np.asarray(draw_person(4, 1, 2, seed=9, size=(64, 32))))
    for other in ((5, 1, 2, 9), (4, 0, 2, 9), (4, 1, 3, 9), (4, 1, 2, 10)):
        identity, camera, shot, seed = other
        assert not np.array_equal(first, np.asarray(draw_person(identity, camera, shot, seed=seed, size=(64, 32))))


def test_a_distractor_is_a_picture_of_the_size_asked_for() -> None:
    for number in range(6):
        image = draw_distractor(number, number % 2, seed=1, size=(96, 40))
        assert image.size == (40, 96)
        assert np.asarray(image).std() > 5


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 0), (MAX_IDENTITIES, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1)])
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int, int, int]) -> None:
    identity, camera, shot, seed = numbers
    with pytest.raises(UsageError, match="identity must be from 0 to 9998"):
        draw_person(identity, camera, shot, seed=seed)


def test_color_tells_something_about_identity_but_not_all() -> None:
    num_ids, cameras, shots = 24, 4, 2
    rows, pids, camids = [], [], []
    for identity in range(num_ids):
        for camera in range(cameras):
            for shot in range(shots):
                rows.append(color_histogram(np.asarray(draw_person(identity, camera, shot, seed=0, size=(64, 32)))))
                pids.append(identity)
                camids.append(camera)
    features, pid, cam = np.array(rows), np.array(pids), np.array(camids)
    similarity = features @ features.T
    other_camera = cam[:, None] != cam[None, :]
    same = pid[:, None] == pid[None, :]
    assert similarity[other_camera & same].mean() > similarity[other_camera & ~same].mean() + 0.2
    best = np.where(other_camera, similarity, -1.0).argmax(1)
    rank1 = float((pid[best] == pid).mean())
    # Chance is 1 in 24. A model that looks at more than color has the rest to gain.
    assert 5 / num_ids < rank1 < 0.9, rank1
