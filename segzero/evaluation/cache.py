"""Answers and masks kept by content: asked again with the same model, prompt and image, nothing is computed twice.

>>> cache = Cache(Path("~/.cache/segzero/evaluation").expanduser())                             # doctest: +SKIP
>>> pipeline = SegZeroPipeline(                                                                # doctest: +SKIP
...     RememberedPolicy(policy, cache, {"sha256": "5f2c..."}), RememberedSegmenter(segmenter, cache, {...})
... )

Both are what they wrap, to whoever calls them. A file of the cache that can't be read is made anew.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero.errors import UserError
from segzero.images import pixels_key
from segzero.io import write_atomically
from segzero.masks import decode, encode
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.segmenter import Embeddings, MaskPrediction, MaskPrompt, Segmenter

Identity = Mapping[str, Any]  # what tells a model from any other: JSON


@dataclass(frozen=True)
class Cache:
    """A folder of small JSON files; several processes may share it."""

    folder: Path

    def get(self, place: str) -> Any:
        """What was put there, or None."""
        try:
            return json.loads((self.folder / place).read_bytes())
        except (OSError, ValueError, RecursionError):  # absent, or not whole
            return None

    def put(self, place: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        write_atomically(self.folder / place, json.dumps(value).encode())

    def has(self, place: str) -> bool:
        """True when something was put there, or below it."""
        return (self.folder / place).exists()


def key_of(*parts: Any) -> str:
    """A name for the content of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class DiskCachedPolicy:
    """Asks the policy only what it has not been asked before, as long as it answers greedily: a draw is not kept."""

    supports_concurrency = False

    def __init__(self, policy: Policy, cache: Cache, identity: Identity) -> None:
        self.policy, self.cache, self.identity = policy, cache, dict(identity)
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt
        self.asked = self.remembered = 0

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """One reply for each request, in order."""
        if sampling.temperature > 0:
            return self.policy.generate(requests, sampling)
        places = [self._place(request, sampling) for request in requests]
        replies = [_reply(self.cache.get(place)) for place in places]
        new = [number for number, reply in enumerate(replies) if reply is None]
        if new:
            for number, reply in zip(new, self.policy.generate([requests[n] for n in new], sampling), strict=True):
                self.cache.put(places[number], asdict(reply))
                replies[number] = reply
        self.asked += len(new)
        self.remembered += len(requests) - len(new)
        return [reply for reply in replies if reply is not None]

    def close(self) -> None:
        """Close the policy."""
        self.policy.close()

    def _place(self, request: Request, sampling: Sampling) -> str:
        key = key_of(self.identity, request.messages, *map(pixels_key, request.images), asdict(sampling))
        return f"answers/{key[:2]}/{key}.json"


def _reply(value: Any) -> Reply | None:
    try:
        return Reply(str(value["text"]), int(value["tokens"]), bool(value["truncated"]))
    except (TypeError, KeyError, ValueError):
        return None


@dataclass(frozen=True, eq=False)
class _Images(Embeddings):
    """Images to draw on. Those that were never drawn on are encoded already, the others once a mask is wanted."""

    places: tuple[str, ...] = ()  # where the cache has each image's masks
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)  # by place; an image asked twice is one
    early: tuple[str, ...] = ()  # the places of what `encoded` holds
    encoded: Embeddings | None = None


class DiskCachedSegmenter:
    """Draws only what it has not drawn before. A new image is encoded at once, while the policy writes."""

    def __init__(self, segmenter: Segmenter, cache: Cache, identity: Identity) -> None:
        self.segmenter, self.cache, self.identity = segmenter, cache, dict(identity)
        self.name = segmenter.name
        self.drawn = self.remembered = 0

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode the images of which no mask is known, once each."""
        keys = [key_of(self.identity, pixels_key(image)) for image in images]
        places = tuple(f"masks/{key[:2]}/{key}" for key in keys)
        pictures = dict(zip(places, images, strict=True))
        new = tuple(place for place in pictures if not self.cache.has(place))
        encoded = self.segmenter.embed([pictures[place] for place in new]) if new else None
        return _Images((), tuple(image.size for image in images), places, pictures, new, encoded)

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Draw each prompt in each image, on what `embed` of this object returned."""
        assert isinstance(embeddings, _Images) and not all_masks
        files = [
            [f"{place}/{_key(prompt)}.json" for prompt in each]
            for place, each in zip(embeddings.places, prompts, strict=True)
        ]
        sized = zip(files, embeddings.sizes, strict=True)
        found = [[self._remembered(file, size) for file in each] for each, size in sized]
        missing: dict[str, list[tuple[int, int]]] = defaultdict(list)  # place -> image and prompt, by their numbers
        for number, each in enumerate(found):
            for at, one in enumerate(each):
                if one is None:
                    missing[embeddings.places[number]].append((number, at))
        late = [place for place in missing if place not in embeddings.early]
        for places in (list(embeddings.early), late):
            if not any(place in missing for place in places):
                continue
            encoded = None if places is late else embeddings.encoded
            if encoded is None:
                encoded = self.segmenter.embed([embeddings.pictures[place] for place in places])
            asked = [[prompts[number][at] for number, at in missing.get(place, [])] for place in places]
            for place, drawn in zip(places, self.segmenter.decode(encoded, asked), strict=True):
                for (number, at), one in zip(missing.get(place, []), drawn, strict=True):
                    self.cache.put(files[number][at], {"rle": encode(one.masks[0]), "score": float(one.scores[0])})
                    found[number][at] = one
        for place in embeddings.early:
            if place not in missing:  # so that it is not taken for a new image again
                self.cache.put(f"{place}/nothing.json", None)
        wanted, new = sum(map(len, files)), sum(map(len, missing.values()))
        self.drawn += new
        self.remembered += wanted - new
        return [[one for one in each if one is not None] for each in found]

    def _remembered(self, file: str, size: tuple[int, int]) -> MaskPrediction | None:
        value = self.cache.get(file)
        try:
            mask, score = decode(value["rle"], size), float(value["score"])
        except (TypeError, KeyError, ValueError, UserError):
            return None
        return MaskPrediction(np.where(mask, 1, -1).astype(np.float32)[None], np.array([score], np.float32), size)


def _key(prompt: MaskPrompt) -> str:
    assert prompt.mask is None
    return key_of(prompt.box, prompt.points, prompt.labels)
