"""Writers of programs that commands name: a language model's address, or the rules for synthetic scenes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from segzero.programs.writer import ProgramWriter

SCENES = "scenes"  # rules that know the grammar of questions about synthetic scenes, served here
LLM_HELP = "http://HOST:PORT/v1 or MODEL@http://... of a language model; scenes: rules for questions about our scenes."
WriterModelOption = Annotated[str | None, typer.Option(help="The language model's name, if its server has several.")]


@contextmanager
def writer_address(written: str) -> Iterator[str]:
    """The address of a writer; that of the scenes is served by this process while the context lasts."""
    if written != SCENES:
        yield written
        return
    from segzero.tiny.scripted_writer import ScriptedWriter

    with ScriptedWriter().running() as served:
        yield served.url


@contextmanager
def program_writer(written: str | None, seconds: float) -> Iterator["ProgramWriter | None"]:
    """Reach the writer of a server, whose requests take so many seconds at most; None if none is named."""
    if written is None:
        yield None
        return
    from segzero.programs.writer import ProgramWriter

    with writer_address(written) as address:
        yield ProgramWriter(address, timeout=seconds, retries=1)
