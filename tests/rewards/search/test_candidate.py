"""The language of candidates: what is taken, what is refused, and in which line."""

import random
import re

import pytest

from rewards.search import language
from rewards.search.candidate import CandidateRefused, parse_candidate, read_candidate
from segzero.errors import UserError

WHOLE = '''"""Points and masks."""

REACH: float = 30.0
WORST = -1


def near(pixels: float, reach: float = 10.0) -> float:
    """Closeness of two points."""
    share = math.exp(-pixels / reach)
    return share


def reward(answer, truth) -> dict[str, float]:
    """Everything that the language has."""
    terms = {"points": 0.0, "masks": 0.0, "words": 0.0}
    if not answer.readable or answer.error is not None:
        return {"points": WORST}
    found = []
    for place, (one, other) in enumerate(matched(answer.instances, truth)):
        if place >= 100 or not one.points:
            continue
        found.append(near(distance(one.points[0], other.points[0]), reach=REACH))
        terms["points"] += max(found, default=0.0)
    terms["masks"] = mean(pair_mask_iou(i, o) for i, o in matched(answer.instances, truth)) ** 0.5
    words = [word for word in answer.think.lower().split() if len(word) % 2 == 0]
    share: float = len(set(words)) / max(1, len(words))
    share *= 2.0
    terms["words"] = share if share < 2.0 else -share
    counts = {word: words.count(word) for word in sorted(words, reverse=True)[:3]}
    for name, value in counts.items():
        if name.startswith("a") and value > 1:
            break
    else:
        pass
    low, high = 0, math.inf
    return {"all": clip(sum(terms.values()), low, high) if any(found) else 0.0, "box": float(2 in {1, 2})}
'''


def test_a_whole_candidate():
    candidate = parse_candidate(WHOLE)
    assert candidate.constants == {"REACH": 30.0, "WORST": -1}
    assert candidate.functions == ("near", "reward") and candidate.needs_masks
    assert candidate.summary == "Points and masks."
    assert candidate.digest == parse_candidate(WHOLE).digest != parse_candidate(WHOLE + "\n").digest


def test_the_example_of_the_description_is_a_candidate():
    candidate = parse_candidate(language.EXAMPLE)
    assert not candidate.needs_masks and language.EXAMPLE in language.describe()


def inside(*lines: str) -> str:
    return "\n".join(["def reward(answer, truth):", *(f"    {line}" for line in lines), "    return {'a': 1.0}"])


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "line 1: no function reward(answer, truth)"),
        ("def reward(response): return {}", "line 1: it must be reward(answer, truth)"),
        ("def reward(answer, truth=3): return {}", "line 1: it must be reward(answer, truth)"),
        ("X = 1\nX = 2\n" + inside(), "line 2: 'X' is defined twice"),
        ("X = [1]\n" + inside(), "line 1: at the top of the module a name is given to a number"),
        ("print(1)\n" + inside(), "line 1: at the top of the module only named numbers and functions"),
        ("import math\n" + inside(), "line 1: no import; math and the helpers are there without one"),
        ("max = 3\n" + inside(), "line 1: 'max' is a helper; choose another name"),
        (inside("iou = 3"), "line 2: 'iou' is a helper; choose another name"),
        (inside("x = np.mean([1])"), "line 2: there is no 'np' here; use math, mean, clip and the builtins"),
        (inside("x = sqrt(2)"), "line 2: 'sqrt' cannot be called here; write math.sqrt"),
        (inside("x = math.factorial(9)"), "line 2: no math.factorial; there are atan"),
        (inside("x = later(2)") + "\ndef later(x): return x", "line 2: 'later' cannot be called here"),
        (inside("x = reward(answer, truth)"), "line 2: 'reward' cannot be called here: no recursion"),
        (inside("x = reward"), "line 2: 'reward' can only be called by its name"),
        (inside("x = sorted(truth, key=len)"), "line 2: no argument 'key' here"),
        (inside("x = 3", "while x: pass"), "line 3: no while; use for"),
        (inside("x = f'{answer}'"), "line 2: no f-string"),
        (inside("answer.think = ''"), "line 2: only names, and places of named lists and dicts"),
        (inside("x = answer.secret"), "line 2: no field 'secret'; there are readable"),
        (inside("x = answer.think.format(1)"), "line 2: no method 'format'; there are append"),
        (inside("x = 2e9"), "line 2: a number beyond 1e+09"),
        (inside(f"x = '{'a' * 300}'"), "line 2: a text of 300 characters; at most 200"),
        (inside("x = (" * 45 + ")" * 45), "line 2: more than 40 brackets inside each other"),
        (inside("x = " + "-" * 2000 + "1"), "line 2: too deeply nested"),
        (inside(*["x = [1, 2, 3, 4, 5, 6, 7, 8, 9]"] * 400), "too large a module"),
        (inside("# " + "a" * 17000), "line 1: a source of 17,0"),
        (inside("x = (1"), "line 2: no Python: '(' was never closed"),
        (inside("x = [1]", "x[0] *= 3"), "line 3: write it as an assignment"),
        (inside("x = 1", "break"), "line 3: no Python: 'break' outside loop"),
        ("def reward(answer, truth: open('x')): return {}", "line 1: a type must be made of bool"),
    ],
)
def test_a_refusal_says_line_and_problem(source, problem):
    with pytest.raises(CandidateRefused) as refused:
        parse_candidate(source)
    assert str(refused.value).startswith(problem) or problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file(tmp_path):
    file = tmp_path / "reward.py"
    with pytest.raises(UserError, match=r"no reward could be read from .*reward\.py: No such file"):
        read_candidate(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        read_candidate(file)
    file.write_text("import os")
    with pytest.raises(CandidateRefused, match=r"reward\.py, line 1: no import"):
        read_candidate(file)
    file.write_text(WHOLE)
    assert read_candidate(file) == parse_candidate(WHOLE)


def test_mutations_of_a_candidate_are_read_or_refused():
    """Pieces left out, doubled, exchanged or replaced by odd ones."""
    draw = random.Random(17)
    pieces = re.findall(r"\w+|\s+|.", WHOLE)
    odd = [
        "__class__",
        "(",
        ")",
        "[",
        "lambda:",
        ":=",
        "**",
        "\x00",
        "\ud800",
        "é",
        "\n",
        "    ",
        "yield",
        "*",
        "1e999",
    ]
    whole = refused = 0
    for _ in range(1500):
        mutant = list(pieces)
        for _ in range(draw.randint(1, 3)):
            place, other = draw.randrange(len(mutant)), draw.randrange(len(mutant))
            mutant[place] = draw.choice(["", mutant[place] * 2, mutant[other], draw.choice(odd)])
        try:
            candidate = parse_candidate("".join(mutant))
            whole += 1
            assert candidate.summary.isprintable()
        except CandidateRefused as error:
            refused += 1
            assert "\n" not in str(error)
    assert whole > 100 and refused > 500
