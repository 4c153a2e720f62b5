"""The parser: what is a program, its types, and everything that is none; nothing is ever executed."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.programs import parser
from segzero.programs.operators import OPERATORS
from segzero.programs.parser import Literal, StepReference, parse_program
from segzero.programs.values import ProgramError
from segzero.programs.writer import EXAMPLES

CANARY = "/tmp/segzero_program_canary"
# Not one of these is a program: text, and a part of what the error says.
ATTACKS = [
    ('A=FIND("x").rle\nRESULT(A)', "line 1: 'A=FIND(\"x\").rle' is no step"),
    ('A=FIND("x").__class__.__mro__[1].__subclasses__()', "is no operator"),
    ("A=IMAGE.image", "is no step"),
    ('A=FIND("x"[0])', "is no argument"),
    ('A=FIND("a" "b".join([]))', "is no operator; call operators by their plain names"),
    (f'A=__import__("os").system("touch {CANARY}")', "is no operator"),
    (f"A=open('{CANARY}', 'w')", "open is no operator"),
    ("A=eval('1')", "eval is no operator"),
    (f"A=exec(\"open('{CANARY}','w')\")", "exec is no operator"),
    (f"A=FIND(open('{CANARY}', 'w'))", "open is no operator"),
    (f"A=FIND(f\"{{open('{CANARY}', 'w')}}\")", "is no argument"),
    ("A=FIND(lambda: 1)", "is no argument"),
    ("A=[FIND(x) for x in y]", "is no step"),
    ('A=LARGEST({FIND("x") for x in y})', "is no argument"),
    ("A=FIND(x for x in y)", "is no argument"),
    ('A=FIND("x") if 1 else FIND("y")', "is no step"),
    ('A=FIND("x") and FIND("y")', "is no step"),
    ('A=FIND("x")+FIND("y")', "is no step"),
    ('A=LARGEST(FIND("x"), 9**9**9**9)', "is no argument"),
    ('A=LARGEST(FIND("x"), ' + "9" * 900 + ")", "the number"),
    ('A=LARGEST(FIND("x"), 1e400)', "is too large"),
    ('A=LARGEST(FIND("x"), 1j)', "is no argument"),
    ('A=LARGEST(FIND("x"), True)', "is no argument"),
    ('A=LARGEST(FIND("x"), None)', "is no argument"),
    ('A=LARGEST(FIND("x"), 0)', "takes a whole number from 1 on as count"),
    ('A=LARGEST(FIND("x"), -1)', "takes a whole number from 1 on as count"),
    ('A=LARGEST(FIND("x"), 1.5)', "takes a whole number from 1 on as count"),
    ("A=FIND(b'x')", "is no argument"),
    ("A=FIND(...)", "is no argument"),
    ("A=FIND(*B)", "is no argument"),
    ("A=FIND(**B)", "FIND has no operand '**'"),
    ('A=FIND(phrase="x", phrase="y")', "FIND has phrase twice"),
    ('A=FIND("x", phrase="y")', "FIND has phrase twice"),
    ('A=FIND("x", None, 3)', "FIND has 3 arguments"),
    ('A=FIND(A:=FIND("x"))', "is no argument"),
    ("import os", "is no step"),
    ("from os import system", "is no step"),
    ("del IMAGE", "is no step"),
    ("def FIND(): pass", "is no step"),
    ("class A: pass", "is no step"),
    ("while 1: pass", "is no step"),
    ('for A in FIND("x"): pass', "is no step"),
    ('with FIND("x") as A: pass', "is no step"),
    ("global A", "is no step"),
    ("assert 1", "is no step"),
    ("A=1", "is no step"),
    ('A="x"', "is no step"),
    ("A=IMAGE", "is no step"),
    ('A, B=FIND("x")', "is no step"),
    ('A=B=FIND("x")', "is no step"),
    ('A+=FIND("x")', "is no step"),
    ('A: int=FIND("x")', "is no step"),
    ('A.b=FIND("x")', "is no step"),
    ('A[0]=FIND("x")', "is no step"),
    ('@FIND\ndef f(): pass', "can't be read"),
    ('A=await FIND("x")', "is no step"),
    ('A=FIND("x"); B=FIND("y")', "has 2 statements; write one step a line"),
    ('A=FIND("x") # fine\nB=FIND("y") \\\n', "line 2"),
    ('A=FIND("""x\ny""")', "can't be read"),
    ('A=FIND("x\0")', "can't be read"),
    ('A=FIND("\ud800")', "can't be read"),
    ('A=FIND("x"', "can't be read"),
    ("A=" + "-" * 900 + "1", "is no step"),
    ("A=FIND(" + "(" * 900 + '"x"' + ")" * 80, "can't be read"),
    ('A=LARGEST(FIND("x"), ' + "~" * 900 + "1)", "is no argument"),
    ("A=" + "LARGEST(" * 110 + 'FIND("x")' + ")" * 90, "can't be read"),
    ("A=" + "LARGEST(" * 90 + 'FIND("x")' + ")" * 90, "the program has more than 64 steps"),
    ('A=FIND("' + "x" * 2000 + '")', "at most 1000 are read"),
    ('A=FIND("' + "x" * 300 + '")', "the phrase of FIND has 300 characters"),
    ('A=FIND("x")\n' * 9999, "at most 16000 are read"),
    ("A=FIND(A)", "A has no value before this line; there are IMAGE"),
    ('A=LARGEST(B)\nB=LARGEST(A)', "line 1: B has no value before this line"),
    ('A=FIND("x")\nA=LARGEST(A)\nRESULT(A)', "line 2: A has a value since line 1"),
    ('IMAGE=FIND("x")', "IMAGE means something else already"),
    ('FIND=FIND("x")', "FIND means something else already"),
    ('result=FIND("x")', "result means something else already"),
    ('\uff21=FIND("x")\nRESULT(\uff21)\nA=1', "line 3: RESULT(...) ends the program"),
    ('ñ=FIND("x")', "is no name"),
    ('_=FIND("x")', "is no name"),
    (f'{"A" * 41}=FIND("x")', "is no name"),
    ('FIND("x")', 'is lost; give it a name: A=FIND("x")'),
    ('A=RESULT(FIND("x"))', "RESULT(...) stands alone"),
    ('RESULT(RESULT(FIND("x")))', "RESULT(...) stands alone"),
    ('RESULT(UNION(FIND("x"), RESULT(FIND("y"))))', "RESULT(...) stands alone"),
    ('RESULT(FIND("x"))\nRESULT(FIND("y"))', "line 2: RESULT(...) ends the program"),
    ('A=FIND("x")', "line 1: the last line must be RESULT(...), e.g. RESULT(A)"),
    ("RESULT(CROP(FIND('x')))", "RESULT takes Masks or Number or Text as value, and CROP(FIND('x')) is Image"),
    ("", "the program is empty"),
    ("# a remark", "the program is empty"),
    ("A=FIND()", "FIND lacks phrase; it is FIND(phrase: Text, image: Image (optional)) -> Masks"),
    ("A=FIND(3)", "FIND takes Text as phrase, and 3 is Number"),
    ('A=FIND("x", image=FIND("y"))', 'FIND takes Image as image, and FIND("y") is Masks'),
    ('A=LARGEST("x")', 'LARGEST takes Masks as masks, and "x" is Text'),
    ("A=COUNT(IMAGE)", "COUNT takes Masks as masks, and IMAGE is Image"),
    ("A=UNION(COUNT(EVERYTHING()), EVERYTHING())", "UNION takes Masks as masks, and COUNT(EVERYTHING()) is Number"),
    ('A=FIND(" ")', "FIND is given empty words"),
    ('A=FYND("x")', "FYND is no operator; did you mean FIND?"),
    ('A=find("x")', "find is no operator; did you mean FIND?"),
    ('A=SELECT(EVERYTHING(), "beautiful")', "'beautiful' is no condition; write a colour"),
    ('A=SELECT(EVERYTHING(), "area > 1 or 1")', "is no condition"),
    ('A=SELECT(EVERYTHING(), "__import__(1) > 2")', "is no condition"),
    ("A=SEGMENT([])", "is neither boxes"),
    ("A=SEGMENT([[1, 2, 3]])", "is neither boxes"),
    ("A=SEGMENT([[1, 2], [1, 2, 3, 4]])", "is neither boxes"),
    ("A=SEGMENT([[1, 2, [3], 4]])", "is neither boxes"),
    ("A=SEGMENT([[1, 2, 1e999, 4]])", "is neither boxes"),
    ("A=SEGMENT([[True, 2, 3, 4]])", "is neither boxes"),
    ("A=SEGMENT([[9, 2, 3, 4]])", "x1 must be above x0"),
    ("A=SEGMENT([" + "[1,2]," * 160 + "[1,2]])", "161 boxes or points; at most 64"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message"), ATTACKS, ids=range(len(ATTACKS)))
def test_what_is_no_program_is_refused_in_one_line(source, message):
    begin = time.perf_counter()
    with pytest.raises(ProgramError) as caught:
        parse_program(source)
    error = str(caught.value)
    assert message in error and "\n" not in error and len(error) < 600
    assert time.perf_counter() - begin < 2
    assert not Path(CANARY).exists()


def test_a_program_becomes_typed_steps():
    program = parse_program(
        '# the mug\nA = FIND("mug", image=IMAGE)\n\nB=SEGMENT(((1, 2, 3.5, 4),))\r\nRESULT(UNION(others=B, masks=A))'
    )
    assert "\r" not in program.source
    assert [(step.line, step.name, step.text, step.gives) for step in program.steps] == [
        (2, "A", 'FIND("mug", image=IMAGE)', "Masks"),
        (4, "B", "SEGMENT(((1, 2, 3.5, 4),))", "Masks"),
        (5, "", "UNION(others=B, masks=A)", "Masks"),
        (5, "", "RESULT(UNION(others=B, masks=A))", "Masks"),
    ]
    given = [{operand.name: value for operand, value in step.arguments.items()} for step in program.steps]
    assert given[0] == {"phrase": Literal("mug", "Text"), "image": StepReference(-1, "Image")}
    assert given[1] == {"places": Literal(((1.0, 2.0, 3.5, 4.0),), "Boxes")}
    assert given[2] == {"masks": StepReference(0, "Masks"), "others": StepReference(1, "Masks")}


def test_bounds_hold_from_both_sides(monkeypatch):
    steps = "\n".join(f'A{n}=FIND("x")' for n in range(parser.MOST_STEPS - 1))
    assert len(parse_program(f"{steps}\nRESULT(A0)").steps) == parser.MOST_STEPS
    with pytest.raises(ProgramError, match=f"line {parser.MOST_STEPS}: the program has more than 64 steps"):
        parse_program(f"{steps}\nRESULT(LARGEST(A0))")
    monkeypatch.setattr(parser, "MOST_CHARACTERS", 30)
    assert parse_program('RESULT(FIND("x"))' + "#" * 13).steps
    with pytest.raises(ProgramError, match="31 characters; at most 30"):
        parse_program('RESULT(FIND("x"))' + "#" * 14)


@pytest.mark.parametrize("question", list(EXAMPLES))
def test_the_prompts_examples_are_programs(question):
    assert parse_program(EXAMPLES[question]).steps[-1].operator.name == "RESULT"


def test_every_operator_has_types_and_a_line_of_help():
    assert {"FIND", "SEGMENT", "EVERYTHING", "SELECT", "UNION", "INTERSECT", "SUBTRACT", "LARGEST", "SMALLEST",
            "LEFTMOST", "RIGHTMOST", "TOPMOST", "BOTTOMMOST", "LEFT_OF", "RIGHT_OF", "ABOVE", "BELOW", "NEAREST",
            "INSIDE", "COUNT", "CROP", "ASK", "RESULT"} <= OPERATORS.keys()  # fmt: skip
    for operator in OPERATORS.values():
        assert operator.operands and operator.help.endswith(".") and len(operator.help) < 110, operator


@given(st.text(alphabet='ABFIND()="x,.[]12\n #*{}:;lambda_', max_size=60))
def test_any_text_is_a_program_or_an_error(source):
    try:
        parse_program(source)
    except ProgramError as error:
        assert "\n" not in str(error)
