"""``hat keys``: who may use a service."""

from pathlib import Path
from typing import Annotated

import typer

from hat.console import emit, stderr

keys = typer.Typer(
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

File = Annotated[Path, typer.Argument(help="The file of keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@keys.command(no_args_is_help=True)
def add(
    file: File,
    name: Annotated[str, typer.Option(help="Whose it is.")],
    role: Annotated[
        str, typer.Option(help="read: embed, search, list. write: also enroll, remove and make galleries.")
    ] = "read",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept.

    Examples:

      hat keys add keys.json --name dashboard
    """
    from rich.text import Text

    from hat.errors import UsageError

    from ..service.keys import KeyFile

    if role not in ("read", "write"):
        raise UsageError(f"unknown role {role!r}: expected read or write")
    key, token = KeyFile(file).add(name, "write" if role == "write" else "read")
    stderr.print(f"made {key.role} key {key.id} for {key.name}; keep it now, it is shown only once", markup=False)
    emit({"id": key.id, "name": key.name, "role": key.role, "key": token}, Text(token), as_json)


@keys.command("list", no_args_is_help=True)
def list_keys(file: File, as_json: AsJson = False) -> None:
    """List the keys of a file, without their secrets.

    Examples:

      hat keys list keys.json
    """
    from rich.table import Table
    from rich.text import Text

    from ..service.keys import KeyFile

    found = KeyFile(file).read()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("id", "name", "role", "created"):
        table.add_column(column)
    for key in found:
        table.add_row(*(Text(cell) for cell in (key.id, key.name, key.role, key.created)))
    facts = [{"id": key.id, "name": key.name, "role": key.role, "created": key.created} for key in found]
    emit({"keys": facts}, table, as_json)


@keys.command(no_args_is_help=True)
def remove(file: File, key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")], as_json: AsJson = False) -> None:
    """Remove a key; a running service stops taking it within a second.

    Examples:

      hat keys remove keys.json 1f0c93ab
    """
    from rich.text import Text

    from ..service.keys import KeyFile

    key = KeyFile(file).remove(key_id)
    emit({"id": key.id, "name": key.name, "role": key.role}, Text(f"removed {key.id} ({key.name})"), as_json)
