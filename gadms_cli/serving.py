"""The command `gadms serve`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .options import RUNTIME_HELP, GalleryOption
from .user_errors import user_errors


TOKEN_VARIABLE = "GADMS_TOKEN"
_GRACE_SECONDS = 20


@user_errors()
def serve(
    gallery: GalleryOption,
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub name. By default the model that the gallery was built with.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any address except loopback requires a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 chooses a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the bearer token that clients must send. By default the variable {TOKEN_VARIABLE}."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address that clients use for this server, if it is not that of loopback, as behind a proxy; "
            "repeatable. Without a token the server answers to no other names."
        ),
    ] = None,
    uploads: Annotated[
        Path | None,
        typer.Option(help="Folder for uploads and the state of jobs. By default GALLERY-uploads beside the gallery."),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Largest upload, in MB.")] = 2_000,
    max_frames: Annotated[int, typer.Option(min=1, help="Largest number of frames read from an upload.")] = 36_000,
    runtime: Annotated[
        str | None, typer.Option(help=f"{RUNTIME_HELP} By default the runtime that the gallery was built with.")
    ] = None,
) -> None:
    """Serve a gallery over HTTP. Clients search, and upload files to index; the API is documented at /docs.

    \b
    gadms serve --gallery my_gallery
    curl localhost:8000/search --json '{"text": "a woman in a red coat", "top_k": 3}'
    curl -T cctv.mp4 -X POST "localhost:8000/index?name=cctv.mp4&camera=gate-2&per_second=2"
    """
    token = _token(token_file)
    try:
        import uvicorn

        from modeling_gadms.serving.app import create_app
        from modeling_gadms.serving.limits import ServingLimits
        from modeling_gadms.serving.origins import LOOPBACK_HOSTS, is_loopback
        from modeling_gadms.serving.protocol import HeadTimeoutProtocol
    except ImportError as error:
        raise ImportError('Serving needs more packages: pip install "gadms[serve]"') from error
    from modeling_gadms.gallery.person_gallery import open_with_model
    from modeling_gadms.indexing.jobs import claim_folder, uploads_beside

    if token is None and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines: give a token with --token-file or {TOKEN_VARIABLE}, "
            "or listen on 127.0.0.1"
        )
    opened, processor = open_with_model(gallery, model, runtime)
    uploads = uploads or uploads_beside(opened.location)
    claim_folder(uploads).close()  # refused here in one line, and not when the server has begun to start
    limits = ServingLimits(upload_bytes=max_upload_mb * 1_000_000, frames=max_frames)
    app = create_app(
        opened,
        processor,
        token=token,
        limits=limits,
        uploads=uploads,
        allowed_hosts=[*LOOPBACK_HOSTS, *allowed_host] if allowed_host else None,
    )
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=HeadTimeoutProtocol,
        ws="none",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
    )


def _token(file: Path | None) -> str | None:
    """The token without white space around it, as the line end of a file; `None` if there is none."""
    if file is None:
        name, token = f"The variable {TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            return None
    else:
        name, token = f"The token file {file}", file.read_text(encoding="utf-8")
    token = token.strip()
    if not token:
        raise ValueError(f"{name} is empty")
    if not token.isprintable():
        raise ValueError(f"{name} contains a line break or another character that cannot be sent in a header")
    return token
