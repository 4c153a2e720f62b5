"""Stages that make prompts about accepted regions: proposals, verdicts, negatives."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from segzero.data.engine.pictures import lit
from segzero.data.engine.records import REJECT, AcceptedRegion, ConceptPrompt, JudgedPrompt, Verdict
from segzero.data.engine.regions import ImageWork, vote
from segzero.data.engine.settings import CONCEPTS, STRATEGIES
from segzero.data.engine.vlm import Malformed, ShownPicture, clean, field_of
from segzero.data.readers.fields import question
from segzero.errors import UserError
from segzero.masks import Mask, decode

MOST_WORDS, MOST_LETTERS = 10, 120  # of a prompt, in ConverSeg's rules
NAME_LETTERS = 40


def propose_prompts(
    work: ImageWork, concept: str, regions: Sequence[AcceptedRegion], overlay: ShownPicture
) -> list[ConceptPrompt]:
    """Ask for prompts of one family, which mean some of the regions and nothing else in the picture."""
    most = work.settings.prompts
    text = (
        f"The second picture is the first one with {len(regions)} numbered regions:\n{_listed(regions)}\n"
        f"Write up to {most} requests that a person could make to somebody who sees the first picture without the "
        f"numbers. Each is about {CONCEPTS[concept]}.\n"
        f"Rules: at most {MOST_WORDS} words, beginning with a verb, such as 'segment' or 'find'; no region numbers. "
        "List the numbers of the regions that a reader could consider (candidates) and of those that the request means "
        "(satisfying): some of the candidates, never all, or none if nothing fits. Most important: nothing in the "
        "picture may fit the request that is not in a region listed as satisfying.\n"
        'Answer {"prompts": [{"prompt": "<request>", "candidates": [1, 2], "satisfying": [2], '
        '"sub_concept": "<one or two words>"}, ...]}.'
    )

    def read(answer: Any) -> list[ConceptPrompt]:
        return [_read_prompt(item, i, concept, len(regions)) for i, item in enumerate(_items(answer)[:most])]

    prompts: list[ConceptPrompt] = work.ask("prompts", text, work.own, overlay, read=read)
    return _without_repetitions(prompts)


def _items(answer: Any) -> list[Any]:
    """The prompts of an answer, which may be the bare list."""
    items: list[Any] = answer if isinstance(answer, list) else field_of(answer, "prompts", list)
    return items


def _read_prompt(item: Any, index: int, concept: str, count: int) -> ConceptPrompt:
    """A prompt with numbers from 0; one that breaks a rule gets a problem, and is not verified."""
    if not isinstance(item, dict):
        raise Malformed("a prompt is not an object")
    candidates, satisfying = (_numbers(item, name) for name in ("candidates", "satisfying"))
    written = field_of(item, "prompt", str)
    text, problem = clean(written, MOST_LETTERS), text_problem(written)
    if not problem and any(not 1 <= number <= count for number in candidates + satisfying):
        problem = "it means a region that is not there"
    if not problem and not set(satisfying) < set(candidates):
        problem = "it does not mean some of its candidates, and not all"
    kind = item.get("sub_concept")
    inside = [tuple(number - 1 for number in some if 1 <= number <= count) for some in (candidates, satisfying)]
    kind = clean(kind, NAME_LETTERS) if isinstance(kind, str) else ""
    return ConceptPrompt(index, concept, text, inside[0], inside[1], kind, problem=problem)


def text_problem(written: str) -> str:
    """The problem with the words of a prompt; empty if there is none."""
    text = clean(written, MOST_LETTERS + 1)
    if len(text.split()) > MOST_WORDS or len(text) > MOST_LETTERS:
        return f"it has more than {MOST_WORDS} words or {MOST_LETTERS} letters"
    try:
        question(text)
    except UserError as error:
        return str(error)
    return ""


def _numbers(item: dict[str, Any], name: str) -> list[int]:
    """A field of a prompt that is a list of whole numbers."""
    values = field_of(item, name, list)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise Malformed(f"{name} are not numbers")
    return sorted(set(values))


def _without_repetitions(prompts: list[ConceptPrompt]) -> list[ConceptPrompt]:
    """The prompts but those whose words came before."""
    seen: dict[str, ConceptPrompt] = {}
    for prompt in prompts:
        seen.setdefault(prompt.prompt.lower().rstrip(".!? "), prompt)
    return list(seen.values())


def judge_prompts(
    work: ImageWork, prompts: Sequence[ConceptPrompt], regions: Sequence[AcceptedRegion]
) -> list[JudgedPrompt]:
    """Have each prompt verified on a picture in which the regions that it means are lit."""
    judged = []
    for prompt in prompts:
        if prompt.problem:
            judged.append(JudgedPrompt(prompt, Verdict(REJECT, prompt.problem, 0, 0)))
            continue
        mask = meant(prompt, regions, work.image.size)
        if mask.any():
            shows = "The second picture is the first one, darkened everywhere but in the regions that are the answer."
        else:
            shows = "The answer is that nothing in the picture fits, so the second picture is dark everywhere."
        text = (
            f"{shows}\nThe request: {json.dumps(prompt.prompt)}\n"
            "Is the answer right: does everything that is lit fit the request, and nothing else in the picture?\n"
            'Answer {"accept": true or false, "reason": "<short>"}.'
        )
        judged.append(JudgedPrompt(prompt, vote(work, "verify prompt", text, lit(work.image, mask))))
    return judged


def meant(prompt: ConceptPrompt, regions: Sequence[AcceptedRegion], size: tuple[int, int]) -> Mask:
    """Union [H, W] of the regions that a prompt means, in an image of (width, height)."""
    mask = np.zeros(size[::-1], bool)
    for one in regions:
        if one.index in prompt.satisfying:
            mask |= decode(one.rle, size)
    return mask


def propose_negatives(work: ImageWork, regions: Sequence[AcceptedRegion], overlay: ShownPicture) -> list[ConceptPrompt]:
    """Ask for prompts that nothing in the image fits, near to what is there."""
    most = work.settings.negatives
    ways = "\n".join(f"- {json.dumps(name)}: {what}" for name, what in STRATEGIES.items())
    families = "\n".join(f"- {json.dumps(name)}: {CONCEPTS[name]}" for name in work.settings.concepts)
    text = (
        f"The second picture is the first one with {len(regions)} numbered regions:\n{_listed(regions)}\n"
        f"Write up to {most} requests that nothing in the first picture fits, though they sound as if something did.\n"
        f"Use both ways:\n{ways}\nand different families:\n{families}\n"
        f"Rules: at most {MOST_WORDS} words, beginning with a verb; no region numbers.\n"
        'Answer {"prompts": [{"prompt": "<request>", "strategy": "<way>", "concept_family": "<family>"}, ...]}.'
    )

    def read(answer: Any) -> list[ConceptPrompt]:
        return [_read_negative(item, i, work) for i, item in enumerate(_items(answer)[:most])]

    prompts: list[ConceptPrompt] = work.ask("negatives", text, work.own, overlay, read=read)
    return _without_repetitions(prompts)


def _read_negative(item: Any, index: int, work: ImageWork) -> ConceptPrompt:
    written = field_of(item, "prompt", str)
    strategy, family = (field_of(item, name, str).strip().lower() for name in ("strategy", "concept_family"))
    if strategy not in STRATEGIES or family not in work.settings.concepts:
        raise Malformed("an unknown strategy or family")
    text, problem = clean(written, MOST_LETTERS), text_problem(written)
    return ConceptPrompt(index, family, text, (), (), strategy=strategy, problem=problem)


def _listed(regions: Sequence[AcceptedRegion]) -> str:
    """The regions' numbers and labels, a line each; labels are quoted, as they are the model's earlier words."""
    return "\n".join(f"{one.index + 1}: {json.dumps(one.label)}" for one in regions)
