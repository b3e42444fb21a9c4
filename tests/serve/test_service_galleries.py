"""Galleries over HTTP: made, filled, listed page by page, looked into, emptied."""

import hashlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service_stand_ins import ColorRuntime, embedding_of, files, hang_up, picture, running, until

from hat.errors import UsageError
from hat.serve import Gallery, binding_of
from hat.serve.service import AuditLog, GalleryRegistry
from hat.serve.service.api_error import ApiError
from hat.serve.service.gallery_registry import parse_gallery


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running(root=tmp_path_factory.mktemp("galleries"), thumbnail_height=48) as both:
        yield both


@pytest.fixture
def client(served):
    return served[0]


@pytest.fixture
def people(served, client):
    """Path of an empty gallery of the test's own, a file on disk."""
    answer = client.post("/v1/galleries", json={"name": f"people-{len(served[1].galleries.names())}"})
    assert answer.status_code == 201, answer.text
    return f"/v1/galleries/{answer.json()['name']}"


def enrolled(client, people, *seeds, **fields):
    answer = client.post(f"{people}/records", files=files(*(picture(seed) for seed in seeds)), data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_is_enrolled_is_found_with_what_is_known_of_it(client, people):
    attributes = '{"coat": "red", "tall": true}'
    answer = enrolled(client, people, 1, 2, pid="7", camid="3", time_s="1700000000.5", attributes=attributes)
    assert answer == {"ids": [1, 2], "num_added": 2, "num_known": 0, "num_updated": 0, "conflicts": [], "bad": []}
    record = client.get(f"{people}/records/2").json()
    assert record == {
        "id": 2,
        "source": "1.png",
        "pid": 7,
        "camid": 3,
        "time_s": 1700000000.5,
        "attributes": {"coat": "red", "tall": True},
        "enrolled_s": pytest.approx(time.time(), abs=60),
        "content_hash": hashlib.sha256(picture(2)).hexdigest(),
    }
    found = client.post("/v1/search", files=files(picture(2)), data={"gallery": people.rpartition("/")[2]}).json()
    best = found["results"][0]["matches"][0]
    assert best["id"] == 2 and best["similarity"] == pytest.approx(1, abs=1e-5)


def test_each_image_may_have_its_own_record(served, people):
    client, service = served
    labels = [{"pid": 1, "source": "gate 4"}, {"pid": 2, "camid": 5, "box": [0, 0, 10, 25]}, {}]
    answer = client.post(f"{people}/records", files=files(*map(picture, range(3))), data={"records": json.dumps(labels)})
    assert answer.json()["num_added"] == 3
    records = client.get(f"{people}/records").json()["records"]
    assert client.get(people).json()["num_without_pid"] == 1
    expected = [("gate 4", 1, None), ("1.png", 2, 5), ("2.png", None, None)]
    assert [(one["source"], one["pid"], one["camid"]) for one in records] == expected
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).crop((0, 0, 10, 25)).save(file, "PNG")
    kept = service.galleries.get(people.rpartition("/")[2]).embeddings([2])[0]
    np.testing.assert_allclose(kept, embedding_of(file.getvalue()), atol=1e-6)


def test_records_are_counted_listed_page_by_page_and_filtered(client, people):
    for camera in range(3):
        seeds = range(10 * camera, 10 * camera + 4)
        enrolled(client, people, *seeds, camid=str(camera), pid=str(camera % 2), time_s=str(camera))
    name = people.rpartition("/")[2]
    assert name in client.get("/v1/galleries").json()["galleries"]
    counts = {"num_records": 12, "num_people": 2, "num_cameras": 3, "num_without_pid": 0, "first_seen_s": 0, "last_seen_s": 2}
    made_by = {"read_only": False, "model": "colors", "fingerprint": "colors"}
    assert client.get(people).json() == {"name": name, **counts, **made_by}
    seen, after = [], 0
    while after is not None:
        page = client.get(f"{people}/records", params={"after_id": after, "limit": 5}).json()
        assert page["num_matching"] == 12 and len(page["records"]) <= 5
        seen += [record["id"] for record in page["records"]]
        after = page["next_after_id"]
    assert seen == list(range(1, 13))
    assert client.get(f"{people}/records", params={"camid": 1}).json()["num_matching"] == 4
    assert client.get(f"{people}/records", params={"pid": 0, "since_s": 1}).json()["num_matching"] == 4
    nothing = {"records": [], "num_matching": 0, "next_after_id": None}
    assert client.get(f"{people}/records", params={"until_s": 0}).json() == nothing
    for path in ("/0", "/-1", "/x", f"/{2**63}", "/1%00", "?limit=0", "?limit=1e9", "?color=red", "?since_s=nan"):
        assert client.get(f"{people}/records{path}").status_code == 422, path


