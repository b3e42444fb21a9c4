"""A tiny model and a few generated people, shared by the tests of the demo."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hat-reid[demo]'")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Folder of a HAT with every part of the large one, for 64 x 32 images; nobody trained it."""
    import torch

    import hat

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = hat.create_model(
        "hat_resnet50",
        num_classes=5,
        image_size=(64, 32),
        backbone={"name": "mobilenet_v3_small"},
        depths=(1, 1, 2, 0),
        widths=(16, 24, 32, 32),
        num_bottlenecks=1,
        transformer={"num_heads": 4, "ffn_dim": 32},
    )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    hat.save_checkpoint(model.eval(), folder)
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """A generated data set: 8 people, 2 cameras, small pictures."""
    from hat.data import load_dataset
    from hat.data.synth import generate_dataset

    folder = tmp_path_factory.mktemp("people") / "people"
    generate_dataset(
        folder, num_ids=9, num_train_ids=1, num_cameras=2, images_per_camera=3, size=(64, 32), seed=7, num_workers=1
    )
    return load_dataset("synth", folder)


@pytest.fixture(scope="session")
def embedder(tiny_checkpoint):
    """The tiny model, open, for several users."""
    from hat.demo.workbench import SharedEmbedder
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


@pytest.fixture
def bench(tiny_checkpoint, embedder, people, tmp_path):
    """A workbench with the generated people's gallery."""
    from hat.demo.people import enroll_dataset, sample_queries
    from hat.demo.workbench import Workbench
    from hat.serve import Gallery

    bench = Workbench(tiny_checkpoint, embedder, tmp_path)
    bench.galleries["people"] = Gallery.open(tmp_path / "people.gallery", binding=bench.binding, create=True)
    enroll_dataset(bench.galleries["people"], embedder, people, max_images=1000, thumbnail_height=64)
    bench.samples = sample_queries(people, set(people.gallery.pids.tolist()))
    yield bench
    bench.close()
