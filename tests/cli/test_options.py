"""Dataclasses as parameters of a command, and options that a file holds."""

import json
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from segzero.cli.options import takes_dataclasses
from segzero.cli.options_file import read_options, write_options
from segzero.errors import UserError


@dataclass(frozen=True)
class SizeOptions:
    """Inner options."""

    width: Annotated[int, typer.Option(help="In pixels.", min=1)] = 4
    tall: Annotated[bool, typer.Option("--tall")] = False


@dataclass(frozen=True)
class BoxOptions:
    """Outer options, one of which is required."""

    label: Annotated[str, typer.Option(help="Its text.")]
    size: SizeOptions = field(default_factory=SizeOptions)
    colors: Annotated[list[str] | None, typer.Option("--color")] = None


@pytest.fixture
def invoke():
    """Call a command with these arguments -> the result, and the values that the command was called with."""
    app, calls = typer.Typer(), []

    @app.command()
    @takes_dataclasses
    def draw(
        file: Path,
        *,
        box: BoxOptions,
        depth: int = 0,
        options_file: Annotated[Path | None, typer.Option("--options", callback=read_options, is_eager=True)] = None,
    ) -> None:
        """Draw a box."""
        calls.append((file, box, depth))

    def call(*arguments: object):
        calls.clear()
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result, calls[0] if calls else None

    call.draw = draw
    return call


def text_of(result) -> str:
    """Everything that was printed, without the frames around errors and their line breaks."""
    return " ".join(result.output.replace("│", " ").split())


def test_fields_become_options_and_options_fields(invoke):
    assert list(signature(invoke.draw).parameters) == [
        "file", "label", "width", "tall", "colors", "depth", "options_file",
    ]  # fmt: skip
    result, called = invoke("a.png", "--label", "cat", "--color", "red", "--color", "blue", "--tall", "--depth", 2)
    assert result.exit_code == 0
    assert called == (Path("a.png"), BoxOptions("cat", SizeOptions(4, True), ["red", "blue"]), 2)


def test_checks_and_required_options_are_those_of_typer(invoke):
    result, _ = invoke("a.png", "--label", "cat", "--width", 0)
    assert result.exit_code == 2 and "Invalid value for '--width'" in text_of(result)
    result, _ = invoke("a.png")
    assert result.exit_code == 2 and "Missing option '--label'" in text_of(result)


def test_a_command_is_also_a_function(invoke, tmp_path):
    @takes_dataclasses
    def area(*, size: SizeOptions, depth: int = 3) -> None:
        (tmp_path / "area").write_text(f"{size.width} {size.tall} {depth}")

    area(width=7)
    assert (tmp_path / "area").read_text() == "7 False 3"
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        area(widht=7)


def test_options_of_a_file_are_defaults_that_flags_replace(invoke, tmp_path):
    file = write_options(tmp_path, {"label": "cat", "width": 9, "tall": True, "colors": ["red"], "depth": None})
    result, called = invoke("a.png", "--options", file, "--width", 5, "--color", "blue")
    assert result.exit_code == 0, result.output
    assert called == (Path("a.png"), BoxOptions("cat", SizeOptions(5, True), ["blue"]), 0)
    assert json.loads(file.read_text())["width"] == 9


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot read options from"),
        ("{", "cannot read options from"),
        ("[" * 100_000, "cannot read options from"),
        ("[]", "holds no options; it must be a JSON object"),
        ('{"lable": "cat"}', "unknown option"),
        ('{"lable": "cat"}', "did you mean 'label'?"),
        ('{"width": [3]}', "width must be a text, a number, true or false"),
        ('{"colors": "red"}', "colors must be a list of texts"),
        ('{"colors": [1]}', "colors must be a list of texts"),
    ],
)
def test_a_file_without_good_options_is_one_line(invoke, tmp_path, text, problem):
    file = tmp_path / "options.json"
    if text is not None:
        file.write_text(text)
    result, called = invoke("a.png", "--label", "cat", "--options", file)
    assert called is None and isinstance(result.exception, UserError)
    assert problem in str(result.exception) and "\n" not in str(result.exception)
    assert str(file) in str(result.exception)


def test_a_value_of_the_wrong_kind_is_refused_as_a_flag_is(invoke, tmp_path):
    file = tmp_path / "options.json"
    file.write_text('{"width": "wide"}')
    result, called = invoke("a.png", "--label", "cat", "--options", file)
    assert called is None and result.exit_code == 2 and "Invalid value for '--width'" in text_of(result)