def test_known_images_are_not_added_again_bad_ones_are_told_and_other_labels_conflict_or_update(client, people):
    enrolled(client, people, 1, pid="7")
    broken = ("/srv/x/broken.jpg", b"\xff\xd8\xff")
    answer = client.post(f"{people}/records", files=files(picture(1), broken, picture(2)), data={"pid": "7"}).json()
    assert (answer["ids"], answer["num_added"], answer["num_known"]) == ([1, 2], 1, 1)
    assert [one["source"] for one in answer["bad"]] == ["broken.jpg"] and "not an image" in answer["bad"][0]["reason"]
    again = enrolled(client, people, 1, 2, pid="bob")
    assert (again["num_known"], again["num_updated"], len(again["conflicts"])) == (2, 0, 2)
    assert again["conflicts"][0]["source"] == "0.png" and "bob" in again["conflicts"][0]["reason"]
    again = enrolled(client, people, 1, 2, pid="bob", update="true")
    assert (again["num_known"], again["num_updated"], again["conflicts"]) == (2, 2, [])
    assert client.get(f"{people}/records", params={"pid": "bob"}).json()["num_matching"] == 2


def test_identities_are_numbers_or_names_and_read_as_everywhere(client, people):
    for seed, pid in enumerate(("alice", "007", "7.0", "Zoë Ünal", "a/b")):
        enrolled(client, people, seed, pid=pid)
    pids = [record["pid"] for record in client.get(f"{people}/records").json()["records"]]
    assert pids == ["alice", 7, 7, "Zoë Ünal", "a/b"]
    assert client.get(f"{people}/records", params={"pid": "7"}).json()["num_matching"] == 2
    body = {"gallery": people.rpartition("/")[2], "record_ids": [2], "pids": ["alice", 7]}
    matches = client.post("/v1/search", json=body).json()["results"][0]["matches"]
    assert {match["pid"] for match in matches} == {"alice", 7}
    assert client.delete(f"{people}/people/Zoë Ünal").json() == {"num_removed": 1}
    assert client.delete(f"{people}/people/a%2Fb").json() == {"num_removed": 1}
    assert client.get(people).json()["num_people"] == 2


def test_update_record_changes_what_is_given_and_nothing_else(client, people):
    enrolled(client, people, 1, pid="7", camid="3", time_s="5", attributes='{"coat": "red"}')
    changed = client.patch(f"{people}/records/1", json={"pid": "alice", "time_s": None, "attributes": {"hat": True}})
    assert changed.status_code == 200, changed.text
    record = client.get(f"{people}/records/1").json()
    assert changed.json() == record
    assert (record["pid"], record["camid"], record["time_s"]) == ("alice", 3, None)
    assert record["attributes"] == {"coat": "red", "hat": True}
    for body, status in [({}, 422), ({"pid": ""}, 422), ({"id": 2}, 422), ({"pid": [1]}, 422)]:
        assert client.patch(f"{people}/records/1", json=body).status_code == status
    assert client.patch(f"{people}/records/9", json={"pid": 1}).status_code == 404
    assert client.patch(f"{people}/records/1", files=files(picture(1))).status_code == 415
    assert client.get(f"{people}/records/1").json() == record


