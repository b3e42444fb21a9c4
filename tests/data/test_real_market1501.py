"""The real Market-1501, where the environment variable HAT_DATA names a folder that holds it."""

import os

import pytest
import torch

from hat.data import DISTRACTOR_PID, check_images, detect_dataset, load_dataset, load_images, merge_training, read_image
from hat.preprocessing import Preprocessing

pytestmark = pytest.mark.skipif(
    not os.environ.get("HAT_DATA"), reason="HAT_DATA names no folder with Market-1501-v15.09.15/ or its two zip files"
)


@pytest.fixture(scope="module")
def market():
    return load_dataset("market1501", os.environ["HAT_DATA"])


def test_counts_are_the_published_ones(market):
    assert (len(market.train), market.train.num_pids, market.train.num_cameras) == (12_936, 751, 6)
    assert (len(market.query), market.query.num_pids, market.query.num_cameras) == (3_368, 750, 6)
    assert (len(market.gallery), market.gallery.num_cameras) == (15_913, 6)
    assert set(market.gallery.pids.tolist()) == set(market.query.pids.tolist()) | {DISTRACTOR_PID}
    assert int((market.gallery.pids == DISTRACTOR_PID).sum()) == 2_798
    junk, counts = market.notes
    assert junk == "3,819 junk images (-1) of bounding_box_test left out"
    assert counts == "counts of images and identities are the published ones"
    assert detect_dataset(os.environ["HAT_DATA"]) == "market1501"
    assert merge_training([market]).num_pids == 751


def test_every_query_image_is_good_and_of_the_published_size(market):
    assert check_images(market.query) == (market.query, [])
    assert read_image(market.query[0].path).size == (64, 128)


def test_images_in_their_own_size_are_not_resampled(market):
    paths = market.train.paths[::400]
    images = load_images(paths, Preprocessing(height=128, width=64))
    for image, path in zip(images, paths, strict=True):
        pixels = torch.frombuffer(bytearray(read_image(path).tobytes()), dtype=torch.uint8).view(128, 64, 3)
        assert torch.equal(image, pixels.permute(2, 0, 1))
