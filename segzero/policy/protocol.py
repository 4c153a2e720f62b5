"""The protocol of every policy: fitted images and messages in, text out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from segzero.errors import UserError
from segzero.frames import Frame

MAX_IMAGES = 2  # per request

OnText = Callable[[str], object]


@dataclass(frozen=True)
class Request:
    """An image and a question about it; `extra_images` may show the image once more, marked or enlarged.

    To follow an answer while it is generated, give `on_text`: it is called with the whole text so far, now and then,
    in whatever thread the policy generates. The text may start again from nothing if a batch failed and is repeated.
    """

    image: Image.Image  # as Frame.fit returns it; coordinates are in this image
    messages: list[dict[str, Any]]  # as prompts.render_messages returns them, with a placeholder for each image
    extra_images: tuple[Image.Image, ...] = ()  # fitted as well
    on_text: OnText | None = field(default=None, compare=False, repr=False)
    wants_presence: bool = field(default=False, compare=False)  # the reply should say its `presence`
    seed: int | None = None  # of its own random stream; None: that of its place in the list

    @property
    def images(self) -> list[Image.Image]:
        """Images of the request, in the order of their placeholders."""
        return [self.image, *self.extra_images]


@dataclass(frozen=True)
class Sampling:
    """Parameters of generation. The defaults are greedy.

    A sampled answer depends on the seed and on the request's place in the list: the same request n times gives n
    different answers, and the same call again gives the same ones. A request with a seed of its own is answered alike
    at any place. Each backend has its own random stream.
    """

    temperature: float = 0.0  # 0 is greedy
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature {self.temperature} must be 0 (greedy) or above")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens {self.max_tokens} must be at least 1")

    def seed_for(self, place: int, own: int | None = None) -> int:
        """Seed of the request at that place in the list, or of one with a seed of its `own`."""
        return (self.seed * 1_000_003 + (place if own is None else own)) % 2**31


@dataclass(frozen=True)
class Reply:
    """Text that a policy generated for one request."""

    text: str
    tokens: int  # generated ones, with the end token
    truncated: bool  # max_tokens, or the model's length, was reached before the end token
    presence: float | None = None  # how surely something is there (`presence_of`); None: not asked for, or not known


class Policy(Protocol):
    """A vision-language model that answers requests. Make one with `load_policy`."""

    name: str  # the checkpoint, as it was named
    frame: Frame  # coordinates in which it was trained to answer
    prompt: str  # name in segzero.prompts of the prompt it was trained with
    supports_concurrency: bool  # several threads may call `generate` at once; none waits for another's requests

    def generate(self, requests: list[Request], sampling: Sampling = ...) -> list[Reply]:
        """Answer each request, in order."""
        ...

    def close(self) -> None:
        """Release memory and processes; the policy can't be used afterwards."""
        ...
