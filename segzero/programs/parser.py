"""The parser of programs: each line becomes typed steps, and nothing is executed by Python.

A line is `NAME=OPERATOR(argument, ...)`, and the last one `RESULT(...)`. Arguments are names of earlier lines, `IMAGE`,
calls of operators, and literals: numbers, words in quotes, lists of boxes or points.

>>> program = parse_program('A=FIND("cups")\\nRESULT(LARGEST(A, 2))')
>>> [step.text for step in program.steps]
['FIND("cups")', 'LARGEST(A, 2)', 'RESULT(LARGEST(A, 2))']
"""

import ast
import math
import re
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from segzero.answer import MAX_PHRASE
from segzero.errors import one_line
from segzero.programs.geometry import read_condition
from segzero.programs.operators import OPERATORS, Operand, Operator
from segzero.programs.values import TYPES, ProgramError

MOST_CHARACTERS = 16_000
MOST_LINE = 1_000  # characters
MOST_STEPS = 64  # calls of operators
MOST_PLACES = 64  # boxes or points in a literal
LARGEST_NUMBER = 1e6
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
PICTURE = "IMAGE"
RESULT = "RESULT"


@dataclass(frozen=True)
class StepReference:
    """An earlier step's value, by the step's place; -1 is the whole picture."""

    step: int
    type: str


@dataclass(frozen=True)
class Literal:
    """A value that the program writes out."""

    value: Any
    type: str


@dataclass(frozen=True)
class Step:
    """One call of an operator; a call inside another one is a step before it."""

    line: int
    name: str  # that the line gives it; empty for a call inside another one
    text: str
    operator: Operator
    arguments: dict[Operand, StepReference | Literal]
    gives: str  # type of its value


@dataclass(frozen=True)
class Program:
    """A program that was read: its text, and the steps in the order in which they are run."""

    source: str
    steps: tuple[Step, ...]


def parse_program(source: str) -> Program:
    """Read a program and check its types; a ProgramError names the line, and says what would be right."""
    if len(source) > MOST_CHARACTERS:
        raise ProgramError(f"the program has {len(source)} characters; at most {MOST_CHARACTERS} are read")
    reader = _Reader()
    source = re.sub(r"\r\n?", "\n", source)  # browsers send the lines of a field like that
    for number, text in enumerate(source.split("\n"), 1):
        if text.strip() and not text.lstrip().startswith("#"):
            reader.read_line(number, text.strip())
    if not reader.steps:
        raise ProgramError('the program is empty; write lines such as A=FIND("the mug"), and RESULT(A) at the end')
    if reader.steps[-1].operator.name != RESULT:
        last = reader.steps[-1]
        raise ProgramError(f"the last line must be RESULT(...), e.g. RESULT({last.name or 'A'})", last.line)
    return Program(source, tuple(reader.steps))


