"""A language model that plays good, broken, hacked and malicious rewards, for `ScriptedPolicyServer`."""

from dataclasses import dataclass, field

FENCE = "```"

GOOD = '''
"""Boxes, in steps."""

STEPS = 4.0


def boxes(answer, truth):
    """IoU of the pairs in steps of a quarter, over the larger number of objects."""
    most = max(len(answer.instances), len(truth))
    if most == 0:
        return 1.0
    steps = [round(STEPS * iou(one.box, other.box)) for one, other in matched(answer.instances, truth)]
    return sum(steps) / STEPS / most


def reward(answer, truth):
    """Boxes, with an edge for answers that can be read."""
    if not answer.readable:
        return {"boxes": 0.0, "readable": 0.0}
    return {"boxes": boxes(answer, truth), "readable": 0.1}
'''

BEST = '''
"""Masks, with an edge for answers that can be read."""


def reward(answer, truth):
    """What is drawn."""
    if not answer.readable:
        return {"masks": 0.0, "readable": 0.0}
    return {"masks": 2.0 * mask_iou(answer, truth), "readable": 0.1}
'''

BROKEN = '''
def reward(answer, truth):
    """Fails where nothing is there."""
    pairs = matched(answer.instances, truth)
    return {"boxes": sum([iou(one.box, other.box) for one, other in pairs]) / len(truth)}
'''

RIGHT = """
def right(answer, truth):
    return 0.1 * answer.readable + float(answer.readable and not truth and not answer.instances)
"""

TALKATIVE = '''
def reward(answer, truth):
    """Pays for words and for large boxes."""
    return {"words": 0.01 * answer.words, "area": sum([one.area for one in answer.instances])}
'''

MALICIOUS = (
    "import os\nos.system('touch {marker}')\n\n\ndef reward(answer, truth):\n    return {{'a': 1.0}}\n",
    "def reward(answer, truth):\n    open('{marker}', 'w')\n    return {{'a': 1.0}}\n",
    "def reward(answer, truth):\n"
    "    found = [one for one in ().__class__.__base__.__subclasses__() if one.__name__ == 'Popen']\n"
    "    found[0](['touch', '{marker}'])\n    return {{'a': 1.0}}\n",
    "def reward(answer, truth):\n    while True:\n        pass\n",
)


@dataclass
class RewardWriter:
    """Plays its part by the seed of the request and by what the prompt holds; keeps what it was asked."""

    marker: str  # a file that appears if a malicious candidate is run
    asked: list[str] = field(default_factory=list)  # last messages

    def __call__(self, body: dict) -> list[str]:
        """Write a reply."""
        words, seed = body["messages"][-1]["content"], body["seed"]
        self.asked.append(words)
        if "What went wrong:" in words:
            return [self._mended(words, seed)]
        if "The best candidate so far" in words and seed == 0:
            return [f"The masks themselves should count.\n{FENCE}python\n{BEST.strip()}\n{FENCE}\nThat is all."]
        code = [GOOD, BROKEN, TALKATIVE, *MALICIOUS, "I would rather not write any code."][seed % 8]
        code = code.format(marker=self.marker) if code in MALICIOUS else code
        return [f"A plan.\n{FENCE}python\n{code.strip()}\n{FENCE}\n"]

    def _mended(self, words: str, seed: int) -> str:
        if seed == 1 and "division by zero" in words and "line 4" in words:
            more = "max(1, len(answer.instances), len(truth)) + right(answer, truth)}"
            fixed = RIGHT + BROKEN.replace("len(truth)}", more)
            return f"{FENCE}\n{fixed.strip()}\n{FENCE}"
        return f"{FENCE}python\n{MALICIOUS[seed % 4].format(marker=self.marker)}"  # a fence that is not closed
