"""Dialogues of several rounds about one image, whose regions are numbered, referred to, corrected and undone.

>>> dialogue = Dialogue("desk.jpg", SegZeroPipeline.from_pretrained())             # doctest: +SKIP
>>> dialogue.ask("the mug left of the laptop").instances                           # doctest: +SKIP
>>> dialogue.ask("what is printed on [REF:1]")                                     # doctest: +SKIP
>>> dialogue.registry.regions[0].box                                               # doctest: +SKIP
(412.0, 220.0, 508.0, 341.0)
"""

from segzero.dialogue.dialogue import Dialogue
from segzero.dialogue.registry import Region, Registry, Round

__all__ = ["Dialogue", "Region", "Registry", "Round"]
