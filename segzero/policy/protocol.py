"""What every policy offers: fitted images and messages in, text out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from segzero.errors import UserError
from segzero.frames import Frame

MAX_IMAGES = 2  # of one request


@dataclass(frozen=True)
class Request:
    """One image and what is asked about it; `more` images may show it once more, marked or enlarged.

    Who wants to see the answer while it is written gives `on_text`, which is told all of its text so far, now and then,
    in whatever thread the policy writes. It may begin anew, where a batch was given up and tried again.
    """

    image: Image.Image  # as Frame.fit returns it; coordinates are this one's
    messages: list[dict]  # as prompts.render_messages returns them, with a placeholder for each image
    more: tuple[Image.Image, ...] = ()  # fitted as well
    on_text: Callable[[str], object] | None = field(default=None, compare=False, repr=False)

    @property
    def images(self) -> list[Image.Image]:
        """All of them, in the order of their placeholders."""
        return [self.image, *self.more]


@dataclass(frozen=True)
class Sampling:
    """How to write an answer. The defaults are greedy.

    A drawn answer depends on the seed and on the request's place in the list: the same request n times gives n
    different answers, and the same call again gives the same ones. Each backend draws from its own stream.
    """

    temperature: float = 0.0  # 0 is greedy
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature {self.temperature} must be 0 (greedy) or above")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens {self.max_tokens} must be at least 1")

    def seed_for(self, place: int) -> int:
        """The seed of the request at that place in the list."""
        return (self.seed * 1_000_003 + place) % 2**31


@dataclass(frozen=True)
class Reply:
    """What the policy wrote."""

    text: str
    tokens: int  # generated ones, the end token too
    truncated: bool  # max_tokens, or the model's length, came before the end token


class Policy(Protocol):
    """Who answers. Make one with `load_policy`."""

    name: str  # the checkpoint, as it was named
    frame: Frame  # in which coordinates it was taught to write
    prompt: str  # the name in segzero.prompts it was taught to read
    supports_concurrency: (
        bool  # several threads may ask at once: requests then join those under way, and wait for none of them
    )

    def generate(self, requests: list[Request], sampling: Sampling = ...) -> list[Reply]:
        """One reply for each request, in order."""
        ...

    def close(self) -> None:
        """Give back memory and processes; the policy can't be used afterwards."""
        ...
