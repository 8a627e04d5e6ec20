"""`limner studio`: start the web studio."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device
from limner.contract.errors import LimnerError, install_command


def studio_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8420,
    host: Annotated[
        str, typer.Option(help="Interface to listen on (this machine only).")
    ] = "127.0.0.1",
    token: Annotated[
        str,
        typer.Option(
            envvar="LIMNER_TOKEN", help="Secret that clients must send; needed with --host."
        ),
    ] = "",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Extra host name to accept.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="Folder for pictures and the queue.")] = Path(
        "studio"
    ),
    db: Annotated[
        str | None,
        typer.Option(
            "--db",
            "--database",
            envvar="LIMNER_DB",
            help="Database: postgresql://... (SQLite in the folder).",
        ),
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(help="Folder or s3://... URL for pictures (a folder in --data)."),
    ] = None,
    paint: Annotated[
        bool,
        typer.Option(
            "--paint/--no-paint", help="Paint on this host, too, not only on other workers."
        ),
    ] = True,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Open the studio: type a prompt in a browser, watch the picture form, keep it."""
    try:
        from limner.studio.serve import serve, show
    except ModuleNotFoundError as error:
        raise LimnerError(
            f"the studio needs {error.name}; type: {install_command('studio')}"
        ) from None
    from limner.studio.settings import Settings

    names, server = tuple(name or ()), {"host": host, "port": port, "token": token}
    settings = Settings(
        **server, names=names, folder=data, database=db, device=device, files=files, paints=paint
    )

    def say(address: str) -> None:
        url = address if sys.stdout.isatty() else address.partition("?")[0]  # no token in logs
        typer.echo(f"the studio is open: {url}")
        if open_page:
            show(address)

    serve(settings, say)
