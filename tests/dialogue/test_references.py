"""Words that refer to earlier rounds, and words that only look like it."""

import pytest

from segzero.dialogue.references import MAX_REFERENCES, LostReference, Reference, read_question, references_in
from segzero.errors import UserError

CUP, SPOON, PLATE = (10, 20, 60, 70), (5, 5, 15, 25), (40, 40, 90, 75)


@pytest.fixture
def registry(make_registry):
    """Round 1 found instances 1 and 2, round 2 nothing, round 3 instances 3 and 4."""
    return make_registry([CUP, SPOON], [], [PLATE, CUP])


def told(question: str, registry, about: int | None = None) -> tuple[str, list[list[int]]]:
    """The question with a star for each reference, and the instances that each means."""
    parts = read_question(question, registry, about)
    words = "".join("*" if isinstance(part, Reference) else part for part in parts)
    return words, [[region.id for region in reference.regions] for reference in references_in(parts)]


@pytest.mark.parametrize(
    ("question", "words", "meant"),
    [
        ("what is left of [REF:1]", "what is left of *", [[1, 2]]),
        ("[REF:3] the handle", "* the handle", [[3, 4]]),
        ("[ref: 1]", "*", [[1, 2]]),
        ("between [REF:1] and [REF:3]?", "between * and *?", [[1, 2], [3, 4]]),
        ("what touches [REF:2]", "what touches *", [[]]),
        ("the shadow of instance 3", "the shadow of *", [[3]]),
        ("what lies between Instances 1, 2 and 4?", "what lies between *?", [[1, 2, 4]]),
        ("instance 1 or instance 4", "* or *", [[1], [4]]),
        ("the hand that holds it", "the hand that holds *", [[3, 4]]),
        ("what is behind them?", "what is behind *?", [[3, 4]]),
        ("the person with it", "the person with *", [[3, 4]]),
        ("what is on that one", "what is on *", [[3, 4]]),
        ("the lid of the first one", "the lid of *", [[3]]),
        ("what touches the last one and [REF:1]", "what touches * and *", [[4], [1, 2]]),
        ("its handle", "* handle", [[3, 4]]),
        ("What are their lids?", "What are * lids?", [[3, 4]]),
        ("the largest shape", "the largest shape", []),
        ("the cup with a spoon in it", "the cup with a spoon in it", []),
        ("the dog that wags its tail", "the dog that wags its tail", []),
        ("for instance 2 cups", "for instance 2 cups", []),
        ("the first one from the left", "the first one from the left", []),
        ("the white item", "the white item", []),
        ("it's what a cook needs", "it's what a cook needs", []),
    ],
)
def test_what_words_mean(registry, question, words, meant):
    assert told(question, registry) == (words, meant)


def test_in_a_first_round_a_pronoun_is_a_word(make_registry):
    assert told("the thing to sit on, or the first one beside it", make_registry())[1] == []


def test_a_round_can_be_chosen_for_it(registry):
    assert told("what is behind it", registry, about=1) == ("what is behind *", [[1, 2]])
    assert told("the handle", registry, about=1) == ("* the handle", [[1, 2]])
    assert told("left of [REF:3]", registry, about=1) == ("left of *", [[3, 4]])


def test_an_empty_reference_is_not_an_absent_one(registry):
    [reference] = references_in(read_question("what holds [REF:2]", registry))
    assert reference.empty and reference.rounds == (2,)
    assert not references_in(read_question("what holds it", registry))[0].empty


@pytest.mark.parametrize(
    ("question", "problem", "lost"),
    [
        ("what holds [REF:9]", "there is no round 9; this dialogue has rounds 1 to 4", True),
        ("what holds [REF:0]", "there is no round 0", True),
        ("what holds [REF:]", r"written \[REF:k\]", False),
        ("what holds [REF:one]", r"written \[REF:k\]", False),
        ("what holds instance 7", "there is no instance 7; this dialogue has instances 1 to 4", True),
        ("what holds [REF:4]", "means round 4, whose answer could not be read", True),
        ("what holds it", "'it' means round 4, whose answer could not be read", True),
        ("[REF:1]" * (MAX_REFERENCES + 1), "9 references; ask with at most 8", False),
        ("a" * 10_001, "10001 characters", False),
        ("  ?", "question is empty", False),
        ("the mug \ud800", "lone surrogate", False),
    ],
)
def test_what_cannot_be_referred_to_is_one_line(make_registry, question, problem, lost):
    unread = make_registry([CUP, SPOON], [], [PLATE, CUP], None)
    with pytest.raises(UserError, match=problem) as caught:
        read_question(question, unread)
    assert "\n" not in str(caught.value) and isinstance(caught.value, LostReference) == lost


def test_an_ordinal_beyond_what_was_found_is_refused(registry):
    with pytest.raises(LostReference, match="'the third one': round 3 found 2"):
        read_question("the third one", registry)


def test_a_first_round_has_nothing_to_refer_to(make_registry):
    with pytest.raises(LostReference, match="there is no round 1; this dialogue has no rounds yet"):
        read_question("left of [REF:1]", make_registry())
