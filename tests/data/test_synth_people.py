"""Who is drawn: identities are distinct, evenly spread and stable, and the pictures hold something to learn."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hat.data.synth import MAX_IDENTITIES, draw_distractor, draw_person, make_person
from hat.data.synth.figure import pose_person
from hat.data.synth.solids import Solids, View
from hat.data.synth.wardrobe import HAIR_STYLES, NUM_PEOPLE, SKIN_TONES
from hat.errors import UsageError


def nearest_tone(color):
    return int(np.abs(np.array(SKIN_TONES) - color).sum(1).argmin())


def color_histogram(pixels):
    """Square roots of 8 x 8 x 8 RGB histograms of six stripes, so that a dot product compares the shares of colors."""
    stripes = []
    for stripe in np.array_split(pixels.astype(int) // 32, 6, axis=0):
        codes = stripe.reshape(-1, 3) @ (64, 8, 1)
        stripes.append(np.sqrt(np.bincount(codes, minlength=512) / len(codes)))
    return np.concatenate(stripes)


@pytest.fixture(scope="module")
def people():
    return [make_person(5, index) for index in range(1000)]


def test_make_person_people_differ_and_share_single_attributes(people):
    assert len({(p.description, nearest_tone(p.skin)) for p in people}) == len(people)
    # Anyone's top is worn by many others too: its color alone tells nobody.
    tops = Counter(p.description.split(",")[0].split(" ")[0] for p in people)
    assert min(tops.values()) > 20
    assert NUM_PEOPLE > MAX_IDENTITIES
    assert [p.description for p in people[:20]] != [make_person(1, i).description for i in range(20)]


def test_make_person_spreads_skin_tones_hair_styles_and_figures_evenly(people):
    tones = Counter(nearest_tone(p.skin) for p in people)
    assert len(tones) == len(SKIN_TONES)
    assert all(87 < count < 163 for count in tones.values()), tones
    styles = Counter(p.hair_style for p in people)
    assert set(styles) == set(HAIR_STYLES)
    assert all(45 < count < 99 for count in styles.values()), styles
    assert 0.42 < np.mean([p.curved for p in people]) < 0.58


def test_make_person_headscarf_comes_with_covered_arms_and_legs(people):
    scarved = [p for p in people if p.hair_style == "headscarf"]
    assert not [p for p in scarved if p.upper == "t-shirt" or p.lower in ("shorts", "bare legs") or p.beard]
    assert all(p.hem <= 0.12 for p in scarved if p.lower == "skirt" or p.upper == "dress")


@pytest.mark.parametrize("phase", np.linspace(0, 6.2, 5).tolist())
def test_pose_person_feet_on_the_ground_and_bones_of_constant_length(phase):
    posture = pose_person(make_person(0, 1), phase, 1.0)
    assert 0 <= posture.legs[..., 1].min() < 0.03
    bones = np.linalg.norm(np.diff(posture.legs[:, :3], axis=1), axis=-1)
    assert bones == pytest.approx(np.array([[0.238, 0.235]] * 2), rel=0.01)
    now, later = posture.legs[:, 2, 2], pose_person(make_person(0, 1), phase + np.pi, 1.0).legs[:, 2, 2]
    assert now[0] - now[1] == pytest.approx(later[1] - later[0])  # half a step later the other foot is in front


def test_view_projects_as_computed_by_hand():
    # Level camera 10 m away, looking at height 1 m; a point 2 m nearer is 10 / 8 larger.
    view = View(yaw=0.0, pitch=0.0, distance=10.0, middle=1.0, scale=100.0, left=-50.0, top=-80.0)
    assert view.project(view.turn(np.array([0.4, 1.0, 2.0]))) == pytest.approx((50 + 40 * 10 / 8, 80))
    # Turned by a quarter, the front points to the right; turned by half, the left hand is on the left of the picture.
    assert View(np.pi / 2, 0.0, 10.0, 1.0).turn(np.array([0.0, 1.0, 0.5])) == pytest.approx((0.5, 0, 0))
    assert View(np.pi, 0.0, 10.0, 1.0).turn(np.array([0.5, 1.0, 0.0])) == pytest.approx((-0.5, 0, 0))
    # Looking straight down, the height above the ground is nearness.
    assert View(0.0, np.pi / 2, 10.0, 1.0).turn(np.array([0.0, 2.0, 0.0])) == pytest.approx((0, 0, 1.0))


def test_solids_draw_the_nearer_one_and_shade_away_from_the_light():
    solids = Solids()
    for z, color in ((0.2, (0.8, 0.0, 0.0)), (-0.2, (0.0, 0.8, 0.0))):
        solids.ball((0.0, 1.0, z), (0.2, 0.2, 0.1), color, rows=20, columns=32)
    view = View(0.0, 0.0, 10.0, 1.0, 100.0, -32.0, -32.0)
    light = np.array((0.6, 0.0, 0.8))
    front = solids.draw(view, light, (64, 64), 1.0)
    behind = solids.draw(replace(view, yaw=np.pi), light, (64, 64), 1.0)
    assert front[32, 32, 0] > front[32, 32, 1] + 0.5
    assert behind[32, 32, 1] > behind[32, 32, 0] + 0.5
    assert front[32, 45, 0] > front[32, 19, 0] + 0.1
    # A ball of 20 cm radius at 100 pixels a meter, a little larger because it is nearer.
    assert front[..., 3].sum() == pytest.approx(np.pi * (20 * 10 / 9.8) ** 2, rel=0.06)
    assert front[0, 0].tolist() == [0, 0, 0, 0]


def test_draw_person_depends_on_its_arguments_alone():
    first = np.asarray(draw_person(4, 1, 2, seed=9, size=(64, 32)))
    draw_person(5, 0, 0, seed=8, size=(64, 32))
    assert first.shape == (64, 32, 3)
    assert np.array_equal(first, np.asarray(draw_person(4, 1, 2, seed=9, size=(64, 32))))
    for identity, camera, shot, seed in ((5, 1, 2, 9), (4, 0, 2, 9), (4, 1, 3, 9), (4, 1, 2, 10)):
        assert not np.array_equal(first, np.asarray(draw_person(identity, camera, shot, seed=seed, size=(64, 32))))


@pytest.mark.parametrize("number", range(4))
def test_draw_distractor_size(number):
    image = draw_distractor(number, number % 2, seed=1, size=(48, 20))
    assert image.size == (20, 48) and np.asarray(image).std() > 5


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 0), (MAX_IDENTITIES, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1)])
def test_draw_person_refuses_numbers_out_of_range(numbers):
    identity, camera, shot, seed = numbers
    with pytest.raises(UsageError, match="identity must be from 0 to 9998"):
        draw_person(identity, camera, shot, seed=seed)


def test_draw_person_color_tells_something_about_identity_but_not_all():
    num_ids, num_cameras = 24, 4
    pid, cam = np.divmod(np.arange(num_ids * num_cameras), num_cameras)
    pictures = [draw_person(int(i), int(j), size=(64, 32)) for i, j in zip(pid, cam, strict=True)]
    features = np.array([color_histogram(np.asarray(picture)) for picture in pictures])
    similarity = features @ features.T
    other_camera, same = cam[:, None] != cam, pid[:, None] == pid
    assert similarity[other_camera & same].mean() > similarity[other_camera & ~same].mean() + 0.2
    best = np.where(other_camera, similarity, -1.0).argmax(1)
    rank1 = float((pid[best] == pid).mean())
    # Chance is 1 in 24. A model that looks at more than color has the rest to gain.
    assert 5 / num_ids < rank1 < 0.9, rank1
