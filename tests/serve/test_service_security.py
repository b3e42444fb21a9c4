"""What a service must not do: answer another site, name its places, keep what it was shown, forget who asked."""

import asyncio
import json
import re
import socket

import pytest
from service_stand_ins import files, picture, running

from hat.errors import UsageError, WorkError
from hat.serve.service import AuditLog, KeyFile, KeyRing
from hat.serve.service.api_error import without_paths
from hat.serve.service.ingress import LOOPBACK_HOSTS, SameOriginMiddleware, allowed_hosts

RECORDS = "/v1/galleries/people/records"


@pytest.fixture(scope="module")
def served():
    with running(galleries=("people",), hosts=LOOPBACK_HOSTS) as both:
        yield both


@pytest.fixture
def client(served):
    return served[0]


def test_another_name_in_the_host_header_is_refused_and_names_of_loopback_are_let_in(client):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", "", "[::2]", "::1"):
        for path in ("/v1/model", "/healthz", "/openapi.json", "/nothing"):
            assert client.get(path, headers={"host": host}).status_code == 421, (host, path)
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"):
        assert client.get("/v1/model", headers={"host": host}).status_code == 200, host
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert b" 200 " not in line.recv(1000)


def test_another_sites_page_is_refused_whatever_it_asks_and_the_services_own_is_let_in(client):
    for origin in ("https://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "file://"):
        for method, path in (("POST", RECORDS), ("POST", "/v1/embed"), ("GET", "/v1/model"), ("OPTIONS", "/v1/embed")):
            answer = client.request(method, path, headers={"origin": origin, "access-control-request-method": "POST"})
            assert answer.status_code == 403, (origin, method, path)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.get("/v1/model", headers={"origin": str(client.base_url).rstrip("/")}).status_code == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        ([(b"host", b"localhost:7860")], True),
        ([(b"host", b"127.0.0.1:7860"), (b"origin", b"http://127.0.0.1:7860")], True),
        ([(b"host", b"evil.example:7860")], False),
        ([(b"host", b"localhost:7860"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], False),
        ([], False),
    ],
)
def test_same_origin_middleware_guards_any_application(kind, headers, is_answered):
    answered, sent = [], []

    async def app(scope, receive, send):
        answered.append(scope["type"])

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    guarded = SameOriginMiddleware(app, hosts=allowed_hosts("127.0.0.1"))
    asyncio.run(guarded({"type": kind, "headers": headers}, receive, send))
    assert bool(answered) == is_answered
    if not is_answered and kind == "http":
        assert sent[0]["status"] in (400, 403, 421)
    elif not is_answered:
        assert sent == [{"type": "websocket.close", "code": 1008}]


def test_allowed_hosts_are_loopbacks_names_or_those_that_were_given():
    assert allowed_hosts("127.0.0.1") == (*LOOPBACK_HOSTS, "127.0.0.1")
    assert allowed_hosts("::1", ["Reid.Example"]) == (*LOOPBACK_HOSTS, "[::1]", "reid.example")
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("0.0.0.0", ["reid.example"]) == ("reid.example",)


def test_every_answer_has_the_headers_that_keep_browsers_from_guessing_and_no_page_loads_from_elsewhere(client):
    answers = [client.get("/v1/model"), client.get("/nothing"), client.get("/healthz"), client.post("/v1/embed")]
    answers.append(client.get("/v1/model", headers={"host": "evil.example"}))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert len(answer.headers["x-request-id"]) == 16
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    described = client.get("/openapi.json").json()
    assert "http" not in json.dumps(described["paths"]).replace('"http_', "")


PATHS = re.compile(r"/[\w.-]+/|\\\\|Traceback|File \"|site-packages|\.py\b|/tmp|/home|/root")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WorkError("/srv/people/people.gallery: cannot be written: the disk is full"), 503),
        (WorkError("/srv/people/people.gallery: another process is writing to it (lock /srv/people/people.gallery.lock)"), 503),
        (UsageError("/srv/people/people.gallery is read-only (opened by /usr/lib/python3/gallery.py)"), 422),
        (OSError(28, "No space left on device", "/srv/people/people.gallery-wal"), 500),
        (ValueError("/srv/people/people.gallery: malformed"), 500),
    ],
)
def test_a_gallery_that_fails_is_an_answer_without_its_place_and_the_service_goes_on(error, status, caplog):
    def fail(*arguments, **options):
        raise error

    with running(galleries=("people", "others")) as (client, service):
        for method in ("add", "search", "get", "ids", "page", "ids_by_hash", "counts", "remove", "vacuum"):
            setattr(service.galleries.get("people"), method, fail)
        answers = [
            client.post(RECORDS, files=files(picture(1))),
            client.post("/v1/search", files=files(picture(1)), data={"gallery": "people"}),
            client.get(RECORDS),
            client.get("/v1/galleries/people"),
            client.delete(f"{RECORDS}/1"),
            client.delete("/v1/galleries/people/people/1"),
            client.post("/v1/galleries/people/vacuum"),
        ]
        for answer in answers:
            assert answer.status_code == status and not PATHS.search(answer.text), answer.text
            assert ("retry-after" in answer.headers) == (status == 503)
        assert client.post("/v1/galleries/others/records", files=files(picture(1))).json()["num_added"] == 1
        assert client.post("/v1/embed", files=files(picture(1))).status_code == 200
    logged = [record.getMessage() for record in caplog.records if record.name == "hat.serve"]
    if status == 503:  # whoever runs the service needs the reason
        assert any(str(error) in line and answers[0].json()["request_id"] in line for line in logged)


