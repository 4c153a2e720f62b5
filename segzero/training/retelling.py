"""Retelling: the policy's think-chain is asked as a question of its own, without the one that it was written for.

A think-chain that names its object leads to it again. DR2Seg rewards that (`rewards.object_terms.self_contained`).

>>> retelling_prompt("the red ring, left of the square").question
'the red ring, left of the square'
>>> retelling_prompt("  ") is None
True
"""

from segzero.dialogue.prompting import PolicyPrompt
from segzero.errors import UserError
from segzero.prompts import normalise


def retelling_prompt(thought: str) -> PolicyPrompt | None:
    """Ask for what the think-chain describes; None if it is empty or can't be asked."""
    try:
        return PolicyPrompt(normalise(thought))
    except UserError:
        return None
