"""The page about programs against the tables that it shows, and its examples."""

import re
from pathlib import Path

import pytest

from segzero.programs import parse_program
from segzero.programs.operators import table, types
from segzero.programs.parser import MOST_CHARACTERS, MOST_LINE, MOST_STEPS
from segzero.programs.values import ProgramError

PAGE = (Path(__file__).parents[2] / "docs/programs.md").read_text(encoding="utf-8")


def test_the_page_has_the_operators_and_types_as_they_are():
    rows = [f"| `{signature}` | {help} |" for signature, help in table()]
    rows += [f"| {name} | {meaning} | {f'`{literal}`' if literal else ''} |" for name, meaning, literal in types()]
    assert [row for row in rows if row not in PAGE] == []
    assert PAGE.count("\n| `") == len(table()), "an operator that there is not"


def test_its_program_and_its_error_are_real():
    blocks = re.findall(r"^```(\w*)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    program, error = (text for language, text in blocks if not language)
    assert parse_program(program).steps[-1].gives == "Masks"
    with pytest.raises(ProgramError) as caught:
        parse_program(program.replace("SUBTRACT(C,", "SUBTRACT(CROP(A),"))
    assert f"segzero: {caught.value}" == error


def test_its_bounds_are_those_of_the_parser():
    assert f"at most {MOST_CHARACTERS:,} characters, {MOST_LINE:,} in a line, and {MOST_STEPS} calls" in PAGE
