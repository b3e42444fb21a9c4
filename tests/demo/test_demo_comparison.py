"""Files side by side: ranks against brute force, embeddings made once, and maps of the model that looks."""

import copy

import numpy as np
import pytest

from hat.demo.app_state import AppState, SharedEmbedder
from hat.demo.comparison import Artifact, compare_artifacts
from hat.demo.pages.compare import compared_html, pictures_of
from hat.demo.pages.inside import look_inside, maps_html
from hat.demo.uploads import Upload
from hat.embedder import Embedder
from hat.errors import UsageError
from hat.runtime import TorchRuntime


class Stand:
    """An embedder whose embeddings are the mean colors of images, turned by an angle."""

    def __init__(self, like, turn=0.0):
        self.runtime, self.preprocessing = like.runtime, like.preprocessing
        self.turn, self.num_images = turn, 0

    def embed(self, images):
        self.num_images += len(images)
        colors = np.stack([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images])
        colors -= 127.5
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = colors @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 0.1 if self.turn else 1]], dtype=np.float32)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)


@pytest.fixture
def gallery_images(make_image):
    return [make_image(size=(8, 16), seed=seed) for seed in range(20)]


def test_ranks_shared_matches_and_cosines_are_those_of_brute_force(embedder, gallery_images, make_image):
    first, second = Artifact("first", Stand(embedder)), Artifact("second", Stand(embedder, 0.7))
    keys = [("people", number + 100) for number in range(20)]
    query = [make_image(size=(8, 16), seed=99)]
    lists = compare_artifacts([first, second], query, keys, gallery_images.__getitem__, top=5)

    orders, persons = [], []
    for artifact in (first, second):
        rows, person = artifact.embedder.embed(gallery_images), artifact.embedder.embed(query)[0]
        orders.append(np.argsort(-(rows @ person), kind="stable").tolist())
        persons.append(person)
    assert [[match.id - 100 for match in one.matches] for one in lists] == [order[:5] for order in orders]
    assert [match.reference_rank for match in lists[1].matches] == [orders[0].index(place) + 1 for place in orders[1][:5]]
    assert lists[1].num_shared == len(set(orders[0][:5]) & set(orders[1][:5]))
    assert lists[1].cosine == pytest.approx(float(persons[0] @ persons[1]), abs=1e-6) and lists[0].cosine == pytest.approx(1)
    assert all(one.query_s > 0 and one.images_per_s > 0 for one in lists)


def test_gallery_images_are_embedded_once_and_forgotten_when_asked(embedder, gallery_images):
    stand = Stand(embedder)
    artifact = Artifact("one", stand)
    keys = [("people", number) for number in range(20)]
    told = []
    first = artifact.gallery_embeddings(keys, gallery_images.__getitem__, told.append)
    assert stand.num_images == 20 == sum(told)
    again = artifact.gallery_embeddings([*keys[5:], ("other", 1)], lambda place: gallery_images[0], told.append)
    assert stand.num_images == 21 and np.array_equal(again[:15], first[5:])
    artifact.forget("people")
    assert artifact.missing([*keys, ("other", 1)]) == list(range(20))


def test_nothing_to_compare_is_refused(embedder, gallery_images):
    artifact = Artifact("one", Stand(embedder))
    with pytest.raises(UsageError, match="no query"):
        compare_artifacts([artifact], [], [("people", 1)], gallery_images.__getitem__)
    with pytest.raises(UsageError, match="no pictures"):
        compare_artifacts([artifact], gallery_images[:1], [], gallery_images.__getitem__)


def test_the_models_own_file_ranks_as_the_search_does(state):
    pictures = pictures_of(state.gallery(""), None)
    keys = [("people", one) for one in pictures.ids]
    query = state.query(Upload("first", pictures.image(0), 0.0))
    lists = compare_artifacts([state.artifacts[0], Artifact("<twin>", state.embedder)], [query.image], keys, pictures.image)
    assert lists[0].matches[0].id == pictures.ids[0] and lists[0].matches[0].similarity == pytest.approx(1, abs=1e-5)
    assert lists[1].cosine == pytest.approx(1, abs=1e-5) and lists[1].num_shared == len(lists[1].matches)
    page = compared_html(pictures, lists, query_pid=2)
    assert "&lt;twin&gt;" in page and "<twin>" not in page and "32 gallery images compared" in page
    assert page.count("hat-right") + page.count("hat-wrong") == 10


def test_only_a_whole_network_can_be_looked_into(state, tmp_path):
    assert state.inspectable() is state.embedder.runtime
    exact = SharedEmbedder(Embedder(TorchRuntime(copy.deepcopy(state.embedder.runtime.model), "cpu", inference_graph=True)))
    assert AppState("exact", exact, tmp_path).inspectable() is None


def test_maps_of_every_kind_are_shown_for_every_image(state, make_image):
    images = [make_image(seed=1), make_image(seed=2)]
    columns = look_inside(state.embedder.runtime.model, images)
    assert [(column.group, column.name) for column in columns] == [
        ("", "Image"),
        ("class activation", "MFE"),
        ("class activation", "DSA"),
        *(("attention of CLS", f"TFC{stage}") for stage in (1, 2, 3)),
        *(("averaged map", f"TFC{stage}") for stage in (1, 2, 3)),
    ]
    assert {tile.size for column in columns for tile in column.tiles} == {(128, 256)}
    page = maps_html(columns, ["Query", "Rank 1"])
    assert page.count("<img") == 18 and 'alt="Rank 1: attention of CLS TFC2"' in page and 'colspan="3"' in page
