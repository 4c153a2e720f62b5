"""What a server offers beside one policy, one segmenter and its routes.

>>> Extras(flags=Path("flags")).examples is None
True
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segzero.policy import Policy
from segzero.segmenter import Segmenter
from segzero.serving.examples import Example

Fetch = Callable[[str, int], bytes]  # address, most bytes


@dataclass(frozen=True)
class Extras:
    """All of it may be left out."""

    policies: tuple[Policy, ...] = ()  # beside the pipeline's own, which is the default
    segmenters: tuple[Segmenter, ...] = ()
    examples: tuple[Example, ...] | None = None  # None: synthetic scenes
    flags: Path | None = None  # the folder where answers that people flag are kept
    fetch: Fetch | None = None  # how images that are named by their address are fetched; None: not at all
    page: bool = True  # the web page at /ui