def test_update_person_renames_and_merges_and_is_on_record(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    with running(galleries=("people",), root=tmp_path, audit=log) as (client, service):
        people = "/v1/galleries/people"
        enrolled(client, people, 1, 2, pid="7")
        enrolled(client, people, 3, pid="bob")
        assert client.patch(f"{people}/people/7", json={"pid": "bob"}).json() == {"num_updated": 2}
        assert service.galleries.get("people").counts().by_pid == {"bob": 3}
        assert client.patch(f"{people}/people/7", json={"pid": "bob"}).json() == {"num_updated": 0}
        assert client.patch(f"{people}/people/bob", json={"pid": None}).json() == {"num_updated": 3}
        assert client.patch(f"{people}/people/bob", json={}).status_code == 422
    lines = [json.loads(line) for line in log.path.read_text().splitlines()][2:]
    assert {line["action"] for line in lines} == {"update_person"}
    assert [(line.get("num_updated"), line["status"]) for line in lines] == [(2, 200), (0, 200), (3, 200), (None, 422)]
    assert "bob" not in log.path.read_text()


def test_records_are_removed_one_by_one_by_person_and_by_age(served, people):
    client, _ = served
    enrolled(client, people, 1, 2, pid="7")
    enrolled(client, people, 3, 4, pid="8", attributes='{"note": "quite-unmistakable-text"}')
    assert client.delete(f"{people}/records/1").json() == {"num_removed": 1}
    assert client.get(f"{people}/records/1").status_code == 404
    assert client.delete(f"{people}/records/1").json() == {"num_removed": 0}
    assert client.delete(f"{people}/people/8").json() == {"num_removed": 2}
    assert [one["id"] for one in client.get(f"{people}/records").json()["records"]] == [2]
    assert client.delete(f"{people}/records", params={"enrolled_before_s": time.time() - 3600}).json() == {"num_removed": 0}
    assert client.delete(f"{people}/records", params={"enrolled_before_s": time.time() + 3600}).json() == {"num_removed": 1}
    assert client.delete(f"{people}/records").status_code == 422  # without a time nothing is removed
    assert client.post(f"{people}/vacuum").status_code == 204
    file = Path(served[1].galleries.get(people.rpartition("/")[2]).location)
    assert not [path for path in file.parent.glob(f"{file.name}*") if b"quite-unmistakable-text" in path.read_bytes()]


def test_a_thumbnail_is_kept_where_the_service_keeps_them(served, people):
    client, _ = served
    enrolled(client, people, 1)
    answer = client.get(f"{people}/records/1/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(answer.content)).height == 48
    assert "thumbnail" not in client.get(f"{people}/records/1").text
    with running(galleries=("people",)) as (plain, _):
        enrolled(plain, "/v1/galleries/people", 1)
        assert plain.get("/v1/galleries/people/records/1/thumbnail").status_code == 404


def test_what_is_said_of_images_is_checked(client, people):
    for fields, sentence in (
        ({"pid": "a\nb"}, "pid: "),
        ({"pid": "-7"}, "pid: "),
        ({"pid": "x" * 201}, "pid: "),
        ({"camid": "one"}, "camid: "),
        ({"pid": ["1", "2"]}, "pid: expected one value"),
        ({"camid": str(2**64)}, "camid: "),
        ({"time_s": "nan"}, "time_s: "),
        ({"time_s": "1e300"}, "time_s: "),
        ({"attributes": "red"}, "attributes"),
        ({"attributes": json.dumps({str(number): 1 for number in range(99)})}, "99 attributes, the limit is 64"),
        ({"attributes": json.dumps({"name": "x" * 9999})}, "attribute name has 9,999 characters"),
        ({"attributes": json.dumps({"name": "a\nb"})}, "printable text"),
        ({"attributes": json.dumps({"x" * 65: 1})}, "not a name for an attribute"),
        ({"attributes": json.dumps({"name": 2**63})}, "at most 64 bits"),
        ({"records": "[{}, {}]"}, "2 entries for 1 images"),
        ({"records": "[{}]", "pid": "1"}, "not both"),
        ({"records": '[{"name": 1}]'}, "records.0.name"),
        ({"records": '[{"source": "a\\u0000b"}]'}, "records.0"),
        ({"records": '[{"box": [0, 0, 1e9, 5]}]'}, "records.0"),
        ({"color": "red"}, "color: "),
    ):
        answer = client.post(f"{people}/records", files=files(picture(1)), data=fields)
        assert (answer.status_code, sentence in answer.json()["detail"]) == (422, True), answer.text
    assert client.get(f"{people}/records").json()["num_matching"] == 0


def test_a_gallery_is_made_where_a_folder_was_set_aside_up_to_their_number(tmp_path):
    with running() as (client, _):
        assert client.post("/v1/galleries", json={"name": "people"}).status_code == 403
    with running(root=tmp_path, max_galleries=1) as (client, _):
        answer = client.post("/v1/galleries", json={"name": "hall-2"})
        assert (answer.status_code, answer.json()["num_records"], answer.json()["fingerprint"]) == (201, 0, "colors")
        assert (tmp_path / "hall-2.gallery").exists()
        assert client.post("/v1/galleries", json={"name": "hall-2"}).status_code == 409
        assert client.post("/v1/galleries", json={"name": "another"}).status_code == 409
        assert client.post("/v1/galleries/hall-2/records", files=files(picture(1))).json()["num_added"] == 1
        assert client.get("/v1/galleries").json() == {"galleries": ["hall-2"]}


def test_a_gallery_may_not_be_called_anything(served, tmp_path):
    client, service = served
    before = service.galleries.names()
    registry = GalleryRegistry({}, binding_of(ColorRuntime().info), root=tmp_path / "inside")
    names = ("", ".", "..", "../x", "a/b", "a\\b", "A", "-a", "_a", "a.b", "a b", "a\n", "a\x00", "ä", "x" * 64, "~", "con:")
    for name in names:
        answer = client.post("/v1/galleries", json={"name": name})
        assert answer.status_code == 422 and service.galleries.names() == before, name
        with pytest.raises(ApiError) as refused:
            registry.create(name)
        assert refused.value.status_code == 422 and list(tmp_path.iterdir()) == []


def test_work_on_galleries_is_bounded_and_recovers():
    runtime = ColorRuntime()
    path = "/v1/galleries/people/records"
    with running(runtime, galleries=("people",), num_store_threads=1, max_store_requests=1) as (client, _):
        runtime.held.clear()
        with ThreadPoolExecutor(1) as pool:
            enrolling = pool.submit(client.post, path, files=files(picture(1)))
            assert runtime.in_run.wait(20)
            refused = client.get(path)
            runtime.held.set()
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert enrolling.result().json()["num_added"] == 1
        assert client.get(path).json()["num_matching"] == 1


def test_a_client_that_leaves_while_it_enrolls_is_still_on_record(tmp_path):
    runtime = ColorRuntime()
    log = AuditLog(tmp_path / "audit.jsonl")
    with running(runtime, galleries=("people",), root=tmp_path, audit=log) as (client, service):
        runtime.held.clear()
        hang_up(client, "/v1/galleries/people/records", files(picture(1)), runtime.in_run.is_set)
        time.sleep(0.2)
        assert log.path.stat().st_size == 0  # its line tells how it ended, and waits for that
        runtime.held.set()
        until(lambda: len(service.galleries.get("people")) == 1 and log.path.stat().st_size > 0)
    (line,) = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert (line["action"], line["gallery"], line["status"]) == ("enroll", "people", 499)


def test_registry_opens_what_lies_in_its_folder_and_refuses_what_does_not_belong(tmp_path):
    binding = binding_of(ColorRuntime().info)
    for name in ("one", "two", "Not a name"):
        Gallery.open(tmp_path / f"{name}.gallery", binding=binding, create=True).close()
    registry = GalleryRegistry.open({}, binding, root=tmp_path)
    assert registry.names() == ["one", "two"]
    registry.close()
    other = binding_of(ColorRuntime(fingerprint="other").info)
    for places, model, root, sentence in (
        ({"one": "two"}, binding, tmp_path, "two galleries are called 'one'"),
        ({}, binding, tmp_path / "missing", "expected a folder"),
        ({"one": "one"}, other, None, "another model"),
        ({"three": "three"}, binding, None, "three.gallery"),
    ):
        with pytest.raises(UsageError, match=sentence):
            GalleryRegistry.open({name: f"{tmp_path}/{file}.gallery" for name, file in places.items()}, model, root=root)
    reading = GalleryRegistry.open({"one": str(tmp_path / "one.gallery")}, binding, read_only=True)
    assert reading.get("one").read_only
    reading.close()


def test_parse_gallery_takes_a_name_or_calls_it_after_its_place_and_repeats_no_password():
    for text, *expected in (
        ("people.gallery", "people", "people.gallery"),
        ("/srv/hall.gallery", "hall", "/srv/hall.gallery"),
        ("gate=/srv/a=b.gallery", "gate", "/srv/a=b.gallery"),
        ("milvus://u:hidden@host/people?db=shop", "people", "milvus://u:hidden@host/people?db=shop"),
        ("hall-2=milvus://u:hidden@host/People", "hall-2", "milvus://u:hidden@host/People"),
    ):
        assert parse_gallery(text) == tuple(expected)
    for place in ("/srv/My People.gallery", "milvus://u:hidden@host/People"):
        with pytest.raises(UsageError, match=r"People' cannot be a gallery's name.*NAME=PLACE") as caught:
            parse_gallery(place)
        assert "hidden" not in str(caught.value)


def test_conditions_that_a_route_does_not_know_are_refused_and_nothing_is_done(client, people):
    enrolled(client, people, 1, 2, pid="7", camid="1")
    later = time.time() + 3600
    for method, path in (
        ("DELETE", f"{people}/records?enrolled_before_s={later}&pid=8"),
        ("DELETE", f"{people}/records?enrolled_before_s=5&enrolled_before_s={later}"),
        ("DELETE", f"{people}/people/7?camid=2"),
        ("DELETE", f"{people}/records/1?pid=8"),
        ("POST", f"{people}/vacuum?pid=8"),
        ("GET", f"{people}/records?pid=7&pid=8"),
        ("GET", f"{people}?pid=7"),
        ("POST", "/v1/search?top=1"),
        ("POST", "/v1/embed?top=1"),
    ):
        assert client.request(method, path).status_code == 422, path
    answer = client.post(f"{people}/records?pid=8", files=files(picture(3)))
    assert answer.status_code == 422 and "no query parameters" in answer.json()["detail"]
    assert client.get(f"{people}/records?pid=7&camid=1").json()["num_matching"] == 2


def test_junk_and_truth_values_are_no_identities_and_no_cameras(client, people):
    for fields, name in (({"pid": "-1"}, "pid: "), ({"camid": "-1"}, "camid: ")):
        answer = client.post(f"{people}/records", files=files(picture(1)), data=fields)
        assert answer.status_code == 422 and name in answer.json()["detail"], answer.text
        assert client.get(f"{people}/records", params=fields).status_code == 422
    enrolled(client, people, 1, pid="0", camid="0")
    for labels in ({"pid": True}, {"camid": True}, {"camid": False}):
        answer = client.patch(f"{people}/records/1", json=labels)
        assert answer.status_code == 422 and "true or false" in answer.json()["detail"], answer.text
    record = client.get(f"{people}/records/1").json()
    assert (record["pid"], record["camid"]) == (0, 0)


def test_names_of_wrong_fields_are_those_of_the_interface(client, people):
    for fields in ({"pid": "-7"}, {"attributes": "red"}, {"camid": "one"}):
        detail = client.post(f"{people}/records", files=files(picture(1)), data=fields).json()["detail"]
        assert all(sentence.startswith(f"{next(iter(fields))}: ") for sentence in detail.split("; ")), detail


def test_what_was_written_is_answered_also_where_it_took_too_long():
    runtime = ColorRuntime()
    with running(runtime, galleries=("people",), timeout_s=0.3) as (client, service):
        runtime.held.clear()
        with ThreadPoolExecutor(1) as pool:
            enrolling = pool.submit(client.post, "/v1/galleries/people/records", files=files(picture(1)))
            assert runtime.in_run.wait(20)
            time.sleep(0.6)
            runtime.held.set()
            answer = enrolling.result()
        assert (answer.status_code, answer.json()["num_added"], len(service.galleries.get("people"))) == (200, 1, 1)


def test_the_same_new_image_in_two_requests_is_a_conflict_and_counted_once():
    runtime = ColorRuntime()
    path = "/v1/galleries/people/records"
    with running(runtime, galleries=("people",), num_store_threads=2) as (client, _):
        runtime.held.clear()
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(client.post, path, files=files(picture(1)), data={"pid": pid}) for pid in ("1", "2")]
            assert runtime.in_run.wait(20)
            time.sleep(0.5)  # the other one has looked the image up too
            runtime.held.set()
            answers = [one.result().json() for one in both]
        assert sorted((one["num_added"], one["num_known"], len(one["conflicts"])) for one in answers) == [(0, 1, 1), (1, 0, 0)]
