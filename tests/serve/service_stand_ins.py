"""A service for tests: a model that can be read off its answers, and a server on a free port."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import uvicorn
from PIL import Image

from hat.io.artifact import ArtifactInfo
from hat.model import model_config
from hat.preprocessing import Preprocessing
from hat.serve import Gallery, binding_of
from hat.serve.service import GalleryRegistry, Service, ServiceSettings, create_app

PREPROCESSING = Preprocessing(height=32, width=16)
EMBED_DIM = 24


class ColorRuntime:
    """Embeds an image by the mean colors of eight of its tiles: unlike colors are unlike people."""

    name = "colors"
    embed_dim = EMBED_DIM
    preprocessing = PREPROCESSING
    max_batch = None

    def __init__(self, fingerprint="colors"):
        self.info = ArtifactInfo(
            name="colors",
            model=model_config("hat_mobilenet_v3_small"),
            preprocessing=PREPROCESSING,
            embed_dim=EMBED_DIM,
            precision="fp32",
            source_sha256="0" * 64,
            fingerprint=fingerprint,
            versions={},
        )
        self.batches = []  # sizes of its runs
        self.held = threading.Event()  # cleared, a run waits until it is set
        self.held.set()
        self.in_run = threading.Event()
        self.failure = None  # raised by every run

    def run(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (3, 32, 16)
        self.batches.append(len(images))
        self.in_run.set()
        self.held.wait(30)
        if self.failure is not None:
            raise self.failure
        return colors(images)


def colors(images):
    tiles = images.reshape(len(images), 3, 4, 8, 2, 8).mean(axis=(3, 5)).reshape(len(images), -1)
    rows = tiles.astype(np.float32) - 127.5 + 1e-3
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def picture(seed, *, size=(20, 50), kind="PNG"):
    """Encoded image of a person that `seed` names: the same seed looks the same."""
    tiles = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(tiles).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def embedding_of(data):
    """What the model says of an encoded image, by another way than the service's."""
    pixels = PREPROCESSING.resize_image(Image.open(io.BytesIO(data)).convert("RGB"))
    return colors(pixels.transpose(2, 0, 1)[None])[0]


def files(*pictures):
    """Images as parts of a form; a picture is bytes, or a pair of name and bytes."""
    named = [one if isinstance(one, tuple) else (f"{place}.png", one) for place, one in enumerate(pictures)]
    return [("images", (name, data, "image/png")) for name, data in named]


@contextmanager
def running(runtime=None, *, galleries=(), root=None, keys=None, audit=None, **settings):
    """A service behind a real server on a free port, in a thread: (client, service). In `root` galleries can be made too."""
    runtime = runtime or ColorRuntime()
    binding = binding_of(runtime.info)
    limits = ServiceSettings(**{"num_decoders": 2, **settings})
    with ExitStack() as stack:
        folder = root or Path(stack.enter_context(TemporaryDirectory()))
        opened = {name: Gallery.open(folder / f"{name}.gallery", binding=binding, create=True) for name in galleries}
        registry = GalleryRegistry(opened, binding, root=root, max_galleries=limits.max_galleries)
        service = Service(runtime, registry, limits, keys=keys, audit=audit)
        client = stack.enter_context(connected(stack.enter_context(serving(create_app(service)))))
        yield client, service


def connected(address, timeout=30):
    """A client of a service; what it costs to make is nearly all for TLS, which is not used here."""
    return httpx.Client(base_url=address, timeout=timeout, verify=False, limits=httpx.Limits(max_connections=None))


def hang_up(client, path, images, condition):
    """Send a request and close the connection without an answer, once something has come of it."""
    request = client.build_request("POST", path, files=images)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        until(condition)


@contextmanager
def serving(app):
    """The address of a server that runs in a thread until the end of the block."""
    config = uvicorn.Config(app, port=0, log_config=None, log_level="critical", access_log=False, ws="none", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until(condition, timeout_s=20.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
