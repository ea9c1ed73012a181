"""The command `gadms serve`."""

import ipaddress
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
    if token is None and not _is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines: give a token with --token-file or {TOKEN_VARIABLE}, "
            "or listen on 127.0.0.1"
        )
    try:
        import uvicorn

        from modeling_gadms.serving.app import create_app
        from modeling_gadms.serving.limits import ServingLimits
    except ImportError as error:
        raise ImportError('Serving needs more packages: pip install "gadms[serve]"') from error
    from modeling_gadms.gallery.person_gallery import open_with_model

    opened, processor = open_with_model(gallery, model, runtime)
    limits = ServingLimits(upload_bytes=max_upload_mb * 1_000_000, frames=max_frames)
    app = create_app(opened, processor, token=token, limits=limits)
    uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=_GRACE_SECONDS, server_header=False)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"The token file {file} is empty")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
