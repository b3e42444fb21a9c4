"""API keys: kept as hashes, shown once, checked on every request, changed while the service runs."""

import time

import pytest
from service_stand_ins import files, picture, running, until

from hat.errors import UsageError
from hat.serve.service import KeyFile, KeyRing
from hat.serve.service.admission import RateLimiter
from hat.serve.service.api_error import ApiError


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "keys.json")


def test_a_key_is_kept_as_a_hash_and_the_file_is_the_owners_alone(file):
    key, token = file.add("camera 3", "write")
    text = file.path.read_text()
    assert token.startswith(f"hat_{key.id}_") and len(token) > 50 and token not in text and token.split("_")[2] not in text
    assert file.path.stat().st_mode & 0o077 == 0 and file.read() == (key,)
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.json"]


def test_keys_differ_and_each_opens_for_its_own_holder(file):
    pairs = [file.add(f"user {number}", "read") for number in range(4)]
    ring = KeyRing(file)
    assert len(ring) == 4 and len({token for _, token in pairs}) == 4
    for key, token in pairs:
        assert ring.find(token) == key
    first, second = pairs[0][1], pairs[1][1]
    swapped = first[:13] + second[13:]
    unknown = "hat_00000000_" + "a" * 43
    for wrong in ("", "hat_", first[:-1], first + "x", swapped, first.upper(), pairs[0][0].sha256, unknown, "é"):
        assert ring.find(wrong) is None
    keys = file.read()
    assert file.remove(keys[1].id) == keys[1] and file.read() == (keys[0], *keys[2:])
    with pytest.raises(UsageError, match="no key"):
        file.remove(keys[1].id)


def test_a_file_of_keys_behind_a_link_is_the_file(file, tmp_path):
    key, token = file.add("first", "read")
    link = tmp_path / "link.json"
    link.symlink_to(file.path)
    assert KeyFile(link).remove(key.id) == key
    assert link.is_symlink() and file.read() == () and KeyRing(file).find(token) is None


def test_a_running_service_takes_changes_of_the_file_up(file, monkeypatch):
    _, token = file.add("first", "read")
    ring = KeyRing(file)
    clock = [time.monotonic()]
    monkeypatch.setattr("hat.serve.service.keys.time.monotonic", lambda: clock[0])
    second, new = file.add("second", "read")
    clock[0] += 2
    assert ring.find(new).id == second.id
    file.remove(second.id)
    clock[0] += 2
    assert ring.find(new) is None and ring.find(token) is not None
    for spoil in (lambda: file.path.write_text("{"), file.path.unlink):  # a file that cannot be read lets nobody in
        spoil()
        clock[0] += 2
        assert ring.find(token) is None


def test_a_file_without_keys_missing_or_that_others_may_change_is_refused_and_a_name_is_plain_text(file):
    for text in ("", "[]", "null", "{", '{"keys": 1}', '{"version": 2}', '{"keys": [{"id": "00000000"}]}', '{"keyz": []}'):
        file.path.write_text(text)
        with pytest.raises(UsageError, match="not a file of keys"):
            KeyRing(file)
    file.path.unlink()
    with pytest.raises(UsageError, match="hat keys add"):
        KeyRing(file)
    for name in ("", " x", "x" * 65, "a\nb", "a/b", "<b>", "ä"):
        with pytest.raises(UsageError, match="a key's name is"):
            file.add(name, "read")
    file.add("me", "read")
    file.path.chmod(0o666)
    with pytest.raises(UsageError, match="chmod 600"):
        KeyRing(file)


