"""Who may reach the demo, what is left of it, and what a handler's failure looks like to a visitor."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
from gray_pictures import draw_gray_twice
from typer.testing import CliRunner

import hat
from hat.cli import app
from hat.demo.app_state import Session
from hat.demo.events import GENERAL, bind, clicked, typed_identity, whole_number
from hat.demo.launching import Address, check_address, interruptible, private_environment, serve_page
from hat.demo.pages.page import LIMITS_OF_USE, build_page, card_text
from hat.demo.uploads import UPLOAD_LIMITS
from hat.errors import DataError, UsageError, WorkError
from hat.io.checkpoint import SHIPPED_MODEL

README = Path(__file__).resolve().parents[2] / "README.md"


def wired(handler, *, outputs=("text",), **options):
    """The function that the page would call, and how it was registered."""
    registered = {}
    bind(lambda run, **metadata: registered.update(metadata, run=run), handler, "session", [], list(outputs), **options)
    return registered


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
def test_any_other_address_needs_a_log_in(host):
    with pytest.raises(UsageError, match="--user"):
        Address(host)
    assert Address(host, user="anna", password="walnut").host == host
    assert Address("127.0.0.2").host == "127.0.0.2"
    for user, password in (("anna", None), (None, "walnut"), ("", "x"), ("a", "")):  # half a log-in is none
        with pytest.raises(UsageError):
            Address(user=user, password=password)


def test_the_environment_is_private_and_put_back(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with private_environment() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.parent == Path(tempfile.gettempdir())
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder / "uploads")
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and os.environ["HF_HUB_OFFLINE"] == "1"
        assert os.environ["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost", "::1"]
        (folder / "uploads" / "image.jpg").write_bytes(b"x")
    assert not folder.exists()
    assert (os.environ["NO_PROXY"], os.environ["GRADIO_SHARE"]) == ("intranet", "True") and "HF_HUB_OFFLINE" not in os.environ


def test_what_ends_a_program_from_outside_ends_it_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), number)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_style_sheet_the_script_and_a_model_card_ask_nobody_for_anything(tmp_path):
    texts = [(files("hat.demo.view") / name).read_text(encoding="utf-8") for name in ("page.css", "crop_box.js")]
    assert not any(word in text for text in texts for word in ("http:", "https:", "@import", "url("))
    assert card_text(tmp_path) is None
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# A model\n\n![picture](https://example.org/a.png) <img src=//example.org/b.png> [link](c)")
    assert card_text(tmp_path) == "# A model\n\n[picture](https://example.org/a.png) &lt;img src=//example.org/b.png> [link](c)"
    card.write_bytes(b"x" * 300_000)
    assert card_text(tmp_path) is None


def test_the_card_of_a_model_is_shown_whether_it_is_given_by_path_or_by_name(state, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(hat.io.checkpoint, "__file__", str(tmp_path / "package" / "io" / "checkpoint.py"))
    shipped = shutil.copytree(tiny_checkpoint, tmp_path / "package" / "models" / SHIPPED_MODEL)

    async def cards():  # gradio asks for an event loop, and would leave one of its own open
        return [block.value for block in build_page(state).blocks.values() if isinstance(block, gr.Markdown)]

    assert asyncio.run(cards()) == []
    (shipped / "MODEL_CARD.md").write_text("# Taught by nobody")
    for model in (str(shipped), SHIPPED_MODEL):
        state.model = model
        assert asyncio.run(cards()) == ["# Taught by nobody"], model


def test_the_server_gives_no_file_and_lists_no_endpoint(served, tmp_path):
    url, gallery, _ = served
    (tmp_path / "secret.txt").write_text("secret")
    with httpx.Client(trust_env=False, base_url=url) as client:
        for path in (tmp_path / "secret.txt", gallery, "/etc/hostname", README):
            assert client.get(f"gradio_api/file={path}").status_code in (403, 404)
        assert client.get("gradio_api/info").json()["named_endpoints"] == {}
        assert client.get("monitoring").status_code in (403, 404)
        assert client.get("/").status_code == 200


def test_serve_page_answers_its_own_name_and_page_alone(served):
    url, *_ = served
    with httpx.Client(trust_env=False) as client:

        def status(path="", method="GET", **headers):
            return client.request(method, url + path, headers=headers).status_code

        own = httpx.URL(url).netloc.decode()
        assert status() == status(Host=f"localhost:{httpx.URL(url).port}") == status(Origin=url.rstrip("/")) == 200
        for host in ("evil.example", f"evil.example:{httpx.URL(url).port}", "127.0.0.1.evil.example", ""):
            assert status(Host=host) in (400, 421), host
            assert status("gradio_api/queue/join", "POST", Host=host) in (400, 421)
        for origin in ("http://evil.example", f"http://evil.example/{own}", "null", f"http://{own}0"):
            assert status(Origin=origin) == 403, origin
            assert status("gradio_api/upload", "POST", Origin=origin) == 403


def test_check_address_names_the_option_where_the_port_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(WorkError, match=rf"127\.0\.0\.1:{port} .*--port"):
            check_address(Address(port=port))
        result = CliRunner().invoke(app, ["demo", "--port", str(port)])  # refused before the model is opened
    assert isinstance(result.exception, WorkError) and "--port" in str(result.exception) and "opening" not in result.output
    check_address(Address(port=port))
    with pytest.raises(UsageError, match="no such address"):
        check_address(Address("no.such.host.invalid", user="a", password="b"))


@pytest.mark.parametrize(("port", "words"), [(None, "from 7860 on"), (7861, r"127\.0\.0\.1:7861 .* another --port")])
def test_serve_page_says_which_ports_cannot_be_listened_on(monkeypatch, port, words):
    def launch(**options):
        raise OSError("Cannot find empty port")

    monkeypatch.setattr("hat.demo.pages.page.build_page", lambda state: SimpleNamespace(launch=launch))
    with pytest.raises(WorkError, match=words):
        serve_page(SimpleNamespace(limits=UPLOAD_LIMITS), Address(port=port))


def failure(error, session=None):
    """What a visitor reads where a handler raises an error."""

    def fail(session):
        session.chosen, session.gallery = 7, "other"
        raise error

    with pytest.raises(gr.Error) as caught:
        wired(fail)["run"](session or Session())
    assert not caught.value.print_exception
    return caught.value.message


@pytest.mark.parametrize("error", [UsageError, WorkError, DataError])
def test_an_error_of_ours_is_its_own_sentence_and_shows_names_as_text(error):
    said = failure(error("<script>alert(1)</script>.jpg: not an image"))
    assert said == "&lt;script&gt;alert(1)&lt;/script&gt;.jpg: not an image"


def test_any_other_error_is_a_general_sentence_and_one_line_in_the_log(caplog):
    with caplog.at_level(logging.ERROR):
        assert failure(ZeroDivisionError("by zero")) == GENERAL
        said = failure(RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nand more"))
    assert "memory ran out" in said and "\n" not in said
    line, _ = caplog.messages
    assert line.startswith("ZeroDivisionError at ") and "test_demo_launching.py" in line and "Traceback" not in caplog.text


def test_handlers_get_and_give_what_the_page_expects():
    metadata = wired(lambda session, value: (value + 1,))
    visitor = Session()
    assert metadata["run"](visitor, 1) == (visitor, 2)
    assert (
        metadata["inputs"] == ["session"]
        and metadata["outputs"] == ["session", "text"]
        and metadata["api_visibility"] == "private"
    )
    assert wired(lambda session: (), outputs=())["run"](visitor) is visitor
    click = gr.EventData(None, {"index": 3})
    clicking = wired(lambda session, happened, one: (clicked(happened), one), reads_click=True)
    assert clicking["run"](visitor, click, 9) == (visitor, 3, 9)
    waiting = wired(lambda session, bar, one: (bar, one), shows_progress=True)
    assert waiting["run"](visitor, "bar", 9) == (visitor, "bar", 9)

    # The session stays as it was where a handler fails.
    visitor = Session(chosen=3)
    failure(UsageError("no"), visitor)
    assert (visitor.chosen, visitor.gallery) == (3, "")

    def work(session):
        visitor.gallery = "chosen meanwhile"
        session.chosen = 7
        return ("text",)

    wired(work)["run"](visitor)
    assert (visitor.chosen, visitor.gallery) == (7, "chosen meanwhile")


def test_typed_identity_is_a_number_or_a_name_and_whole_number_a_number():
    identities = {"": None, None: None, " 007 ": 7, "7.0": 7, "Anna Maria": "Anna Maria", "7b": "7b"}
    assert {text: typed_identity(text) for text in identities} == identities
    for text in ("-1", "-7", "x" * 201):
        with pytest.raises(UsageError, match="an identity"):
            typed_identity(text)
    numbers = {"": None, None: None, " 12 ": 12, "0": 0, "007": 7}
    assert {text: whole_number(text, "a number") for text in numbers} == numbers


def test_the_limits_of_use_are_those_of_the_front_page():
    assert LIMITS_OF_USE in " ".join(README.read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such/model"], "no/such/model"),
        (["--host", "0.0.0.0"], "--user"),
        (["--report", "no/such/report.json"], "no such report"),
        (["--user", "anna"], "HAT_DEMO_PASSWORD"),
        (["--gallery", "people.gallery", "--max-images", "9"], "--max-images"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_opened(arguments, words, monkeypatch):
    monkeypatch.delenv("HAT_DEMO_PASSWORD", raising=False)
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert isinstance(result.exception, UsageError) and words in str(result.exception)


def test_gray_of_fewer_bits_is_scaled_before_it_is_enrolled(tiny_checkpoint, tmp_path, monkeypatch, call):
    """Cameras of 12 bits write them into files of 16: scaled, they are what the upper 8 of the 12 bits are."""
    monkeypatch.setattr("hat.data.images._default_gray_bits", None)  # the command sets it for its process
    enrolled = []

    def serve_nobody(state, *_, **options):
        gallery = state.gallery("")
        enrolled.append(gallery.embeddings([record.id for record in gallery.records()]))
        raise KeyboardInterrupt

    monkeypatch.setattr("hat.demo.launching.serve_page", serve_nobody)
    shots = [(folder, pid, camera) for folder in ("query", "bounding_box_test") for pid in (1, 2) for camera in (1, 2)]
    draw_gray_twice(tmp_path, [f"{folder}/{pid:04d}_c{camera}s1_000001_01.png" for folder, pid, camera in shots])
    for name, options in (("deep", ("--gray-bits", 12)), ("plain", ())):
        code, _, err = call("demo", tiny_checkpoint, "--data", tmp_path / name, "--device", "cpu", *options)
        assert code == 0, err
    np.testing.assert_array_equal(*enrolled)
    assert len(enrolled[0]) == 4


def test_files_that_are_called_alike_are_told_apart(tiny_checkpoint, tmp_path, monkeypatch, call):
    names = []

    def serve_nobody(state, *_, **options):
        names.extend(artifact.name for artifact in state.artifacts)
        raise KeyboardInterrupt

    monkeypatch.setattr("hat.demo.launching.serve_page", serve_nobody)
    mine, other, twin = (tmp_path / name for name in ("runs/market", "other/market", "twin"))
    for folder in (mine, other, twin):
        shutil.copytree(tiny_checkpoint, folder)
    compared = ("--compare", other, "--compare", twin)
    code, _, err = call("demo", mine, *compared, "--gallery", tmp_path / "new.gallery", "--device", "cpu")
    assert code == 0, err
    assert names == [str(mine), str(other), "twin"]


def test_without_any_model_the_quickstart_is_named(monkeypatch):
    monkeypatch.setattr("hat.io.checkpoint.shipped_model", lambda: None)
    result = CliRunner().invoke(app, ["demo"])
    assert isinstance(result.exception, UsageError) and "no model was given" in str(result.exception)
    assert "`hat quickstart`" in str(result.exception)
