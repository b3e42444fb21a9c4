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
import pathlib, socket, sys
from milvus import MilvusServer, MilvusServerConfig

folder, authorization = sys.argv[1:]
config = MilvusServerConfig(data_dir=folder)
names = [name for name in config.configurable_items if name.endswith("_port")]
sockets = [socket.socket() for _ in range(len(names) + 3)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
web, client, peer, *ports = [one.getsockname()[1] for one in sockets]
for one in sockets:
    one.close()
config.update(**dict(zip(names, ports)))
config.set("common.security.authorizationEnabled", authorization)
# Its etcd would listen on 2379 whatever else does.
etcd = pathlib.Path(folder + ".etcd.yaml")
etcd.write_text(
    f"name: default\\nlisten-client-urls: http://127.0.0.1:{client}\\nadvertise-client-urls: http://127.0.0.1:{client}\\n"
    f"listen-peer-urls: http://127.0.0.1:{peer}\\ninitial-advertise-peer-urls: http://127.0.0.1:{peer}\\n"
    f"initial-cluster: default=http://127.0.0.1:{peer}\\n"
)
config.template_text = config.template_text.replace("\\netcd:\\n", f"\\netcd:\\n  config:\\n    path: {etcd}\\n", 1)
server = MilvusServer(config)
server.webservice_port = web
server.start()
print(server.listen_port, flush=True)
sys.stdin.read()
server.stop()
"""


@contextlib.contextmanager
def milvus_server(folder, *, password_is_asked_for=False):
    """The port on which it listens; its files are below the folder and it ends with the block. Its user is root, Milvus."""
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
            [python, "-c", PROGRAM, str(folder / "data"), str(password_is_asked_for).lower()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
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
