"""Batch augmentation against slow references, one image and one pixel at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hat.model.backbone import import_torchvision
from hat.preprocessing import IMAGENET_MEAN
from hat.train import augmentation
from hat.train.augmentation import NUM_DRAWS, Augmentation, sample_params
from hat.train.config import AugmentationConfig
from hat.train.randomness import derive_seed, uniforms

reference = import_torchvision("transforms.functional")


def some_images(batch, height, width, seed=0):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(pad=st.integers(0, 4), seed=st.integers(0, 1000))
def test_pad_crop_flip_equals_a_slow_reference(pad, seed):
    images = some_images(5, 9, 6, seed)
    generator = np.random.default_rng(seed)
    top, left = generator.integers(0, 2 * pad + 1, (2, 5))
    flip = generator.random(5) < 0.5
    found = augmentation.pad_crop_flip(images, torch.from_numpy(top), torch.from_numpy(left), torch.from_numpy(flip), pad)
    for i, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, top[i] : top[i] + 9, left[i] : left[i] + 6]
        assert (found[i].numpy() == (crop[:, :, ::-1] if flip[i] else crop)).all()


def test_flip_alone_gives_the_image_or_its_mirror_image():
    images = some_images(64, 4, 6)
    half, always = (Augmentation(AugmentationConfig(pad=0, flip=flip, erasing=0), IMAGENET_MEAN, 0) for flip in (0.5, 1.0))
    result = half(images, 0, torch.arange(64))
    same = (result == images).flatten(1).all(dim=1)
    mirrored = (result == images.flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all() and 16 < int(mirrored.sum()) < 48
    assert (always(images, 0, torch.arange(64)) == images.flip(-1)).all()


COLORS = {"brightness": 0.1, "contrast": 0.2, "saturation": 0.3, "hue": 0.05}


def test_what_is_drawn_reaches_its_bounds_and_depends_on_nothing_else_that_is_drawn():
    config = AugmentationConfig(pad=2, erasing=1.0, grayscale=0.5, blur=0.5, **COLORS)
    numbers = uniforms(5, 0, torch.arange(4000), NUM_DRAWS)
    params = sample_params(config, numbers, 64, 32)
    is_erased = sample_params(AugmentationConfig(erasing=0.5), numbers, 64, 32).box[:, 2] > 0
    assert set(zip(params.top.tolist(), params.left.tolist(), strict=True)) == {(i, j) for i in range(5) for j in range(5)}
    spread = torch.tensor([0.1, 0.2, 0.3, 0.05])
    for bound, sign in zip(params.jitter.aminmax(dim=0), (-1, 1), strict=True):
        torch.testing.assert_close(bound, torch.tensor([1.0, 1, 1, 0]) + sign * spread, atol=1e-3, rtol=0)
    box_top, box_left, box_height, box_width = params.box.unbind(dim=1)
    assert (box_top + box_height).max() == 64 and (box_left + box_width).max() == 32
    places = (box_top / (65 - box_height), box_left / (33 - box_width))
    flags = (params.flip, params.grayscale, params.blur, is_erased)
    draws = (params.top, params.left, params.sigma, *flags, *params.jitter.T, *places)
    correlations = torch.corrcoef(torch.stack([draw.float() for draw in draws]))
    assert (correlations - torch.eye(len(draws))).abs().max() < 0.08
    images, still = some_images(16, 64, 32), torch.zeros(16, dtype=torch.bool)
    crops = Augmentation(AugmentationConfig(pad=2, flip=0, erasing=0), IMAGENET_MEAN, 5)(images, 0, torch.arange(16))
    assert (crops == augmentation.pad_crop_flip(images, params.top[:16], params.left[:16], still, 2)).all()


@pytest.mark.parametrize("name", COLORS)
def test_each_change_of_color_is_made_alone_too(name):
    images = some_images(16, 8, 8)
    config = AugmentationConfig(pad=0, flip=0, erasing=0, **{name: COLORS[name]})
    assert (Augmentation(config, IMAGENET_MEAN, 0)(images, 0, torch.arange(16)) != images).any()


@pytest.mark.parametrize("size", [(256, 128), (128, 64), (64, 64)])
def test_erased_rectangles_keep_their_bounds(size):
    height, width = size
    params = sample_params(AugmentationConfig(), uniforms(3, 0, torch.arange(4000), NUM_DRAWS), height, width)
    top, left, box_height, box_width = params.box.double().unbind(dim=1)
    erased = box_height > 0
    assert abs(erased.double().mean().item() - 0.5) < 0.04
    assert (box_width[~erased] == 0).all()
    assert min(top.min(), left.min()) >= 0
    assert (top + box_height <= height).all() and (left + box_width <= width).all()
    assert (box_height < height).all() and (box_width < width).all()
    area = (box_height * box_width / (height * width))[erased]
    ratio = (box_height / box_width)[erased]
    # Sides are rounded to whole pixels, so that a bound can be missed by half a pixel on each side.
    slack = 0.5 * (box_height + box_width)[erased] / (height * width) + 1e-4
    assert (area >= 0.02 - slack).all() and (area <= 0.4 + slack).all()
    assert (ratio >= 0.3 * 0.9).all() and (ratio <= 3.33 * 1.1).all()
    assert area.max() > 0.3 and area.min() < 0.04


def test_erase_fills_the_rectangle_with_the_mean_and_nothing_else():
    images = some_images(3, 10, 7)
    box = torch.tensor([[2, 1, 4, 3], [0, 0, 0, 0], [9, 6, 1, 1]])
    found = augmentation.erase(images, box, (1, 2, 3))
    expected = images.clone()
    for image, (top, left, height, width) in zip(expected, box.tolist(), strict=True):
        image[:, top : top + height, left : left + width] = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    assert (found == expected).all()
    images = torch.zeros(32, 3, 32, 16, dtype=torch.uint8)
    augmented = Augmentation(AugmentationConfig(pad=0, flip=0, erasing=1.0), IMAGENET_MEAN, 0)(images, 0, torch.arange(32))
    colors = augmented.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0).tolist()
    assert colors == [[0, 0, 0], [124, 116, 104]]


def test_grayscale_agrees_with_pillow():
    images = some_images(4, 8, 8)
    found = augmentation.to_grayscale(images)
    for i in range(4):
        gray = np.asarray(Image.fromarray(images[i].permute(1, 2, 0).numpy()).convert("L")).astype(int)
        assert np.abs(found[i].numpy().astype(int) - gray).max() <= 1


@pytest.mark.parametrize(
    ("index", "name", "factor"),
    [
        *((0, "brightness", 1.5), (0, "brightness", 0.4), (1, "contrast", 1.6), (1, "contrast", 0.0)),
        *((2, "saturation", 1.7), (2, "saturation", 0.0), (3, "hue", 0.5), (3, "hue", -0.2), (3, "hue", 0.07)),
    ],
)
def test_color_jitter_equals_torchvision(index, name, factor):
    expected = getattr(reference, f"adjust_{name}")
    images = some_images(2, 16, 8)
    images[0, :, 0] = images[0, :1, 0]  # a row of gray, which has no hue
    images[1, :, 0] = 0
    factors = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 0]])
    assert (augmentation.color_jitter(images, factors) == images).all()
    factors[0, index] = factor
    found = augmentation.color_jitter(images, factors)
    assert (found[0].int() - expected(images[0], factor).int()).abs().max() <= 1  # torchvision rounds half of the results down
    assert (found[1] == images[1]).all()


@pytest.mark.parametrize("sigma", [(0.1, 1.0), (0.7, 2.0)])
def test_gaussian_blur_equals_torchvision(sigma):
    images = some_images(2, 16, 12)
    found = augmentation.gaussian_blur(images, torch.tensor(sigma), radius=5)
    for i in range(2):
        assert (found[i].int() - reference.gaussian_blur(images[i], [11, 11], [sigma[i]] * 2).int()).abs().max() <= 1


def test_blur_and_grayscale_are_done_to_the_chosen_images_alone():
    images, positions = some_images(200, 16, 8), torch.arange(200)
    config = AugmentationConfig(pad=0, flip=0, erasing=0, blur=0.3, blur_sigma=(1.0, 3.0))
    params = sample_params(config, uniforms(0, 0, positions, NUM_DRAWS), 16, 8)
    assert 40 < int(params.blur.sum()) < 80
    assert params.sigma.min() >= 1 and params.sigma.max() <= 3 and params.sigma.std() > 0.4
    blurred = augmentation.gaussian_blur(images, params.sigma, radius=7)  # as wide as the image lets it be
    expected = torch.where(params.blur[:, None, None, None], blurred, images)
    assert (Augmentation(config, IMAGENET_MEAN, 0)(images, 0, positions) == expected).all()
    config = AugmentationConfig(pad=0, flip=0, erasing=0, grayscale=0.3)
    params = sample_params(config, uniforms(0, 0, positions, NUM_DRAWS), 16, 8)
    found = Augmentation(config, IMAGENET_MEAN, 0)(images, 0, positions)
    assert ((found == found[:, :1]).flatten(1).all(dim=1) == params.grayscale).all()


def test_what_an_image_gets_depends_on_its_position_alone():
    images = some_images(12, 16, 8)
    everything = AugmentationConfig(pad=3, grayscale=0.3, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, blur=0.5)
    augment, again, by_another_seed = (Augmentation(everything, IMAGENET_MEAN, seed) for seed in (7, 7, 8))
    positions = torch.arange(100, 112)
    whole = augment(images, 2, positions)
    parts = torch.cat([augment(images[rows], 2, positions[rows]) for rows in (slice(0, 5), slice(5, 12))])
    assert (whole == parts).all() and (whole == again(images, 2, positions)).all()
    for other in (augment(images, 3, positions), by_another_seed(images, 2, positions)):
        assert (other != whole).any()


def test_random_numbers_equal_the_published_generator_and_derived_seeds_differ():
    # SplitMix64's second output for a state is the hash of that state plus two steps of its constant.
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(value):
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    assert mix((0 + golden) & mask) == 0xE220A8397B1DCDAF  # first output for seed 0, as published
    key = derive_seed(11, 4)
    expected = [[mix((mix((key + (i + 1) * golden) & mask) + d * golden) & mask) >> 40 for d in (1, 2, 3)] for i in (0, 9)]
    found = uniforms(11, 4, torch.tensor([0, 9]), 3)
    assert (found == torch.tensor(expected, dtype=torch.float32) / 2**24).all()

    seeds = {derive_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)
