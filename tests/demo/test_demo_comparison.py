"""Files side by side: ranks against brute force, embeddings made once, and maps of the model that looks."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from hat.demo.app_state import AppState, SharedEmbedder
from hat.demo.pages.compare import Pictures, compare_artifacts, compared_html
from hat.demo.pages.inside import look_inside, maps_html
from hat.demo.uploads import Upload
from hat.embedder import Embedder
from hat.errors import UsageError
from hat.runtime import TorchRuntime


class MeanColors:
    """An embedder whose embeddings are the mean colors of images, turned by an angle."""

    def __init__(self, like, turn=0.0):
        self.runtime, self.preprocessing = like.runtime, like.preprocessing
        self.turn, self.num_images = turn, 0

    def embed(self, images):
        self.num_images += len(images)
        colors = np.stack([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images]) - 127.5
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = colors @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 0.1 if self.turn else 1]], dtype=np.float32)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)


@pytest.fixture
def pictures(make_image):
    """Twenty records with pictures, numbered from 100 on."""
    images = [make_image(size=(8, 16), seed=seed) for seed in range(20)]
    return SimpleNamespace(name="people", ids=range(100, 120), image=lambda id_: images[id_ - 100], images=images)


def test_ranks_shared_matches_and_cosines_are_those_of_brute_force(embedder, pictures, make_image):
    files = [SharedEmbedder(MeanColors(embedder), "first"), SharedEmbedder(MeanColors(embedder, 0.7), "second")]
    query = [make_image(size=(8, 16), seed=99)]
    lists = compare_artifacts(files, query, pictures, top=5)

    persons = [file.embed(query)[0] for file in files]
    similarities = [file.embed(pictures.images) @ person for file, person in zip(files, persons, strict=True)]
    orders = [np.argsort(-values, kind="stable").tolist() for values in similarities]
    assert [[match.id - 100 for match in one.matches] for one in lists] == [order[:5] for order in orders]
    assert [match.reference_rank for match in lists[1].matches] == [orders[0].index(place) + 1 for place in orders[1][:5]]
    assert lists[1].num_shared == len(set(orders[0][:5]) & set(orders[1][:5]))
    assert lists[1].cosine == pytest.approx(float(persons[0] @ persons[1]), abs=1e-6) and lists[0].cosine == pytest.approx(1)
    assert [one.name for one in lists] == ["first", "second"]
    assert all(one.query_s > 0 and one.images_per_s > 0 for one in lists)


def test_gallery_images_are_embedded_once_and_forgotten_when_asked(embedder, pictures):
    inner, told = MeanColors(embedder), []
    artifact = SharedEmbedder(inner)
    first = artifact.embed_records("people", pictures.ids, pictures.image, lambda *counts: told.append(counts))
    assert inner.num_images == 20 and told == [(16, 20), (20, 20)]
    again = artifact.embed_records("people", pictures.ids[5:], pictures.image)
    artifact.embed_records("other", [101], pictures.image)
    assert inner.num_images == 21 and np.array_equal(again, first[5:])
    artifact.forget("people")
    assert list(artifact.rows) == [("other", 101)]


def test_nothing_to_compare_is_refused(embedder, pictures):
    artifact = SharedEmbedder(MeanColors(embedder))
    with pytest.raises(UsageError, match="no query"):
        compare_artifacts([artifact], [], pictures)
    pictures.ids = ()
    with pytest.raises(UsageError, match="no pictures"):
        compare_artifacts([artifact], pictures.images[:1], pictures)


def test_the_models_own_file_ranks_as_the_search_does(state):
    pictures = Pictures.of("people", state.gallery(""))
    query = state.query(Upload("first", pictures.image(pictures.ids[0]), 0.0))
    lists = compare_artifacts([state.embedder, SharedEmbedder(state.embedder, "<twin>")], [query.image], pictures)
    assert lists[0].matches[0].id == pictures.ids[0] and lists[0].matches[0].similarity == pytest.approx(1, abs=1e-5)
    assert lists[1].cosine == pytest.approx(1, abs=1e-5) and lists[1].num_shared == len(lists[1].matches)
    page = compared_html(pictures, lists, query_pid=2)
    assert "&lt;twin&gt;" in page and "<twin>" not in page and "32 gallery images compared" in page
    assert page.count("hat-right") + page.count("hat-wrong") == 10


def test_maps_of_every_kind_are_shown_for_every_image_of_a_whole_network_alone(state, make_image, tmp_path):
    assert state.inspectable() is state.embedder.runtime
    exact = SharedEmbedder(Embedder(TorchRuntime(copy.deepcopy(state.embedder.runtime.model), "cpu", inference_graph=True)))
    assert AppState("exact", exact, tmp_path).inspectable() is None
    images = [make_image(seed=1), make_image(seed=2)]
    columns = look_inside(state.embedder.runtime.model, images)
    stages = [(group, f"TFC{stage}") for group in ("attention of CLS", "averaged map") for stage in (1, 2, 3)]
    first = [("", "Image"), ("class activation", "MFE"), ("class activation", "DSA")]
    assert [(column.group, column.name) for column in columns] == first + stages
    assert {tile.size for column in columns for tile in column.tiles} == {(128, 256)}
    page = maps_html(columns, ["Query", "Rank 1"])
    assert page.count("<img") == 18 and 'alt="Rank 1: attention of CLS TFC2"' in page and 'colspan="3"' in page
