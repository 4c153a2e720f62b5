"""`segzero docs`: the pages of the documentation, in the terminal."""

from typing import Annotated

import typer

from segzero.errors import unknown_name
from segzero.shipped import docs_dir


def docs(
    page: Annotated[str | None, typer.Argument(help="The page, such as data or training; none lists them.")] = None,
) -> None:
    """Read the documentation of this version; it is what the site shows."""
    from rich.console import Console
    from rich.markdown import Markdown

    pages = {path.stem: path for path in sorted(docs_dir().glob("*.md"))}
    console = Console()
    if page is None:
        for name, path in pages.items():
            title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            console.print(f"segzero docs {name:18}{title}", markup=False, highlight=False)
        return
    if page not in pages:
        raise unknown_name("page", page, list(pages))
    text = pages[page].read_text(encoding="utf-8")
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)