def test_a_rate_lets_a_burst_through_and_then_waits(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("hat.serve.service.admission.time.monotonic", lambda: clock[0])
    limiter = RateLimiter(10)
    for _ in range(20):
        limiter.charge("one", 1)
    with pytest.raises(ApiError) as refused:
        limiter.charge("one", 1)
    assert refused.value.status_code == 429 and refused.value.headers["Retry-After"] == "1"
    limiter.charge("other", 1)  # each has a rate of its own
    clock[0] += 0.5
    limiter.charge("one", 64)  # a request is let through whole, and waited for afterwards
    clock[0] += 5.9
    with pytest.raises(ApiError):
        limiter.charge("one", 1)
    clock[0] += 0.2
    limiter.charge("one", 1)


def test_roles_say_who_may_change_a_gallery(file):
    reader, writer = file.add("reader", "read")[1], file.add("writer", "write")[1]
    with running(galleries=("people",), keys=KeyRing(file)) as (client, _):
        records = "/v1/galleries/people/records"
        calls = [
            ("POST", "/v1/embed", {"files": files(picture(1))}, "read"),
            ("POST", "/v1/search", {"files": files(picture(1)), "data": {"gallery": "people"}}, "read"),
            ("GET", "/v1/galleries", {}, "read"),
            ("GET", "/v1/galleries/people", {}, "read"),
            ("GET", records, {}, "read"),
            ("GET", "/v1/model", {}, "read"),
            ("GET", "/metrics", {}, "read"),
            ("POST", records, {"files": files(picture(1))}, "write"),
            ("GET", f"{records}/1", {}, "read"),
            ("PATCH", f"{records}/1", {"json": {"pid": 1}}, "write"),
            ("PATCH", "/v1/galleries/people/people/1", {"json": {"pid": 2}}, "write"),
            ("DELETE", f"{records}/1", {}, "write"),
            ("DELETE", f"{records}?enrolled_before_s=5", {}, "write"),
            ("DELETE", "/v1/galleries/people/people/1", {}, "write"),
            ("POST", "/v1/galleries/people/vacuum", {}, "write"),
        ]
        for method, path, options, role in calls:
            for token, allowed in ((None, 401), ("hat_00000000_" + "a" * 43, 401), (reader, 403 if role == "write" else 200)):
                headers = {} if token is None else {"authorization": f"Bearer {token}"}
                answer = client.request(method, path, headers=headers, **options)
                assert answer.status_code == allowed, (method, path, answer.text)
                assert ("www-authenticate" in answer.headers) == (allowed == 401)
            answer = client.request(method, path, headers={"authorization": f"bearer {writer}"}, **options)
            assert answer.status_code in (200, 204), (method, path, answer.text)
        bearer, basic = ({"authorization": f"{scheme} {reader}"} for scheme in ("Bearer", "Basic"))
        assert client.post("/v1/galleries", json={"name": "x"}, headers=bearer).status_code == 403
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/healthz", headers=basic).status_code == 200
        assert client.get("/v1/model", headers=basic).status_code == 401
        described = client.get("/openapi.json").json()
        assert described["paths"]["/v1/embed"]["post"]["security"] == [{"key": []}]


def test_too_fast_a_key_is_told_to_wait_others_are_not_and_a_removed_one_stops_working(file):
    (_, fast), (key, slow) = (file.add(name, "read") for name in ("fast", "slow"))
    with running(keys=KeyRing(file), rate_per_s=0.5) as (client, _):
        ask = {"files": files(picture(1), picture(2), picture(3), picture(4))}
        assert client.post("/v1/embed", headers={"authorization": f"Bearer {fast}"}, **ask).status_code == 200
        refused = client.post("/v1/embed", headers={"authorization": f"Bearer {fast}"}, **ask)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        headers = {"authorization": f"Bearer {slow}"}
        assert client.post("/v1/embed", headers=headers, **ask).status_code == 200
        file.remove(key.id)
        until(lambda: client.get("/v1/model", headers=headers).status_code == 401)


def test_keys_command_adds_lists_and_removes(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    made = call("keys", "add", "keys.json", "--name", "camera-3", "--role", "write", "--json").json
    assert KeyRing(KeyFile("keys.json")).find(made["key"]).id == made["id"]
    listed = call("keys", "list", "keys.json").out
    assert "camera-3" in listed and "write" in listed and made["key"][13:] not in listed
    wrong = call("keys", "add", "keys.json", "--name", "x", "--role", "admin")
    assert wrong.code == 2 and wrong.err.startswith("hat: usage: unknown role 'admin'")
    assert [call("keys", "remove", "keys.json", made["id"]).code for _ in range(2)] == [0, 2]
    assert KeyFile("keys.json").read() == ()
