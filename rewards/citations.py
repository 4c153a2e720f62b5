"""The term `cites`: a think-chain repeats the boxes that its question refers to, in a dialogue's later rounds.

>>> from rewards import PromptBoxes
>>> boxes = PromptBoxes(referred=frozenset({(84, 168, 504, 672)}))
>>> text = "<think>Left of [84, 168, 504, 672] is a spoon.</think><answer>[]</answer>"
>>> cites(Case.of_objects(text, [], prompt_boxes=boxes))
1.0
>>> cites(Case.of_objects(text.replace("84", "85"), [], prompt_boxes=boxes))
0.0
"""

import re

from rewards.case import Case, Numbers

_NUMBER = r"\s*+(-?[0-9]++(?:\.[0-9]++)?)\s*+"  # possessive: whatever the text, nothing is tried twice
_BOX = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")


def boxes_in(text: str) -> frozenset[Numbers]:
    """Find the boxes in a text: four numbers in brackets, as answers and prompts write them.

    >>> boxes_in("<box>[8, 16, 50, 67]</box> and [1,2,3]")
    frozenset({(8.0, 16.0, 50.0, 67.0)})
    """
    return frozenset(tuple(map(float, numbers)) for numbers in _BOX.findall(text))


def cites(case: Case) -> float:
    """Share of the boxes that the question refers to which the think-chain contains, number for number, 0 to 1.

    Halved if the chain also contains boxes that are neither in the prompt nor in the answer. A question without
    references needs no citation: always 1. Source: RegionReasoner, which requires one box.
    """
    referred = case.prompt_boxes.referred
    if not referred:
        return 1.0
    cited = boxes_in(case.written.think)
    invented = cited - referred - case.prompt_boxes.others - {instance.box for instance in case.written.instances}
    share = len(cited & referred) / len(referred)
    return share / 2 if invented else share
