"""Addresses of galleries in Milvus, who is let in, and what is said when nobody answers."""

import socket
import subprocess
import sys

import pytest

from hat.errors import MissingExtraError, UsageError
from hat.serve.milvus.address import parse_address
from hat.serve.milvus.gallery import MilvusGallery


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("USER", "PASSWORD", "TOKEN", "DB"):
        monkeypatch.delenv(f"HAT_MILVUS_{name}", raising=False)


def test_parse_address_reads_host_port_and_name():
    address = parse_address("milvus://store.example:1234/people")
    assert (address.host, address.port, address.name, address.tls) == ("store.example", 1234, "people", False)
    assert set(address.login.values()) == {""} and str(address) == "milvus://store.example:1234/people"
    assert parse_address("milvus://localhost/_a1").port == 19530
    assert str(parse_address("milvus://[::1]:5/people?db=shop")) == "milvus://[::1]:5/people?db=shop"


def test_secrets_come_from_the_address_or_the_environment_and_are_never_shown(monkeypatch):
    for name, value in {"USER": "u2", "PASSWORD": "hidden2", "TOKEN": "hidden3", "DB": "d2"}.items():
        monkeypatch.setenv(f"HAT_MILVUS_{name}", value)
    address = parse_address("milvus://u1:hid%40den1@host/people?db=d1&tls=true&token=hidden4")
    assert address.login == {"user": "u1", "password": "hid@den1", "token": "hidden4", "db_name": "d1"} and address.tls
    assert "hid" not in repr(address) + str(address)
    address = parse_address("milvus://host/people")
    assert address.login == {"user": "u2", "password": "hidden2", "token": "hidden3", "db_name": "d2"}
    assert "hid" not in repr(address) + str(address)


def test_what_is_no_address_is_refused_without_repeating_a_password():
    for location, words in (
        ("http://u:hidden@host/people", "cannot be read"),
        ("milvus:///people", "cannot be read"),
        ("milvus://u:hidden@host:port/people", "cannot be read"),
        ("milvus://u:hidden@host:0/people", "cannot be read"),
        ("milvus://u:hidden@host:70000/people", "cannot be read"),
        ("milvus://u:hidden@[::1/people", "cannot be read"),
        ("milvus://u:hidden@host", "named by letters"),
        ("milvus://u:hidden@host/", "named by letters"),
        ("milvus://u:hidden@host/a/b", "named by letters"),
        ("milvus://u:hidden@host/1st", "named by letters"),
        ("milvus://u:hidden@host/a%22%20or%201", "named by letters"),
        ("milvus://u:hidden@host/" + "a" * 256, "named by letters"),
        ("milvus://u:hidden@host/people?db=../x", "database of Milvus"),
        ("milvus://u:hidden@host/people?tls=maybe", "true or false"),
        ("milvus://u:hidden@host/people?password=hidden", "knows db, tls and token"),
        ("milvus://u:hidden@host/people?db", "cannot be read"),
        ("milvus://u:hidden@host/people#part", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            parse_address(location)
        assert "hidden" not in str(caught.value)


def test_open_says_what_to_do_where_nobody_or_something_else_answers():
    """In a process of its own, for whatever else it says: gRPC writes past Python's own streams."""
    pytest.importorskip("pymilvus", reason="the extra milvus is not installed")
    code = (
        "import sys\nfrom hat.errors import WorkError\nfrom hat.serve.milvus.gallery import MilvusGallery\n"
        "for location in sys.argv[1:]:\n"
        "    try:\n        MilvusGallery.open(location, timeout_s=0.5)\n    except WorkError as error:\n        print(error)"
    )
    with socket.socket() as taken, socket.create_server(("127.0.0.1", 0)) as silent:
        taken.bind(("127.0.0.1", 0))  # where nobody listens; the other takes connections and says nothing
        ports = [one.getsockname()[1] for one in (taken, silent)]
        locations = [f"milvus://u:hidden@127.0.0.1:{port}/people" for port in ports]
        done = subprocess.run([sys.executable, "-c", code, *locations], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "hidden" not in done.stdout
    nobody, other = done.stdout.splitlines()
    assert f"no Milvus server answers at 127.0.0.1:{ports[0]}" in nobody and "start it" in nobody
    assert "lets nobody in as Milvus would" in other


def test_half_precision_is_refused_and_without_pymilvus_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UsageError, match="Milvus keeps embeddings in float32, float16 was asked for"):
        MilvusGallery.open("milvus://127.0.0.1:1/people", stored_type="float16")
    with pytest.raises(MissingExtraError, match=r"pip install 'hat-reid\[milvus\]'"):
        MilvusGallery.open("milvus://127.0.0.1:1/people")
