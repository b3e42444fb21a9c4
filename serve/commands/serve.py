"""``hat serve``: embeddings and ranked galleries over HTTP."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..service.service import Service


def serve(
    model: Annotated[str, typer.Argument(help="A checkpoint, an exported file, or triton://host:port/model.")],
    gallery: Annotated[
        list[str] | None, typer.Option("--gallery", help="A gallery, [NAME=]PATH or milvus://host:port/name; repeatable.")
    ] = None,
    gallery_root: Annotated[
        Path | None, typer.Option(help="Folder in which galleries can be made over HTTP; those in it are served too.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change of a gallery.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback only with --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Name that clients may call the service by; repeatable.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys, see hat keys.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Append a JSON line for every request to this file.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of a checkpoint: fp32, bf16 or fp16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU that compute.")] = None,
    decoders: Annotated[int | None, typer.Option(min=1, help="Threads that decode images; one for each core.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most images in one run of the model.")] = 32,
    max_wait_ms: Annotated[float, typer.Option(min=0, help="How long a run waits for images that are being decoded.")] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Most images in the service; more are answered with 503.")] = 256,
    max_images: Annotated[int, typer.Option(min=1, help="Most images in a request.")] = 64,
    max_top: Annotated[int, typer.Option(min=1, help="Most matches for a query.")] = 1000,
    max_body_mib: Annotated[float, typer.Option(min=0.001, help="Largest body of a request.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image.")] = 25.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time for a request once it was received.")] = 60.0,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Images a second for each key.")] = None,
    thumbnails: Annotated[
        int | None, typer.Option(min=16, max=1024, help="Keep pictures of this height of enrolled images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is served, and where, as JSON.")] = False,
) -> None:
    """Embed images and search galleries over HTTP, until Ctrl+C or SIGTERM; what is in work then is finished.

    It listens on this machine alone. Any other address needs API keys (hat keys), and a certificate or a proxy for TLS. The
    interface is described at /openapi.json, its operation in docs/serving.md.

    Examples:

      hat serve market.onnx --gallery people.gallery

      hat serve runs/market --gallery hall=hall.gallery --gallery gate=milvus://db:19530/gate --audit audit.jsonl

      hat keys add keys.json --name camera-3 --role write

      hat serve market.xml --gallery-root galleries --keys keys.json --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    _need_libraries()
    from hat.errors import UsageError
    from hat.runtime import open_runtime, runtime_info
    from hat.runtime.torch_runtime import checked_precision

    from ..gallery.binding import binding_of
    from ..service.audit import AuditLog
    from ..service.gallery_registry import GalleryRegistry, parse_gallery
    from ..service.ingress import allowed_hosts, is_loopback
    from ..service.keys import KeyFile, KeyRing
    from ..service.server import bind, create_app, run_server, shown_address
    from ..service.service import Service
    from ..service.settings import ServiceSettings

    if not is_loopback(host) and keys is None:
        raise UsageError(f"--host {host} can be reached by others: give the keys that they need with --keys (see hat keys)")
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    settings = ServiceSettings(
        max_batch=batch,
        max_wait_s=max_wait_ms / 1000,
        max_queue=queue,
        max_images=min(max_images, queue),
        max_top=max_top,
        max_body_bytes=int(max_body_mib * 2**20),
        max_inflight_bytes=max(256 * 2**20, int(max_body_mib * 2**20)),
        max_pixels=int(max_megapixels * 1e6),
        num_decoders=decoders,
        timeout_s=timeout_s,
        rate_per_s=rate,
        hosts=allowed_hosts(host, allow_host or ()),
        thumbnail_height=thumbnails,
    )
    ring = KeyRing(KeyFile(keys)) if keys is not None else None
    if ring is not None and not len(ring):
        raise UsageError(f"{keys} has no key, so nobody could come in: add one with `hat keys add`")
    places: dict[str, str] = {}
    for text in gallery or ():
        name, place = parse_gallery(text)
        if name in places:
            raise UsageError(f"two galleries are called {name!r}: name them, NAME=PLACE")
        places[name] = place
    log = AuditLog(audit) if audit is not None else None
    _log_to_stderr()

    # Bound before the model is opened: a port that is taken is to be told at once.
    listener = bind(host, port)
    with listener:
        options: dict[str, Any] = {} if threads is None else {"num_threads": threads}
        runtime = open_runtime(model, device, checked_precision(precision), **options)
        binding = binding_of(runtime_info(runtime))
        registry = GalleryRegistry.open(
            places, binding, root=gallery_root, read_only=read_only, max_galleries=settings.max_galleries
        )
        service = Service(runtime, registry, settings, keys=ring, audit=log)
        try:
            service.pipeline.warm_up()
            result = _result(service, shown_address(listener, tls=tls_cert is not None))
            emit(result, _table(result), as_json)
            sys.stdout.flush()  # whoever started this waits for it
            _freeze_garbage()
            run_server(create_app(service), listener, certificate=tls_cert, key=tls_key)
        finally:
            service.close()
    stderr.print("stopped")


def _need_libraries() -> None:
    from importlib.util import find_spec

    from hat.errors import MissingExtraError

    for module, library in (
        ("fastapi", "fastapi"),
        ("multipart", "multipart"),
        ("orjson", "orjson"),
        ("prometheus_client", "prometheus-client"),
        ("uvicorn", "uvicorn"),
    ):
        if find_spec(module) is None:
            raise MissingExtraError(library, "serve", "serving over HTTP")


def _freeze_garbage() -> None:
    """Keep what was loaded until now out of the garbage collector, which would look through all of it while clients wait."""
    import gc

    gc.collect()
    gc.freeze()


def _log_to_stderr() -> None:
    """Failures of the service and of the server, on stderr with their time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("hat.serve", "uvicorn"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.WARNING)


def _result(service: Service, address: str) -> dict[str, Any]:
    info = service.info
    return {
        "address": address,
        "model": info.name,
        "runtime": service.pipeline.runtime.name,
        "fingerprint": info.fingerprint,
        "galleries": {name: len(service.galleries.get(name)) for name in service.galleries.names()},
        "keys": None if service.keys is None else len(service.keys),
    }


def _table(result: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    galleries = ", ".join(f"{name} ({count:,} records)" for name, count in result["galleries"].items())
    table.add_row("address", Text(result["address"]))
    table.add_row("model", Text(f"{result['model']}, {result['runtime']}"))
    table.add_row("galleries", Text(galleries or "none"))
    table.add_row("keys", "none: everybody on this machine may use it" if result["keys"] is None else str(result["keys"]))
    return table
