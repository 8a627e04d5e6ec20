"""`limner studio worker`: paint for a studio on another host."""

from pathlib import Path
from typing import Annotated

import typer

from limner.commands.arguments import Device
from limner.contract.errors import LimnerError, install_command


def studio_worker_command(
    db: Annotated[
        str,
        typer.Option(
            "--db",
            "--database",
            envvar="LIMNER_DB",
            help="Database of the studio: postgresql://...",
        ),
    ],
    files: Annotated[
        str,
        typer.Option(help="--files of the studio: a shared folder, or an s3://... URL."),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="Folder of this worker, for copies of pictures.")
    ] = Path("studio-worker"),
    lease: Annotated[
        float,
        typer.Option(
            min=1.0, help="Seconds without a sign of life after which other workers take its jobs."
        ),
    ] = 30.0,
    device: Device = "auto",
) -> None:
    """Take jobs from a studio's database on another host, and paint them with this host's models.

    The models are the bundled ones and the runs below this folder.
    """
    try:
        from limner.studio.remote_worker import work
    except ModuleNotFoundError as error:
        raise LimnerError(
            f"the studio needs {error.name}; type: {install_command('studio')}"
        ) from None
    from limner.studio.settings import Settings

    settings = Settings(folder=data, database=db, files=files, device=device, lease=lease)
    work(settings, lambda name: typer.echo(f"working for the studio as {name}"))
