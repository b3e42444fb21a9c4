"""A real Milvus server for tests, from a virtual environment of its own.

HAT_MILVUS_SERVER names it, made by

    python -m venv /somewhere && /somewhere/bin/pip install milvus==2.3.5 'setuptools<81'

That package holds a whole Milvus 2.3.5 in one program.
"""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

# The server ends when its standard input does: also where the tests are killed and nothing is left to stop it.
PROGRAM = """
import socket, sys
from milvus import MilvusServer, MilvusServerConfig

config = MilvusServerConfig(data_dir=sys.argv[1])
names = [name for name in config.configurable_items if name.endswith("_port")]
sockets = [socket.socket() for _ in range(len(names) + 1)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
ports = [one.getsockname()[1] for one in sockets]
for one in sockets:
    one.close()
config.update(**dict(zip(names, ports)))
server = MilvusServer(config)
server.webservice_port = ports[-1]
server.start()
print(server.listen_port, flush=True)
sys.stdin.read()
server.stop()
"""


@contextlib.contextmanager
def milvus_server(folder):
    """The port on which it listens; its files are below the folder and it ends with the block."""
    environment = os.environ.get("HAT_MILVUS_SERVER")
    if not environment:
        pytest.skip("HAT_MILVUS_SERVER is unset: it names a virtual environment with milvus==2.3.5")
    python = Path(environment) / "bin" / "python"
    asked = subprocess.run([python, "-c", "import milvus"], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"{environment} lacks a package: {asked.stderr.strip().splitlines()[-1]}")
    log = folder / "milvus.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-c", PROGRAM, str(folder / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
        )
    try:
        line = process.stdout.readline()
        if not line:
            pytest.skip(f"Milvus cannot run here: {log.read_text().strip().splitlines()[-1]}")
        yield int(line)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
