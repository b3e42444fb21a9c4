"""Hostile and endless input: refused early, in bounded memory, and the service answers the next one."""

import asyncio
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from service_stand_ins import ColorRuntime, embedding_of, files, picture, running, until

from hat.serve.service.admission import Admission
from hat.serve.service.api_error import ApiError

BODY_LIMIT = 200_000


@pytest.fixture(scope="module")
def served():
    limits = {"max_body_bytes": BODY_LIMIT, "max_images": 8, "max_pixels": 1_000_000, "receive_timeout_s": 0.5}
    with running(galleries=("people",), **limits) as both:
        yield both


@pytest.fixture
def client(served):
    client, service = served
    yield client
    # Whatever was sent: nothing of it stays, and the next request is met.
    until(lambda: service.admission.num_images == service.admission.num_bytes == 0)
    answer = client.post("/v1/embed", files=files(picture(1)))
    np.testing.assert_allclose(answer.json()["embeddings"], [embedding_of(picture(1))], atol=1e-6)


def huge_png(side):
    """A PNG of side x side pixels in a few hundred bytes of file for each hundred megabytes of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(side // 8 + 1)) for _ in range(side)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_of_a_hundred_megapixels_is_refused_by_its_header_and_an_allowed_one_embedded(client):
    allowed = picture(3, size=(1000, 1000))
    answer = client.post("/v1/embed", files=files(allowed))
    np.testing.assert_allclose(answer.json()["embeddings"], [embedding_of(allowed)], atol=1e-6)
    data = huge_png(10_000)
    assert len(data) < BODY_LIMIT
    answer = client.post("/v1/embed", files=files(("big.png", data)))
    assert answer.status_code == 422 and "10000 x 10000 pixels" in answer.json()["detail"]
    enrolled = client.post("/v1/galleries/people/records", files=files(("big.png", data))).json()
    assert enrolled["num_added"] == 0 and "10000 x 10000 pixels" in enrolled["bad"][0]["reason"]


def test_what_is_no_whole_picture_is_refused_whatever_it_is_called(client):
    cut = (picture(1)[:-30], picture(1, kind="JPEG")[:100], b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, bytes(1000))
    others = (b"GIF89a" + bytes(50), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"PK\x03\x04" + bytes(100))
    for data in (*cut, *others, b"\x80\x04\x95cposix\nsystem\n"):
        answer = client.post("/v1/embed", files=[("images", ("a.jpg", data, "image/jpeg"))])
        assert answer.status_code == 422, (data[:20], answer.text)


def test_a_compressed_body_is_refused_before_it_is_read(client):
    bomb = zlib.compress(bytes(10**7))
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "identity, gzip"):
        answer = client.post("/v1/embed", content=bomb, headers={"content-type": "image/png", "content-encoding": coding})
        assert answer.status_code == 415 and "compressed" in answer.json()["detail"], coding


def test_a_body_over_the_limit_and_too_many_images_or_fields_are_refused(client):
    headers = {"content-type": "image/png"}
    for content in (bytes(BODY_LIMIT + 1), (bytes(10_000) for _ in range(BODY_LIMIT // 10_000 + 1))):
        answer = client.post("/v1/embed", content=content, headers=headers)
        assert answer.status_code == 413 and "200,000 bytes" in answer.json()["detail"]
    answer = client.post("/v1/galleries", content=bytes(BODY_LIMIT + 1), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert client.request("DELETE", "/v1/galleries/people/records/1", content=bytes(100_000)).status_code == 413
    answer = client.post("/v1/embed", files=files(*[picture(1)] * 9))
    assert answer.status_code == 413 and "8 images" in answer.json()["detail"]
    many = {f"field{number}": "1" for number in range(300)}
    assert client.post("/v1/galleries/people/records", files=files(picture(1)), data=many).status_code == 413


def raw(client, text, *, wait=True):
    """Send bytes as they are; what came back until the line was closed."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(text)
        return b"".join(iter(lambda: line.recv(65536), b"")) if wait else b""


