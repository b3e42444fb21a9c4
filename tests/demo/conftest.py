"""A tiny model and a few generated people, shared by the tests of the demo."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hat-reid[demo]'")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Folder of a HAT with every part of the large one, for 64 x 32 images; nobody trained it."""
    import torch
    from tiny_hat import lively_hat

    import hat

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    hat.save_checkpoint(lively_hat(), folder)
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """A generated data set: 8 people, 2 cameras, small pictures."""
    from hat.data import load_dataset
    from hat.data.synth import generate_dataset

    folder = tmp_path_factory.mktemp("people") / "people"
    sizes = {"num_ids": 9, "num_train_ids": 1, "num_cameras": 2, "images_per_camera": 3, "size": (64, 32)}
    generate_dataset(folder, **sizes, seed=7, num_workers=1)
    return load_dataset("synth", folder)


@pytest.fixture(scope="session")
def embedder(tiny_checkpoint):
    """The tiny model, open, for several users."""
    from hat.demo.app_state import SharedEmbedder
    from hat.embedder import Embedder

    return SharedEmbedder(Embedder.open(tiny_checkpoint, device="cpu"))


@pytest.fixture
def make_image():
    """Images of noise, and as files."""

    def make(path=None, *, size=(32, 64), seed=0):
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        if path is None:
            return image
        image.save(path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def make_state(tiny_checkpoint, embedder, people, tmp_path_factory):
    """Makes app states with the generated people's gallery, enrolled once, in a folder."""
    from hat.demo.app_state import AppState
    from hat.demo.people import enroll_dataset, sample_queries
    from hat.serve import Gallery, binding_of

    enrolled = tmp_path_factory.mktemp("enrolled") / "people.gallery"
    with Gallery.open(enrolled, binding=binding_of(embedder.info), create=True) as gallery:
        enroll_dataset(gallery, embedder, people, people.gallery)
    samples = sample_queries(people, people.gallery.pids.tolist())

    def make(folder, **options):
        shutil.copy(enrolled, folder)
        galleries = {"people": Gallery.open(folder / "people.gallery", binding=binding_of(embedder.info))}
        return AppState(str(tiny_checkpoint), embedder, folder, samples=samples, galleries=galleries, **options)

    return make


@pytest.fixture
def state(make_state, tmp_path):
    """An app state with the generated people's gallery."""
    state = make_state(tmp_path)
    yield state
    state.close()


@pytest.fixture
def foreign_gallery(embedder, tmp_path):
    """The empty gallery of another model."""
    from hat.serve import Gallery, binding_of

    binding = replace(binding_of(embedder.info), fingerprint="0" * 64, source_sha256="0" * 64, embed_dim=128)
    Gallery.open(tmp_path / "theirs.gallery", binding=binding, create=True).close()
    return tmp_path / "theirs.gallery"


@pytest.fixture(scope="session")
def sample(people):
    """The first query that the page offers."""
    from hat.demo.people import sample_queries

    return sample_queries(people, people.gallery.pids.tolist())[0]


@pytest.fixture(scope="session")
def served(make_state, tiny_checkpoint, people, tmp_path_factory):
    """The page, served by the command in a process of its own: (address, gallery's file, folder for temporary files)."""
    from demo_browser import hat_demo

    folder = tmp_path_factory.mktemp("served")
    make_state(folder).close()
    gallery, data = str(folder / "people.gallery"), str(Path(people.query.paths[0]).parents[1])
    with hat_demo(str(tiny_checkpoint), "--gallery", gallery, "--data", data, TMPDIR=str(folder)) as url:
        yield url, folder / "people.gallery", folder


@pytest.fixture(scope="module")
def browser():
    """A browser; the test is skipped where there is none."""
    from demo_browser import chromium

    with chromium() as found:
        yield found
