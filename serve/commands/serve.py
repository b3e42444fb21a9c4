"""``hat serve``: embeddings and ranked galleries over HTTP; ``hat keys``: who may use a service."""

import gc
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hat.commands.options import GrayBits, finite
from hat.console import emit, make_table, stderr
from hat.data.images import set_gray_bits
from hat.errors import MissingExtraError, UsageError

from ..service.keys import KeyFile, KeyRing, is_loopback
from . import options


def serve(
    model: Annotated[str, typer.Argument(help="A checkpoint, an exported file, or triton://host:port/model.")],
    gallery: Annotated[list[str] | None, typer.Option(help="[NAME=]PATH or milvus://host:port/name; repeatable.")] = None,
    gallery_root: Annotated[Path | None, typer.Option(help="Folder of galleries that can be made over HTTP too.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse all changes to galleries.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback only with --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    allow_host: Annotated[list[str] | None, typer.Option(help="Accepted Host header; repeatable.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys, see hat keys.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Append a JSON line for every request to this file.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of the certificate, PEM.")] = None,
    device: options.Device = "auto",
    gray_bits: GrayBits = None,
    precision: Annotated[str, typer.Option(help="Precision of a checkpoint: fp32, bf16 or fp16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU that compute.")] = None,
    decoders: Annotated[int | None, typer.Option(min=1, help="Threads that decode images; one for each core.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum batch size of the model.")] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(callback=finite, min=0, help="Longest wait of a batch for images being decoded.")
    ] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Maximum images in the service; 503 beyond.")] = 256,
    max_images: Annotated[int, typer.Option(min=1, help="Maximum images per request.")] = 64,
    max_top: Annotated[int, typer.Option(min=1, help="Maximum matches per query.")] = 1000,
    max_body_mib: Annotated[float, typer.Option(callback=finite, min=0.001, help="Maximum request body.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(callback=finite, min=0.001, help="Maximum image size.")] = 25.0,
    timeout_s: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Timeout of a request once it was received.")
    ] = 60.0,
    rate: Annotated[
        float | None, typer.Option(callback=finite, min=0.001, help="Rate limit: images per second for each key.")
    ] = None,
    thumbnails: Annotated[int | None, typer.Option(min=16, max=1024, help="Keep thumbnails of this height.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is served, and where, as JSON.")] = False,
) -> None:
    """Embed images and search galleries over HTTP, until Ctrl+C or SIGTERM; running requests are finished.

    It listens on this machine alone. Any other address needs API keys (hat keys), and a certificate or a proxy for TLS. The
    interface is described at /openapi.json, its operation in docs/serving.md.

    Examples:

      hat serve market.onnx --gallery people.gallery

      hat serve runs/market --gallery hall=hall.gallery --gallery gate=milvus://db:19530/gate --audit audit.jsonl

      hat keys add keys.json --name camera-3 --role write

      hat serve market.xml --gallery-root galleries --keys keys.json --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    from hat.runtime import open_runtime
    from hat.runtime.torch_runtime import checked_precision

    try:
        from ..service.admission import ServiceSettings
        from ..service.audit import AuditLog
        from ..service.gallery_registry import parse_gallery
        from ..service.ingress import allowed_hosts
        from ..service.server import bind, create_app, run_server, shown_address
        from ..service.service import Service
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "serving over HTTP") from None

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
    for name, place in map(parse_gallery, gallery or []):
        if name in places:
            raise UsageError(f"two galleries are called {name!r}: name them, NAME=PLACE")
        places[name] = place
    log = AuditLog(audit) if audit is not None else None
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    set_gray_bits(gray_bits)

    # Bound before the model is opened: a port that is taken is reported at once.
    with bind(host, port) as listener:
        limits: dict[str, Any] = {} if threads is None else {"num_threads": threads}
        runtime = open_runtime(model, device, checked_precision(precision), **limits)
        service = Service.open(runtime, places, settings, root=gallery_root, read_only=read_only, keys=ring, audit=log)
        try:
            result = {
                "address": shown_address(listener, tls=tls_cert is not None),
                "model": service.info.name,
                "runtime": runtime.name,
                "fingerprint": service.info.fingerprint,
                "galleries": {name: len(service.galleries.get(name)) for name in service.galleries.names()},
                "keys": None if ring is None else len(ring),
            }
            emit(result, _table(result), as_json)
            sys.stdout.flush()  # whoever started this waits for it
            # What was loaded until now is kept out of the garbage collector, which would look through it while clients wait.
            gc.collect()
            gc.freeze()
            run_server(create_app(service), listener, certificate=tls_cert, key=tls_key)
        finally:
            service.close()
    stderr.print("stopped")


def _table(result: dict[str, Any]) -> Table:
    galleries = ", ".join(f"{name} ({count:,} records)" for name, count in result["galleries"].items())
    rows = [
        ("address", result["address"]),
        ("model", f"{result['model']}, {result['runtime']}"),
        ("galleries", galleries or "none"),
        ("keys", "none: everybody on this machine may use it" if result["keys"] is None else result["keys"]),
    ]
    return make_table(rows)


keys_app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""API keys of the service: made, listed and removed. The file holds hashes; a key is shown once, when it is made.

    A running hat serve --keys FILE takes changes up within a second. Every subcommand takes --json.

    Examples:

      hat keys add keys.json --name camera-3 --role write

      hat keys list keys.json

      hat keys remove keys.json 1f0c93ab
    """,
)

KeysFile = Annotated[Path, typer.Argument(help="The file of keys.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")]


@keys_app.command(no_args_is_help=True)
def add(
    file: KeysFile,
    name: Annotated[str, typer.Option(help="Whose it is.")],
    role: Annotated[str, typer.Option(help="read: embed, search, list; write: also change galleries.")] = "read",
    as_json: options.AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept.

    Examples:

      hat keys add keys.json --name dashboard
    """
    if role not in ("read", "write"):
        raise UsageError(f"unknown role {role!r}: expected read or write")
    key, token = KeyFile(file).add(name, "write" if role == "write" else "read")
    stderr.print(f"made {key.role} key {key.id} for {key.name}; keep it now, it is shown only once")
    emit({"id": key.id, "name": key.name, "role": key.role, "key": token}, Text(token), as_json)


@keys_app.command("list", no_args_is_help=True)
def list_keys(file: KeysFile, as_json: options.AsJson = False) -> None:
    """List the keys of a file, without their secrets.

    Examples:

      hat keys list keys.json
    """
    columns = ("id", "name", "role", "created")
    keys = [{column: getattr(key, column) for column in columns} for key in KeyFile(file).read()]
    emit({"keys": keys}, make_table([list(key.values()) for key in keys], columns, left=columns), as_json)


@keys_app.command(no_args_is_help=True)
def remove(file: KeysFile, key_id: KeyId, as_json: options.AsJson = False) -> None:
    """Remove a key; a running service stops taking it within a second.

    Examples:

      hat keys remove keys.json 1f0c93ab
    """
    key = KeyFile(file).remove(key_id)
    emit({"id": key.id, "name": key.name, "role": key.role}, Text(f"removed {key.id} ({key.name})"), as_json)