def test_half_a_body_is_given_up_after_a_while_and_one_that_hangs_up_at_once(client):
    head = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n"
    answer = raw(client, head + b"\x89PNG")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer.lower()
    raw(client, head + b"\x89PNG", wait=False)
    multipart = head.replace(b"image/png", b"multipart/form-data; boundary=b")
    raw(client, multipart + b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\n\x89PNG', wait=False)


def test_garbage_is_no_request_and_a_client_that_asks_first_is_refused_before_it_sends(client):
    head = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\n"
    for text in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET\r\n\r\n",
        head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 99999999999999999999999\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head.replace(b"1.1", b"1.0") + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        answer = raw(client, text)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (text, answer)
    head += b"Content-Type: text/plain\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"
    assert raw(client, head).startswith(b"HTTP/1.1 415 ")


def test_a_broken_form_is_refused(client):
    image = b'--b\r\nContent-Disposition: form-data; name="images"'
    for body in (
        image + b"\r\n\r\nx",
        b"garbage",
        b"--b--\r\n",
        b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X: " + b"y" * 50_000 + b"\r\n\r\nx\r\n--b--\r\n",
        image.replace(b"images", b"\xff\xfe") + b"\r\n\r\n\xff\r\n--b--\r\n",
        image + b'; filename="' + b"x" * 3000 + b'"\r\n\r\nx\r\n--b--\r\n',
    ):
        answer = client.post("/v1/embed", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code in (400, 422) and len(answer.content) < 1000, (body[:60], answer.text)


def asked_at_once(pool, client, count, *, kind="PNG"):
    """Requests that many threads have sent, all of whose answers come in the end."""
    return [pool.submit(client.post, "/v1/embed", files=files(picture(1, kind=kind))) for _ in range(count)]


def answers(futures, status):
    done = [future.result() for future in futures if future.done()]
    return [answer for answer in done if answer.status_code == status]


def test_ten_times_too_much_is_answered_with_503_and_then_all_is_well():
    runtime = ColorRuntime()
    with running(runtime, max_queue=4, max_images=8, max_batch=2) as (client, service), ThreadPoolExecutor(40) as pool:
        runtime.held.clear()
        crowd = asked_at_once(pool, client, 40)
        until(lambda: len(answers(crowd, 503)) == 36)  # at once, while the model still works on what was let in
        assert service.admission.num_images == 4
        refused = answers(crowd, 503)[0]
        assert int(refused.headers["retry-after"]) >= 1 and "busy" in refused.json()["detail"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        runtime.held.set()
        wait(crowd, 60)
        assert len(answers(crowd, 200)) == 4 and service.admission.num_images == service.admission.num_bytes == 0
        # A request with more images than there is room for is refused whole.
        assert client.post("/v1/embed", files=files(*[picture(1)] * 5)).status_code == 503
        assert service.admission.num_images == 0
        for _ in range(5):
            assert client.post("/v1/embed", files=files(*[picture(1)] * 4)).status_code == 200


@pytest.mark.parametrize("is_freed", [True, False])
def test_wait_for_room_lets_in_what_finds_room_within_a_moment_and_refuses_the_rest(is_freed, monkeypatch):
    monkeypatch.setattr("hat.serve.service.admission._MAX_HOLD_S", 0.1)

    async def ask():
        admission = Admission(max_images=2, max_bytes=100)
        with admission.reserve() as first:
            first.acquire(num_images=2)
            waiting = asyncio.create_task(admission.wait_for_room())
            await asyncio.sleep(0.01 if is_freed else 0.2)
            assert waiting.done() != is_freed
        return await asyncio.gather(waiting, return_exceptions=True)

    (outcome,) = asyncio.run(ask())
    assert outcome is None if is_freed else isinstance(outcome, ApiError) and outcome.status_code == 503


def test_bodies_are_held_within_a_bound_however_many_come():
    runtime = ColorRuntime()
    size = len(picture(1, kind="BMP"))
    limits = {"max_inflight_bytes": int(3.5 * (size + 300)), "max_queue": 1000}
    with running(runtime, **limits) as (client, service), ThreadPoolExecutor(12) as pool:
        runtime.held.clear()
        crowd = asked_at_once(pool, client, 12, kind="BMP")
        until(lambda: len(answers(crowd, 503)) == 9)
        assert service.admission.num_bytes <= service.admission.max_bytes
        runtime.held.set()
        wait(crowd, 60)
        assert len(answers(crowd, 200)) == 3 and service.admission.num_bytes == 0
