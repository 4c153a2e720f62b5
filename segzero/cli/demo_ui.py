"""`segzero demo-ui`: the server with its web page, opened in the browser.

It takes what `segzero serve` takes, and tells it on.
"""

import inspect
import threading
import time
from typing import Annotated, Any

import typer

from segzero.cli.serve import serve

PORT = 7860
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # addresses to listen at, and where this machine finds itself
PATIENCE = 3600.0  # seconds: large models may have to be fetched first


def demo_ui(
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True, **options: Any
) -> None:
    """Look, ask and click in the browser: the server with its page."""
    host = EVERYWHERE.get(options["host"], options["host"])
    address = f"http://{host}:{options['port']}/ui/"
    if not _answers(address):  # else the port is another program's: `serve` says so
        threading.Thread(target=_show, args=(address, browser), daemon=True).start()
    serve(**options)


def _with_options_of_serve() -> None:
    """typer reads a command's options from its signature."""
    own, *_ = inspect.signature(demo_ui).parameters.values()
    served = [
        each.replace(default=PORT) if each.name == "port" else each
        for each in inspect.signature(serve).parameters.values()
        if each.name != "ui"
    ]
    demo_ui.__signature__ = inspect.Signature([*served, own])  # type: ignore[attr-defined]
    demo_ui.__annotations__ = {each.name: each.annotation for each in [*served, own]}


_with_options_of_serve()


def _show(address: str, browser: bool) -> None:
    """Once the server answers, say where the page is, and open it."""
    import webbrowser

    deadline = time.monotonic() + PATIENCE
    while not _answers(address):
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    typer.echo(f"the page is at {address}; Ctrl+C ends it")
    if browser and not webbrowser.open(address):
        typer.echo("no browser opens here; open that address in one")


def _answers(address: str) -> bool:
    import urllib.request

    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True
