"""Images from memory and from the disk are the same images."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from hat.data import iterate_batches
from hat.errors import ImageError
from hat.preprocessing import Preprocessing
from hat.train import images
from hat.train.config import DataConfig
from hat.train.distributed import DistributedContext
from hat.train.images import choose_cache, open_images

CPU = torch.device("cpu")
SMALL = Preprocessing(height=32, width=16)


@pytest.fixture(scope="module")
def paths(market_folder):
    return sorted(str(path) for path in (market_folder / "bounding_box_train").iterdir())


def test_both_sources_give_the_same_batches(paths):
    plan = np.array([[0, 5, 5], [23, 1, 2], [7, 7, 0]])
    expected = [torch.stack([SMALL(Image.open(paths[index])) for index in row]) for row in plan]
    for cache in ("device", "host", "none"):
        source = open_images(paths, SMALL, DataConfig(cache=cache, num_workers=2), DistributedContext(CPU))
        found = list(source(plan))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), cache


def test_a_bad_image_is_named(paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        open_images([*paths, str(bad)], SMALL, DataConfig(cache="device"), DistributedContext(CPU))
    source = open_images([*paths, str(bad)], SMALL, DataConfig(cache="none"), DistributedContext(CPU))
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(source(np.array([[0, len(paths)]])))


def test_auto_takes_the_first_place_where_images_fit(monkeypatch):
    free, measured = {"cuda": 1000, "cpu": 4000}, images.free_memory_bytes
    monkeypatch.setattr(images, "free_memory_bytes", lambda device: free[device.type])
    config, gpu = DataConfig(cache_fraction=0.5), torch.device("cuda", 0)
    assert [choose_cache(config, size, gpu) for size in (500, 501, 2000, 2001)] == ["device", "host", "host", "none"]
    assert [choose_cache(config, size, CPU) for size in (2000, 2001)] == ["device", "none"]
    assert choose_cache(DataConfig(cache="none"), 1, gpu) == "none"
    assert choose_cache(DataConfig(cache="device"), 10**9, gpu) == "device"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < measured(CPU) <= total


def test_processes_of_a_machine_share_its_memory_and_its_cores(monkeypatch, paths):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(images, "free_memory_bytes", lambda device: {"cuda": 1000, "cpu": 8000}[device.type])
    config, gpu = DataConfig(cache_fraction=0.5), torch.device("cuda", 0)
    assert [choose_cache(config, size, gpu) for size in (500, 501, 1000, 1001)] == ["device", "host", "host", "none"]
    assert [choose_cache(config, size, CPU) for size in (1000, 1001)] == ["device", "none"]

    asked = []

    def record(*arguments, **options):
        asked.append((options["num_workers"], options.get("in_turns", False)))
        return iterate_batches(*arguments, **options)

    monkeypatch.setattr(images, "iterate_batches", record)
    for num_cores, cache in ((11, "none"), (2, "none"), (11, "device")):
        monkeypatch.setattr(images, "default_num_workers", lambda cores=num_cores: cores)
        list(open_images(paths, SMALL, DataConfig(cache=cache), DistributedContext(CPU))(np.array([[0, 1]])))
    # Where batches are decoded between steps on the CPU, these have its cores to themselves.
    assert asked == [(2, True), (1, True), (2, False)]
