"""Real images of Market-1501: what a search finds, counted by hand, is what the evaluation says of the same model."""

import numpy as np
import pytest
import torch
from tiny_hat import batch_norms

import hat
from hat.data import load_images
from hat.data.datasets import ReIDDataset, Split
from hat.preprocessing import Preprocessing
from hat.runtime import TorchRuntime, runtime_info
from hat.serve import Gallery, binding_of, enroll_images, search_gallery
from hat.serve.enroll.image_sources import ImageSources
from hat.serve.enroll.items import read_name

pytestmark = pytest.mark.slow


@pytest.fixture
def subset(hat_data):
    """Forty identities with all their images, and every twentieth of the others, distractors included."""
    whole = hat.load_dataset("market1501", hat_data)
    chosen = set(np.unique(whole.query.pids)[::18][:40].tolist())
    query = [sample for sample in whole.query if sample.pid in chosen]
    gallery = [sample for place, sample in enumerate(whole.gallery) if sample.pid in chosen or place % 20 == 0]
    return ReIDDataset("market1501", Split("train", ()), Split("query", query), Split("gallery", gallery))


@pytest.fixture
def model(subset, tiny_model):
    """A model that nobody trained, whose batch norms know the data: without them all embeddings would be nearly one."""
    images = load_images(subset.gallery.paths[::10], Preprocessing(height=64, width=32))
    for norm in batch_norms(tiny_model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that is seen
    with torch.no_grad():
        for batch in images.split(32):
            tiny_model.train()(batch)
    return tiny_model.eval()


def average_precision(matches, pid, camid):
    others = [match.record.pid == pid for match in matches if (match.record.pid, match.record.camid) != (pid, camid)]
    precisions = [sum(others[:rank]) / rank for rank, is_match in enumerate(others, start=1) if is_match]
    return float(np.mean(precisions)) if precisions else None


def test_the_mean_average_precision_of_searches_is_that_of_the_evaluation(subset, model, tmp_path):
    embedder = hat.Embedder(TorchRuntime(model))
    expected = hat.evaluate(embedder, subset)
    binding = binding_of(runtime_info(embedder.runtime))
    with Gallery.open(tmp_path / "market.gallery", binding=binding, create=True) as gallery:
        enrollment = enroll_images(gallery, embedder, ImageSources(subset.gallery.paths).items())
        assert (enrollment.num_added, enrollment.bad) == (len(subset.gallery), [])
        found = search_gallery(gallery, embedder.embed_paths(subset.query.paths), top=len(gallery))
    assert {len(matches) for matches in found} == {len(subset.gallery)}
    labels = [read_name(path.rpartition("/")[2]) for path in subset.query.paths]
    precisions = [average_precision(matches, said.pid, said.camid) for matches, said in zip(found, labels, strict=True)]
    counted = [one for one in precisions if one is not None]
    assert len(counted) == expected.num_queries > 100
    assert np.mean(counted) == pytest.approx(expected.mAP, abs=5e-5)
