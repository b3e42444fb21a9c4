"""Searching over HTTP: the ranking of the library, with filters, several images of one person, records and re-ranking."""

import json

import numpy as np
import pytest
from gallery_cases import new_record, unit
from service_stand_ins import EMBED_DIM, embedding_of, files, picture, running

from hat.serve import Filter, person_embedding, search_gallery

NUM_PEOPLE, NUM_CAMERAS = 12, 3
START = 1_700_000_000.0


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Twelve people, each seen by three cameras a minute apart, in pictures that differ in size."""
    with running(galleries=("people", "plain"), root=tmp_path_factory.mktemp("search")) as (client, service):
        gallery = service.galleries.get("people")
        everybody = [(person, camera) for person in range(NUM_PEOPLE) for camera in range(NUM_CAMERAS)]
        pictures = [picture(person, size=(14 + 4 * camera, 40 + 7 * camera)) for person, camera in everybody]
        attributes = [{"coat": "red" if person % 2 else "blue", "height": 1.5 + person / 100} for person in range(NUM_PEOPLE)]
        records = [
            new_record(f"{p}_{c}", pid=p, camid=c, time_s=START + 60 * c, attributes=attributes[p]) for p, c in everybody
        ]
        gallery.add(np.stack([embedding_of(data) for data in pictures]), records)
        fill(service.galleries.get("plain"), CENTERED, camids=(1, 1, 2, 2, None))
        yield client, gallery


PERSON, CAMERA = np.eye(EMBED_DIM)[:2], 3 * np.eye(EMBED_DIM)[2:4]
# Two people seen by two cameras, each of which adds one direction to all of its images: ids 1 to 4; and somebody else.
CENTERED = unit(np.stack([*(PERSON[p] + CAMERA[c] for c in (0, 1) for p in (0, 1)), np.eye(EMBED_DIM)[9]]))


def fill(gallery, rows, camids):
    gallery.add(rows, [new_record(n, camid=camid) for n, camid in enumerate(camids)])


@pytest.fixture
def search(served):
    client, _ = served

    def ask(*pictures, **fields):
        answer = client.post("/v1/search", files=files(*pictures), data={"gallery": "people", **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    return ask


def ids_of(result):
    return [match["id"] for match in result["matches"]]


def test_search_ranks_for_each_image_as_the_library_does(served, search):
    _, gallery = served
    queries = [picture(person, size=(31, 71)) for person in (4, 7)]
    results = search(*queries, top=5)
    expected = search_gallery(gallery, np.stack([embedding_of(one) for one in queries]), top=5)
    assert [result["query"] for result in results] == ["0.png", "1.png"]
    for result, matches, person in zip(results, expected, (4, 7), strict=True):
        assert ids_of(result) == [match.record.id for match in matches]
        similarities = [match["similarity"] for match in result["matches"]]
        assert similarities == pytest.approx([one.similarity for one in matches], abs=1e-6)
        assert [match["pid"] for match in result["matches"]][:3] == [person] * 3
    best = results[0]["matches"][0]
    assert best["source"].startswith("4_") and best["attributes"]["coat"] == "blue" and best["distance"] is None
    bar = (similarities[2] + similarities[3]) / 2
    assert ids_of(search(queries[1], min_similarity=str(bar))[0]) == ids_of(results[1])[:3]


def test_search_finds_what_passes_the_filter(served, search):
    _, gallery = served
    data = picture(4)
    for fields, where in (
        ({"camids": ["0", "2"]}, Filter.of(camids={0, 2})),
        ({"exclude_camids": "1"}, Filter.of(exclude_camids={1})),
        ({"pids": ["3", "4", "5"]}, Filter.of(pids={3, 4, 5})),
        ({"since_s": str(START + 60), "until_s": str(START + 120)}, Filter(since_s=START + 60, until_s=START + 120)),
        ({"attributes": json.dumps({"coat": "red"}), "camids": "1"}, Filter.of(camids={1}, attributes={"coat": "red"})),
        ({"camids": "99"}, Filter.of(camids={99})),
    ):
        (result,) = search(data, top=100, **fields)
        (expected,) = search_gallery(gallery, embedding_of(data)[None], top=100, where=where)
        assert ids_of(result) == [match.record.id for match in expected], fields
        assert len(expected) == len(gallery.ids(where))


def test_search_makes_one_query_of_several_images_and_records_of_one_person(served, search):
    _, gallery = served
    pictures = [picture(2), picture(5)]
    (result,) = search(*pictures, top=6, one_person="true")
    query = person_embedding(np.stack([embedding_of(one) for one in pictures]))
    (expected,) = search_gallery(gallery, query[None], top=6)
    assert result["query"] == "0.png, 1.png" and ids_of(result) == [match.record.id for match in expected]
    assert {match["pid"] for match in result["matches"]} == {2, 5}
    (result,) = search(picture(8), record_ids="1", one_person="1", top=40)
    assert result["query"] == "0.png, record 1"
    assert 1 not in ids_of(result) and len(ids_of(result)) == len(gallery) - 1


def test_search_does_not_find_a_record_by_itself(served):
    client, gallery = served
    own = [int(one) for one in gallery.ids(Filter(pids=frozenset({6})))]
    answer = client.post("/v1/search", json={"gallery": "people", "record_ids": own[:2], "top": 2}).json()
    assert [result["query"] for result in answer["results"]] == [f"record {own[0]}", f"record {own[1]}"]
    assert [set(ids_of(result)) for result in answer["results"]] == [set(own) - {own[0]}, set(own) - {own[1]}]
    together = client.post("/v1/search", json={"gallery": "people", "record_ids": own[:2], "top": 1, "one_person": True}).json()
    assert [ids_of(result) for result in together["results"]] == [[own[2]]]


def test_search_reranks_and_tells_the_rank_before(served, search):
    _, gallery = served
    data = picture(9, size=(25, 33))
    (result,) = search(data, top=7, rerank="true", rerank_pool=20)
    (expected,) = search_gallery(gallery, embedding_of(data)[None], top=7, rerank=True, rerank_pool=20)
    assert ids_of(result) == [match.record.id for match in expected]
    for match, one in zip(result["matches"], expected, strict=True):
        assert match["distance"] == pytest.approx(one.distance, abs=1e-6) and match["rank_before"] == one.rank_before


def test_search_centers_cameras(served):
    """By hand: without the mean of both people, which its camera adds, a person is their difference or the opposite of it."""
    client, _ = served

    def ask(**fields):
        answer = client.post("/v1/search", json={"gallery": "plain", "camids": [1, 2], "top": 3, **fields})
        (result,) = answer.json()["results"]
        return ids_of(result), [match["similarity"] for match in result["matches"]]

    assert ask(record_ids=[1])[0] == [2, 3, 4]  # the other person, seen by the same camera, comes first
    ids, similarities = ask(record_ids=[1], center_cameras=True)
    assert ids == [3, 2, 4] and similarities == pytest.approx([1, -1, -1], abs=1e-5)
    assert ask(record_ids=[1], center_cameras=True, min_similarity=0)[0] == [3]
    assert ask(record_ids=[1, 3], center_cameras=True, one_person=True)[0] == [2, 4]
    assert ask(record_ids=[1], center_cameras=True, rerank=True)[0][0] == 3


def test_search_centers_images_by_the_camera_that_is_said(search):
    """An image loses the mean of its camera, and where that is not known, as the fifth record, the mean of all."""
    data = picture(3)
    means = [CENTERED[:2].mean(axis=0)] * 2 + [CENTERED[2:4].mean(axis=0)] * 2 + [CENTERED.mean(axis=0)]
    for fields, mean in (({"query_camid": "1"}, means[0]), ({}, means[4])):
        (result,) = search(data, gallery="plain", center_cameras="true", **fields)
        expected = unit(CENTERED - np.stack(means)) @ unit(embedding_of(data) - mean)
        found = {match["id"]: match["similarity"] for match in result["matches"]}
        assert [found[number] for number in range(1, 6)] == pytest.approx(list(expected), abs=1e-5)


def test_search_does_not_center_what_it_cannot(served, search, monkeypatch):
    client, gallery = served
    with running(galleries=("people",)) as (other, service):
        fill(service.galleries.get("people"), CENTERED[:2], camids=(1, None))
        answer = other.post("/v1/search", json={"gallery": "people", "record_ids": [1], "center_cameras": True})
        assert answer.status_code == 422 and "people: no camera has two images" in answer.json()["detail"]
    monkeypatch.setattr("hat.serve.service.routes.search._MAX_CENTERED_VALUES", (len(gallery) - 1) * EMBED_DIM)
    answer = client.post("/v1/search", json={"gallery": "people", "record_ids": [1], "center_cameras": True})
    assert (answer.status_code, "at most 35 records" in answer.json()["detail"]) == (422, True)
    described = client.get("/openapi.json").json()["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    for content in described.values():
        assert content["schema"]["properties"]["center_cameras"]["default"] is False


def test_search_refuses_a_wrong_request_with_the_field_that_is_wrong(served):
    client, _ = served
    assert client.post("/v1/search", json={}).json()["detail"] == "gallery: Field required"
    answer = client.post("/v1/search", json={"gallery": "people"})
    assert (answer.status_code, "in fields named images, or record_ids" in answer.text) == (422, True)
    assert client.post("/v1/search", json={"gallery": "nobody", "record_ids": [1]}).status_code == 404
    for fields, sentence in (
        ({"gallery": "../people"}, "gallery: "),
        ({"gallery": "people\n"}, "gallery: "),
        ({"record_ids": [999]}, "record"),
        ({"record_ids": [2**70]}, "record_ids.0"),
        ({"record_ids": [1] * 100}, "record_ids: "),
        ({"record_ids": [1, 4], "one_person": True}, "images of one person, got the identities 0, 1"),
        ({"record_ids": [1] * 30, "top": 1000, "rerank": True}, "too many"),
        ({"top": 0}, "top: "),
        ({"top": 10**6}, "top: "),
        ({"top": 1001}, "top: at most 1,000"),
        ({"rerank_pool": 10**6}, "rerank_pool: "),
        ({"min_similarity": 2}, "min_similarity: "),
        ({"attributes": {"a": [1]}}, "attributes"),
        ({"attributes": {"": 1}}, "attributes"),
        ({"camera": 1}, "camera: "),
        ({"query_camid": 1}, "query_camid changes nothing"),
    ):
        answer = client.post("/v1/search", json={"gallery": "people", "record_ids": [1], **fields})
        assert (answer.status_code, sentence in answer.json()["detail"]) == (422, True), (fields, answer.text)
    for body in (b"", b"{", b"[]", b"null", b'{"gallery": NaN}', b'{"gallery": "\\ud800"}', b"\xff\xfe"):
        answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), (body, answer.text)
