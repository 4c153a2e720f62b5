"""Whether a think-chain cites the boxes that its question refers to, in a dialogue's later rounds.

>>> from rewards import PromptBoxes, read_case
>>> prompt_boxes = PromptBoxes(referred=frozenset({(84, 168, 504, 672)}))
>>> text = "<think>Left of [84, 168, 504, 672] is a spoon.</think><answer>[]</answer>"
>>> cites(read_case(text, [], prompt_boxes=prompt_boxes)), cites(read_case(text.replace("84", "85"), [], prompt_boxes=prompt_boxes))
(1.0, 0.0)
"""

import re

from rewards.case import Case, Numbers

_NUMBER = r"\s*+(-?[0-9]++(?:\.[0-9]++)?)\s*+"  # possessive: whatever the text, nothing is tried twice
_BOX = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")


def boxes_in(text: str) -> frozenset[Numbers]:
    """All that is written as four numbers in brackets, as answers and prompts write boxes.

    >>> boxes_in("<box>[8, 16, 50, 67]</box> and [1,2,3]")
    frozenset({(8.0, 16.0, 50.0, 67.0)})
    """
    return frozenset(tuple(map(float, numbers)) for numbers in _BOX.findall(text))


def cites(case: Case) -> float:
    """The share of the boxes that the question refers to which the think-chain holds, number for number, 0 to 1.

    Halved when it also holds boxes that are neither told by the prompt nor the answer's own. A question that refers
    to nothing has nothing to cite: always 1. Source: RegionReasoner, which asks for one box.
    """
    referred = case.prompt_boxes.referred
    if not referred:
        return 1.0
    cited = boxes_in(case.written.think)
    invented = cited - referred - case.prompt_boxes.others - {instance.box for instance in case.written.instances}
    share = len(cited & referred) / len(referred)
    return share / 2 if invented else share
