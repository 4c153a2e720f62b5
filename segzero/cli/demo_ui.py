"""`segzero demo-ui`: the server with its web page, opened in the browser."""

import threading
import time
from dataclasses import dataclass
from typing import Annotated

import typer

from segzero.cli.options import takes_dataclasses
from segzero.cli.serve import ServeOptions, run_server
from segzero.extras import needs

REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # addresses to listen at, and to open in a browser here
LONGEST_START = 3600.0  # seconds: large models may have to be downloaded first


@dataclass(frozen=True)
class DemoServerOptions(ServeOptions):
    """The options of `segzero serve`, with a port of its own."""

    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 7860


@needs("serve")
@takes_dataclasses
def demo_ui(
    *,
    options: DemoServerOptions,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look, ask and click in the browser: the server with its page."""
    address = f"http://{REACHED_AT.get(options.host, options.host)}:{options.port}/ui/"
    if not _answers(address):  # else another program has the port, and the server reports that
        threading.Thread(target=_open_page, args=(address, browser), daemon=True).start()
    run_server(options, page=True)


def _open_page(address: str, browser: bool) -> None:
    """Wait until the server answers, then print the address of the page and open it."""
    import webbrowser

    deadline = time.monotonic() + LONGEST_START
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
