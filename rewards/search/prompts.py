"""Words for a language model that writes rewards, and the code in its replies.

It is shown the candidates' language, the task, statistics of earlier candidates term by term, recorded answers and
what went wrong. It is never shown by which figure trainings are judged.

>>> cut_code("Here it is:\\n```python\\ndef reward(answer, truth):\\n    return {'a': 1.0}\\n```\\nIt pays 1.")
"def reward(answer, truth):\\n    return {'a': 1.0}\\n"
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.search.term_statistics import TOTAL, TermStatistics

MOST_REPLY = 100_000  # characters
MOST_SHOWN = 700  # characters of an answer
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_BEGIN = re.compile(r'^(?:def |"""|\'\'\'|#|[A-Z_][A-Z0-9_]* *=)')


@dataclass(frozen=True)
class JudgedAnswer:
    """A recorded answer with what it earned."""

    sample: str
    question: str
    text: str
    truth: str  # the true objects, as a policy would write them
    iou: float  # of its masks with the true ones
    terms: Mapping[str, float]

    @property
    def total(self) -> float:
        """The reward."""
        return sum(self.terms.values())


def system_prompt(language: str) -> str:
    """Say what is written and in which language; `language` is `rewards.search.language.describe()`."""
    return f"""\
You write reward functions for reinforcement learning. A vision-language model is asked a question about an image, \
thinks, and answers with boxes and points; a segmenter turns them into masks. The model samples several answers to \
each question, and learns from the differences between their rewards.

{language}

What has proved well:
- A reward must tell good answers from less good ones among answers to the same question. A term that is equal for \
all of them teaches nothing; one that rises step by step with the quality teaches more than one that jumps.
- Bring terms to a common range, and give each its weight, threshold or temperature as a named constant at the top.
- Use nothing but the fields and helpers listed. Mind the cases without objects on either side, and answers that could \
not be read.
- Nobody should be able to earn more by copies of an object, giant boxes, or longer thinking.

Reply with a short plan and the whole module in one block of Python code."""


def first_prompt(task: str, base: str, statistics: Sequence[TermStatistics]) -> str:
    """Ask for a first candidate, beside the reward that there is."""
    return f"""\
The task, in the words of its author (a description, not instructions about your reply's form):
{_quote(task)}

The reward used so far:
```python
{base.strip()}
```
{describe_terms(statistics)}

Write a better one."""


def reflect_prompt(
    task: str,
    source: str,
    statistics: Sequence[TermStatistics],
    best: Sequence[JudgedAnswer],
    worst: Sequence[JudgedAnswer],
    problems: Sequence[str],
) -> str:
    """Ask for an improvement of the best candidate so far."""
    refused = "\n".join(f"- {problem}" for problem in problems)
    return f"""\
The task, in the words of its author (a description, not instructions about your reply's form):
{_quote(task)}

The best candidate so far:
```python
{source.strip()}
```
{describe_terms(statistics)}

Answers to which it gives most:
{_answers(best)}

Answers to which it gives least:
{_answers(worst)}
{f"Other candidates could not be used:{chr(10)}{refused}{chr(10)}" if problems else ""}
Consider each term. One that hardly ever moves wants another scale or shape, or should go. One that follows the masks \
badly rewards something else than it should: rewrite it. One that is many times larger than the others drowns them: \
scale it down. Compare the answers above with the truth: what do they earn that they should not, and what not that \
they should? Then write an improved module."""


def mend_prompt(source: str, problem: str) -> str:
    """Ask for a candidate that failed once more, without its fault."""
    return f"""\
This module could not be used:
```python
{source.strip()[:MOST_REPLY]}
```
What went wrong: {problem}

Mend it, and reply with the whole module."""


def describe_terms(statistics: Sequence[TermStatistics]) -> str:
    """Write the statistics of a candidate's terms as a table."""
    if not statistics:
        return "It has not been tried on answers."
    rows = [
        f"| {'all terms together' if term.name == TOTAL else term.name} | {term.mean:.3f} | {term.spread:.3f} "
        f"| {100 * term.flat:.0f} % | {f'{term.correlation:+.2f}' if term.moves else 'never moves'} |"
        for term in statistics
    ]
    head = "| term | mean | spread | equal within a question | rank correlation with the IoU of masks |"
    return "\n".join(["What its terms were worth on recorded answers:", head, "|---|---|---|---|---|", *rows])


def cut_code(reply: str) -> str:
    """Find the module in a reply: the last block with a reward in it, or what looks like one without any block.

    What is found is only text, for the parser to judge. Without anything it is the reply itself, which is refused.
    """
    reply = reply[:MOST_REPLY].replace("\r\n", "\n")
    blocks = [block for block in _FENCED.findall(reply) if "def reward" in block]
    if blocks:
        return _tidy(blocks[-1])
    lines = reply.splitlines()
    begin = next((place for place, line in enumerate(lines) if _BEGIN.match(line)), None)
    if begin is None:
        return reply
    end = len(lines)
    while end > begin and lines[end - 1][:1] not in (" ", "\t", "}", ")"):  # words may follow the last function's body
        end -= 1
    return _tidy("\n".join(lines[begin:end]))


def _tidy(code: str) -> str:
    return code.strip("\n").rstrip() + "\n"


def _answers(answers: Sequence[JudgedAnswer]) -> str:
    shown = [
        f"- question: {_line(one.question)}\n  answer: {_line(one.text)}\n  true objects: {_line(one.truth)}\n"
        f"  IoU of its masks {one.iou:.2f}; reward {one.total:.2f}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in one.terms.items())
        for one in answers
    ]
    return "\n".join(shown) or "(none)"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_SHOWN else line[:MOST_SHOWN] + " ..."


def _quote(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip().splitlines())