class _Reader:
    """The steps so far, and their names."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.names: dict[str, int] = {}  # name -> place of its step
        self.line = 0

    def error(self, problem: str) -> ProgramError:
        return ProgramError(problem, self.line)

    def read_line(self, number: int, text: str) -> None:
        """Read one line into steps."""
        self.line = number
        if self.steps and self.steps[-1].operator.name == RESULT:
            raise self.error("RESULT(...) ends the program; nothing may follow it")
        statement = self._parse(text)
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                self._check_new_name(name)
                place = self.read_call(call, text, name)
                self.names[name] = place
                if self.steps[place].operator.name == RESULT:
                    raise self.error("RESULT(...) has no name; write RESULT(...) alone")
            case ast.Expr(value=ast.Call(func=ast.Name(id="RESULT")) as call):
                self.read_call(call, text, "")
            case ast.Expr(value=ast.Call(func=ast.Name(id=name))):
                raise self.error(
                    f"the value of {one_line(name, 40)}(...) is lost; give it a name: A={one_line(text, 60)}"
                )
            case _:
                raise self.error(f'{one_line(text, 60)!r} is no step; write NAME=OPERATOR(...), e.g. A=FIND("the mug")')

    def _parse(self, text: str) -> ast.stmt:
        if len(text) > MOST_LINE:
            raise self.error(f"it has {len(text)} characters; at most {MOST_LINE} are read")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in quotes
                body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
            raise self.error(f"{one_line(text, 60)!r} can't be read ({one_line(reason, 60)})") from None
        if len(body) != 1:
            raise self.error(f"{one_line(text, 60)!r} has {len(body)} statements; write one step a line")
        return body[0]

    def _check_new_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise self.error(f"{one_line(name, 40)!r} is no name; take letters, digits and _, at most 40")
        if name == PICTURE or name.upper() in OPERATORS:
            raise self.error(f"{name} means something else already; take another name")
        if name in self.names:
            before = self.steps[self.names[name]].line
            raise self.error(f"{name} has a value since line {before}, and keeps it; take another name")

    def read_call(self, node: ast.Call, line: str, name: str) -> int:
        """Read a call, and those inside it; returns the place of its step."""
        if not isinstance(node.func, ast.Name):
            raise self.error(f"{_source(node.func, line)!r} is no operator; call operators by their plain names")
        operator = OPERATORS.get(node.func.id)
        if operator is None:
            raise self.error(_unknown(node.func.id))
        if operator.name == RESULT and (node.col_offset or name):
            raise self.error("RESULT(...) stands alone on the last line, without a name")
        given = self._by_operand(operator, node, line)
        arguments = {key: self.read_argument(value, operator, key, line) for key, value in given.items()}
        if len(self.steps) >= MOST_STEPS:
            raise self.error(f"the program has more than {MOST_STEPS} steps")
        gives = operator.gives if operator.name != RESULT else next(iter(arguments.values())).type
        self.steps.append(Step(self.line, name, _source(node, line), operator, arguments, gives))
        return len(self.steps) - 1

    def _by_operand(self, operator: Operator, node: ast.Call, line: str) -> dict[Operand, ast.expr]:
        """The arguments of a call by the operand that they are for."""
        known = {one.name: one for one in operator.operands}
        if len(node.args) > len(known):
            raise self.error(f"{operator.name} has {len(node.args)} arguments; it is {operator.signature}")
        given = dict(zip(known.values(), node.args, strict=False))
        for keyword in node.keywords:
            one = known.get(keyword.arg or "")
            if one is None or one in given:
                what = f"no operand {one_line(keyword.arg or '**', 40)!r}" if one is None else f"{one.name} twice"
                raise self.error(f"{operator.name} has {what}; it is {operator.signature}")
            given[one] = keyword.value
        for one in operator.operands:
            if not one.optional and one not in given:
                raise self.error(f"{operator.name} lacks {one.name}; it is {operator.signature}")
        return given

    def read_argument(self, node: ast.expr, operator: Operator, operand: Operand, line: str) -> StepReference | Literal:
        """Read an argument, and check its type."""
        value = self._value(node, operand, line)
        if value.type not in operand.types:
            raise self.error(
                f"{operator.name} takes {' or '.join(operand.types)} as {operand.name}, and "
                f"{_source(node, line)} is {value.type}; it is {operator.signature}"
            )
        if isinstance(value, Literal) and value.type == "Text" and operator.name != RESULT:
            self._check_text(value.value, operator)
        if isinstance(value, Literal) and operand.name == "count" and not 1 <= value.value == int(value.value):
            raise self.error(f"{operator.name} takes a whole number from 1 on as count, not {value.value:g}")
        return value

    def _value(self, node: ast.expr, operand: Operand, line: str) -> StepReference | Literal:
        match node:
            case ast.Call():
                place = self.read_call(node, line, "")
                return StepReference(place, self.steps[place].gives)
            case ast.Name(id=name):
                if name == PICTURE:
                    return StepReference(-1, "Image")
                if name not in self.names:
                    raise self.error(_unknown_name(name, [PICTURE, *self.names]))
                return StepReference(self.names[name], self.steps[self.names[name]].gives)
            case ast.Constant(value=str() as text):
                return Literal(text, "Text")
            case ast.List() | ast.Tuple():
                return self._places(node, line)
        number = _number(node)
        if number is None:
            raise self.error(
                f"{_source(node, line)!r} is no argument; give an earlier name, an operator's call, or "
                f"{' or '.join(TYPES[one].literal for one in operand.types if TYPES[one].literal) or 'IMAGE'}"
            )
        if not abs(number) <= LARGEST_NUMBER:
            raise self.error(f"the number {_source(node, line)} is too large; at most {LARGEST_NUMBER:g} is read")
        return Literal(number, "Number")

    def _places(self, node: ast.List | ast.Tuple, line: str) -> Literal:
        """Boxes or points: a list of them, or one."""
        rows = node.elts if node.elts and all(isinstance(one, ast.List | ast.Tuple) for one in node.elts) else [node]
        if len(rows) > MOST_PLACES:
            raise self.error(f"{len(rows)} boxes or points; at most {MOST_PLACES} are read")
        places = tuple(tuple(_number(one) for one in row.elts) for row in rows)  # type: ignore[attr-defined]
        lengths = {len(one) for one in places}
        finite = all(v is not None and abs(v) <= LARGEST_NUMBER for one in places for v in one)
        if not finite or lengths not in ({2}, {4}):
            raise self.error(
                f"{_source(node, line)} is neither boxes, {TYPES['Boxes'].literal}, nor points, "
                f"{TYPES['Points'].literal}"
            )
        if lengths == {4} and not all(one[0] < one[2] and one[1] < one[3] for one in places):  # type: ignore[operator]
            raise self.error(f"{_source(node, line)}: of a box x0, y0, x1, y1, x1 must be above x0 and y1 above y0")
        return Literal(places, "Boxes" if lengths == {4} else "Points")

    def _check_text(self, text: str, operator: Operator) -> None:
        if not text.strip(" \t\r\n.?!"):
            raise self.error(f"{operator.name} is given empty words; say what is meant")
        if len(text) > MAX_PHRASE and operator.name == "FIND":
            raise self.error(f"the phrase of FIND has {len(text)} characters; at most {MAX_PHRASE} are read")
        if operator.name == "SELECT":
            try:
                read_condition(text)
            except ValueError as error:
                raise self.error(str(error)) from None


def _number(node: ast.expr) -> float | None:
    """A number that is written out, with or without a sign; None for anything else."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return None if isinstance(value, bool) else -_bounded(value)
        case ast.Constant(value=int() | float() as value):
            return None if isinstance(value, bool) else _bounded(value)
    return None


def _bounded(value: float) -> float:
    """The number as a float; one beyond all bounds is infinite."""
    return float(value) if -LARGEST_NUMBER <= value <= LARGEST_NUMBER else math.inf


def _source(node: ast.expr, line: str) -> str:
    """Text of a part of a line, shortened."""
    return one_line(ast.get_source_segment(line, node) or "it", 120)


def _unknown(name: str) -> str:
    near = get_close_matches(name.upper(), OPERATORS, n=1)
    hint = f"did you mean {near[0]}?" if near else "the operators are"
    return f"{one_line(name, 40)} is no operator; {hint}" + ("" if near else f" {', '.join(OPERATORS)}")


def _unknown_name(name: str, known: list[str]) -> str:
    return f"{one_line(name, 40)} has no value before this line; there are {', '.join(known)}"
