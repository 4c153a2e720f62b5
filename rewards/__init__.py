"""Rewards: scores of a policy's responses. Imports in a third of a second, as nothing here needs torch.

>>> truth = [{"bbox_2d": [10, 100, 200, 210], "point_2d": [30, 110]}]
>>> text = '<think>no mug</think><answer>[]</answer>'
>>> score("soft", text, truth).total, score("soft", text, []).total
(3.0, 7.0)
"""

from rewards.case import Case, PromptBoxes, read_case
from rewards.custom import CustomReward, Guard, load_reward
from rewards.overlong import Overlong
from rewards.presets import PRESETS, find_reward, get_rubric, score
from rewards.ranking import QuantileRanks
from rewards.rubric import Reward, Rubric, Term
from rewards.search.reward import CandidateReward

__all__ = [
    "PRESETS",
    "CandidateReward",
    "Case",
    "CustomReward",
    "Guard",
    "Overlong",
    "PromptBoxes",
    "QuantileRanks",
    "Reward",
    "Rubric",
    "Term",
    "find_reward",
    "get_rubric",
    "load_reward",
    "read_case",
    "score",
]
