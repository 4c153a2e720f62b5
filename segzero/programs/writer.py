"""Programs written by a language model on an OpenAI-compatible server, which sees the question but not the picture.

The model is shown the operators, as the table has them, and examples. A program that can't be read is sent back once
with the error, to be mended.

>>> writer = ProgramWriter("http://127.0.0.1:8000/v1")                             # doctest: +SKIP
>>> writer.write("the mug left of the laptop").program.source                      # doctest: +SKIP
'A=FIND("mug")\\nB=FIND("laptop")\\nRESULT(LEFT_OF(A, B))'
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from segzero.errors import UserError, one_line
from segzero.policy.chat_server import ChatServer, as_text, split_address
from segzero.programs.geometry import COLOURS, MEASURES, PLACES
from segzero.programs.operators import table, types
from segzero.programs.parser import MOST_CHARACTERS, Program, parse_program
from segzero.programs.trace import Attempt
from segzero.programs.values import ProgramError

MOST_TOKENS = 1024  # of a program; reasoning models think in them too
LONGEST_QUESTION = 4_000  # characters
CONCURRENT = 8  # requests at once
ATTEMPTS = 2  # the first, and one that mends it
QUESTION = "The question: "  # begins the last line of the first message; what follows is a JSON string
EXAMPLES = {
    "the mug left of the laptop, but not its handle": """A=FIND("mug")
B=FIND("laptop")
C=LEFT_OF(A, B)
D=SUBTRACT(C, FIND("handle of the mug"))
RESULT(D)""",
    "all chairs except the one nearest to the window": """CHAIRS=FIND("all chairs")
WINDOW=FIND("window")
RESULT(EXCEPT(CHAIRS, NEAREST(CHAIRS, WINDOW)))""",
    "the two leftmost red cars": """CARS=FIND("all cars")
RESULT(LEFTMOST(SELECT(CARS, "red"), 2))""",
    "the logo on the bag of the woman": """BAG=FIND("the bag of the woman")
PART=CROP(BAG)
RESULT(FIND("logo", image=PART))""",
    "how many birds sit above the roof": """BIRDS=FIND("all birds")
RESULT(COUNT(ABOVE(BIRDS, FIND("roof"))))""",
}


@dataclass(frozen=True)
class WrittenProgram:
    """A program that was written for a question, with all attempts at it; without one, why there is none."""

    program: Program | None
    attempts: tuple[Attempt, ...]

    @property
    def problem(self) -> str:
        """Problem of the last attempt; empty if it can be run."""
        return self.attempts[-1].problem if self.program is None and self.attempts else ""


class ProgramWriter:
    """A language model that writes programs. Several threads may use it at once."""

    def __init__(self, address: str, model: str | None = None, timeout: float = 120.0, retries: int = 3) -> None:
        """`address`: http://HOST:PORT/v1, or MODEL@http://...; it is contacted at once. `model` may name the model."""
        named, url = split_address(address)
        if named and model and named != model:
            raise UserError(f"two models are named for {url}, {named!r} and {model!r}; name one")
        self.server = ChatServer(url, timeout, retries)
        self.name = as_text(self.server.pick_model(model or named)["id"])

    @cached_property
    def system(self) -> str:
        """The prompt that every question gets."""
        return system_prompt()

    def write(self, question: str) -> WrittenProgram:
        """Let the model write a program for a question, and mend it once if it can't be read."""
        if not question.strip():
            raise UserError("the question is empty; say what to look for")
        if len(question) > LONGEST_QUESTION:
            raise UserError(f"the question has {len(question)} characters; at most {LONGEST_QUESTION} are read")
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": question_line(question)}]
        attempts: list[Attempt] = []
        for _ in range(ATTEMPTS):
            source = program_in(self._reply(messages))
            try:
                program = parse_program(source)
            except ProgramError as error:
                attempts.append(Attempt(source, str(error)))
                mend = f"This program can't be read: {error}. Write the whole program anew."
                messages += [{"role": "assistant", "content": source}, {"role": "user", "content": mend}]
            else:
                return WrittenProgram(program, (*attempts, Attempt(source)))
        return WrittenProgram(None, tuple(attempts))

    def write_all(self, questions: Sequence[str]) -> list[WrittenProgram]:
        """Write programs for several questions, in order; some of them at the same time."""
        if len(questions) == 1:
            return [self.write(questions[0])]
        with ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(self.write, questions))

    def _reply(self, messages: list[dict[str, Any]]) -> str:
        body = {"model": self.name, "messages": messages, "temperature": 0.0, "max_tokens": MOST_TOKENS, "seed": 0}
        answer = self.server.call("/chat/completions", body)
        try:
            return as_text(answer["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{self.server.url} gave an answer without choices: {one_line(answer)}") from None


def system_prompt() -> str:
    """Tell a model what programs are: types, operators and examples."""
    kinds = "\n".join(
        f"- {name}: {meaning}" + (f", e.g. {literal}" if literal else "") for name, meaning, literal in types()
    )
    operators = "\n".join(f"- {signature}\n    {help}" for signature, help in table())
    measures = "; ".join(f"{name} ({what})" for name, (what, _) in MEASURES.items())
    examples = "\n\n".join(f"{question_line(question)}\n{program}" for question, program in EXAMPLES.items())
    return f"""You write a short program that finds in a picture what a question asks for. You don't see the picture.
A line is NAME=OPERATOR(argument, ...). The last line is RESULT(...). Arguments are names of earlier lines, IMAGE (the
whole picture), calls of operators, numbers, words in quotes, lists of boxes or points. Each name gets a value once.
There are no loops, no conditions and no other Python. Answer with the program alone.

Types:
{kinds}

Operators:
{operators}

SELECT takes colours ({", ".join(COLOURS)}), places ({", ".join(PLACES)}) and measures: {measures}.
FIND takes a short noun phrase without relations; "all mugs" finds several. Relations and exclusions are operators.

Examples:

{examples}"""


def question_line(question: str) -> str:
    """The line that puts a question; it is quoted, so that its words are no instructions."""
    import json

    return QUESTION + json.dumps(question, ensure_ascii=False)


def program_in(reply: str) -> str:
    """Take the program out of a model's words: what stands in the last fence, or all that is no thinking.

    >>> program_in("<think>hm</think>Here it is:\\n```python\\nRESULT(FIND('mug'))\\n```")
    "RESULT(FIND('mug'))"
    """
    text = reply[: 4 * MOST_CHARACTERS].rpartition("</think>")[2]
    fences = re.findall(r"```[a-z]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return (fences[-1] if fences else text).strip()[: MOST_CHARACTERS + 1]
