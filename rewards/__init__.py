"""What a response is worth. No torch here: a reward imports in a third of a second.

>>> truth = [{"bbox_2d": [10, 100, 200, 210], "point_2d": [30, 110]}]
>>> text = '<think>no mug</think><answer>[]</answer>'
>>> score("soft", text, truth).total, score("soft", text, []).total
(3.0, 7.0)
"""

from rewards.case import Case, PromptBoxes, read_case
from rewards.custom import CustomReward, Guard, load_reward
from rewards.presets import NEEDS_MASKS, PRESETS, RANK_NORMALIZED, get_rubric, score
from rewards.ranking import QuantileRanks
from rewards.rubric import Reward, Rubric, Term

__all__ = [
    "NEEDS_MASKS",
    "PRESETS",
    "RANK_NORMALIZED",
    "Case",
    "CustomReward",
    "Guard",
    "PromptBoxes",
    "QuantileRanks",
    "Reward",
    "Rubric",
    "Term",
    "get_rubric",
    "load_reward",
    "read_case",
    "score",
]