def test_no_refusal_names_a_place_or_shows_a_traceback(client):
    asked = [
        client.get("/v1/galleries/..%2f..%2fetc%2fpasswd"),
        client.get("/v1/galleries/%2e%2e/records"),
        client.get("/v1/galleries/people/records/1e5"),
        client.post("/v1/galleries", json={"name": "/etc/passwd"}),
        client.post("/v1/embed", files=files(("/home/someone/a/b.png", b"x"), ("C:\\Users\\me\\c.png", b"x"))),
        client.post("/v1/search", json={"gallery": "people", "record_ids": [5]}),
        client.post("/v1/search", json={"gallery": ["/etc/passwd"]}),
        client.post("/v1/search", content=b"{", headers={"content-type": "application/json"}),
        client.request("TRACE", "/v1/embed"),
        client.put("/v1/embed"),
    ]
    for answer in asked:
        assert 400 <= answer.status_code < 500 and not PATHS.search(answer.text), answer.text


def test_paths_are_left_out_of_messages():
    for message, expected in (
        ("/srv/a/b.gallery: gone", "(left out) gone"),
        ("opened milvus://user:secret@db:19530/people", "opened (left out)"),
        ("see C:\\data\\x.gallery", "see (left out)"),
        ("see ~/x.gallery and ../y", "see (left out) and (left out)"),
    ):
        assert without_paths(message) == expected
    for message in ("3/4 of image/png and float16/float32", "people was made by another model"):
        assert without_paths(message) == message


def test_the_audit_log_tells_who_did_what_and_nothing_of_whom_it_was_done_to(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    key, token = file.add("camera 3", "write")
    log = AuditLog(tmp_path / "audit.jsonl")
    with running(galleries=("people",), keys=KeyRing(file), audit=log) as (client, _):
        headers = {"authorization": f"Bearer {token}"}
        secret = ("mrs-smith.png", picture(77))
        attributes = '{"coat": "violet"}'
        client.post(RECORDS, files=files(secret, picture(2)), data={"pid": "4711", "attributes": attributes}, headers=headers)
        found = client.post("/v1/search", files=files(secret), data={"gallery": "people", "pids": "4711"}, headers=headers)
        client.post("/v1/embed", files=files(secret), headers=headers)
        client.delete("/v1/galleries/people/people/4711", headers=headers)
        client.get(RECORDS)
        client.get("/healthz")
    text = (tmp_path / "audit.jsonl").read_text()
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["action"], line["status"], line["gallery"], line["key"]) for line in lines] == [
        ("enroll", 200, "people", key.id),
        ("search", 200, "people", key.id),
        ("embed", 200, None, key.id),
        ("remove_person", 200, "people", key.id),
        ("list_records", 401, "people", None),
    ]
    assert lines[0]["num_images"] == lines[0]["num_added"] == lines[1]["num_results"] == lines[3]["num_removed"] == 2
    assert lines[1]["request_id"] == found.headers["x-request-id"] and lines[0]["name"] == "camera 3"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    for content in ("smith", "4711", "violet", "similarity", token, "embedding"):
        assert content not in text


def test_an_answer_that_cannot_be_put_on_record_is_withheld(tmp_path, caplog):
    with pytest.raises(UsageError, match="cannot be opened"):
        AuditLog(tmp_path / "missing" / "audit.jsonl")
    log = AuditLog(tmp_path / "audit.jsonl")
    with running(galleries=("people",), audit=log) as (client, _):
        assert client.post("/v1/embed", files=files(picture(1))).status_code == 200
        log.path.unlink()
        log.path.mkdir()
        answer = client.post("/v1/embed", files=files(picture(1)))
        assert answer.status_code == 503 and "embeddings" not in answer.text and "audit" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
        log.path.rmdir()
        assert client.post("/v1/embed", files=files(picture(1))).status_code == 200
    assert any("audit log cannot be written" in record.getMessage() for record in caplog.records)


def test_metrics_count_requests_without_naming_anyone(client):
    client.post("/v1/embed", files=files(picture(1)))
    client.get("/v1/galleries/people/records/1")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain") and answer.status_code == 200
    assert 'hat_requests_total{action="embed",status="200"}' in answer.text
    assert "hat_batch_images_bucket" in answer.text and "hat_images_inside 0.0" in answer.text
    assert "people" not in answer.text
