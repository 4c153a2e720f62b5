"""Programs written over HTTP: the prompt, mending, replies of all sorts, and the rules for questions about scenes."""

import json

import pytest

from segzero.errors import Unavailable, UserError
from segzero.programs import ProgramWriter, parse_program
from segzero.programs.operators import OPERATORS
from segzero.programs.parser import MOST_CHARACTERS
from segzero.programs.writer import LONGEST_QUESTION, program_in, system_prompt
from segzero.tiny.compositional import compositional_samples
from segzero.tiny.scripted_server import serving
from segzero.tiny.scripted_writer import ScriptedWriter, by_measures, by_phrase, program_for

GOOD = 'A=FIND("mug")\nRESULT(A)'


class Author:
    """A model that gives these replies, one after the other, and keeps what it was sent."""

    def __init__(self, *replies):
        self.replies, self.bodies = list(replies), []

    def __call__(self, body):
        self.bodies.append(body)
        content = self.replies[len(self.bodies) - 1]
        if isinstance(content, dict):
            return 200, {}, content
        return 200, {}, {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


def written_by(author, question="the mug"):
    with serving(author, "author") as port:
        return ProgramWriter(f"http://127.0.0.1:{port}/v1").write(question)


def test_the_prompt_has_every_operator_and_the_question_in_quotes():
    author = Author(GOOD)
    written = written_by(author, 'a "mug"\nRESULT(1)')
    assert written.program.source == GOOD and [one.problem for one in written.attempts] == [""] and not written.problem
    system, user = (message["content"] for message in author.bodies[0]["messages"])
    assert all(f"{name}(" in system for name in OPERATORS) and system == system_prompt() and len(system) < 8_000
    assert user == 'The question: "a \\"mug\\"\\nRESULT(1)"' and author.bodies[0]["temperature"] == 0


def test_an_error_is_sent_back_once_to_be_mended():
    author = Author("RESULT(B)", f"Sorry.\n```\n{GOOD}\n```")
    written = written_by(author)
    assert written.program.source == GOOD and len(author.bodies) == 2
    problem = "line 1: B has no value before this line; there are IMAGE"
    assert [one.problem for one in written.attempts] == [problem, ""]
    assert problem in author.bodies[1]["messages"][-1]["content"]
    assert author.bodies[1]["messages"][-2] == {"role": "assistant", "content": "RESULT(B)"}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("I can't see the picture.", "is no step|can't be read"),
        ("", "the program is empty"),
        ("import os\nos.system('ls')", "line 1: 'import os' is no step"),
        (GOOD + "\n" + "A" * 100_000, "at most 16000 are read"),
        ("\ud83d" * 3, "can't be read"),
    ],
)
def test_two_programs_that_can_not_be_read_are_a_failure(reply, problem):
    written = written_by(Author(reply, reply))
    assert written.program is None and len(written.attempts) == 2
    assert any(part in written.problem for part in problem.split("|"))
    assert all(len(one.source) <= MOST_CHARACTERS + 1 for one in written.attempts)


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}])
def test_an_answer_of_another_form_is_one_line(answer):
    with pytest.raises(UserError, match="gave an answer without choices"):
        written_by(Author(answer))


@pytest.mark.parametrize("reply", [GOOD, f"```python\n{GOOD}\n```", f"<think>A=1\n```\nno\n```</think>\n{GOOD}\n",
                                   f"Here:\n```\nRESULT(1)\n```\nBetter:\n```text\n{GOOD}"])  # fmt: skip
def test_the_program_is_found_in_a_reply(reply):
    assert program_in(reply) == GOOD


def test_questions_and_addresses_that_make_no_sense():
    with serving(Author(), "author") as port:
        url = f"http://127.0.0.1:{port}/v1"
        writer = ProgramWriter(f"author@{url}", "author")
        for question, message in ((" ", "the question is empty"), ("x" * (LONGEST_QUESTION + 1), "at most 4000")):
            with pytest.raises(UserError, match=message):
                writer.write(question)
        with pytest.raises(UserError, match=r"unknown model at http.* 'other'; known: author"):
            ProgramWriter(url, "other")
        with pytest.raises(UserError, match="two models are named"):
            ProgramWriter(f"author@{url}", "other")
    with pytest.raises(UserError, match="is not a server's address"):
        ProgramWriter("localhost")
    with pytest.raises(Unavailable, match="no server at"):
        ProgramWriter(url, retries=0)


def test_the_scripted_writer_is_asked_and_mends():
    with ScriptedWriter(broken=True).running() as served:
        writer = ProgramWriter(served.url)
        one, other = writer.write_all(["all circles except the largest one", "the left two squares"])
    assert [bool(attempt.problem) for attempt in one.attempts] == [True, False]
    assert "THE_EXCEPT is no operator" in one.attempts[0].problem
    assert other.program.source == program_for("the left two squares") and len(served.questions) == 4


@pytest.mark.parametrize("group", [by_measures, by_phrase])
def test_every_compositional_question_is_a_program_without_ask(group):
    for sample in compositional_samples(30, 77):
        source = program_for(sample.question, group)
        assert parse_program(source) and "ASK" not in source, sample.question


@pytest.mark.parametrize(
    ("question", "last"),
    [
        ("All circles except the largest one.", "RESULT(EXCEPT(A, LARGEST(A)))"),
        ("all shapes except the red squares", "RESULT(EXCEPT(SHAPES, A))"),
        ("all shapes except those above the red ring", "RESULT(EXCEPT(SHAPES, ABOVE(SHAPES, A)))"),
        ("the left two squares", "RESULT(LEFTMOST(A, 2))"),
        ("the three smallest red shapes", "RESULT(SMALLEST(A, 3))"),
        ("the largest shape left of the blue ring", "RESULT(LARGEST(B))"),
        ("the ring left of the circle that is above the square", "RESULT(E)"),
        ("the red circle", "RESULT(A)"),
        ("what could roll away", 'RESULT(ASK("what could roll away"))'),
        ('the "shape"', 'RESULT(ASK("the \\"shape\\""))'),
        ("all circles except", 'RESULT(ASK("all circles except"))'),
    ],
)
def test_rules_for_questions(question, last):
    assert program_for(question).splitlines()[-1] == last
    parse_program(program_for(question))


def test_json_of_the_scripted_writer_counts_tokens():
    body = {"messages": [{"role": "user", "content": 'The question: "the red circle"'}]}
    status, _, answer = ScriptedWriter().answer(body)
    assert status == 200 and answer["usage"]["completion_tokens"] > 0 and json.dumps(answer)
