"""`arno serve`: the HTTP door."""

from typing import Annotated

import typer

from arno_shared.errors import MissingExtra

HostOption = Annotated[str | None, typer.Option(help="Where to listen.", show_default="ARNO_HTTP__HOST, or 127.0.0.1")]
PortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help="0 takes any free one.", show_default="ARNO_HTTP__PORT, or 8000")
]


def serve(host: HostOption = None, port: PortOption = None) -> None:
    """Take jobs, single pictures and S3 events over HTTP, until SIGTERM.

    ARNO_HTTP__TOKENS says who may: without any, this machine alone.
    """
    from arno_producer.cli.connection import load_settings
    from arno_producer.client import Producer
    from arno_shared import logs

    try:
        from arno_producer.http.serve import serve as open_door
    except ImportError as error:
        needed = ("anyio", "fastapi", "multipart", "python_multipart", "starlette", "uvicorn")
        if (error.name or "").partition(".")[0] in needed:
            raise MissingExtra("The HTTP door", "http") from None
        raise
    settings = load_settings()
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"http": settings.http.model_copy(update=given)})
    logs.configure(settings.log_level)
    open_door(Producer(settings))
