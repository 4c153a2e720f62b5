"""Answers and masks on the disk, by content: the same model, prompt and image are never computed twice.

>>> cache = Cache(Path("~/.cache/segzero/evaluation").expanduser())                             # doctest: +SKIP
>>> pipeline = SegZeroPipeline(                                                                # doctest: +SKIP
...     DiskCachedPolicy(policy, cache, {"sha256": "5f2c..."}), DiskCachedSegmenter(segmenter, cache, {...})
... )

These classes are used like the models that they wrap. A file of the cache that can't be read is written anew.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero.errors import UserError
from segzero.images import pixels_key
from segzero.io import write_atomically
from segzero.mask_model.protocol import AnsweredMask, MaskModel, MaskQuestion
from segzero.masks import decode, encode
from segzero.policy import Policy, Reply, Request, Sampling
from segzero.segmenter import Embeddings, MaskPrediction, MaskPrompt, Segmenter
from segzero.segmenter.words import BOX_THRESHOLD, PhrasePrediction, PhrasePrompt, reads_text

Identity = Mapping[str, Any]  # values that differ between any two models; JSON can hold them


@dataclass(frozen=True)
class Cache:
    """A folder of small JSON files; several processes may share it."""

    folder: Path

    def get(self, place: str) -> Any:
        """Read the value at a place; None if there is none."""
        try:
            return json.loads((self.folder / place).read_bytes())
        except (OSError, ValueError, RecursionError):  # absent, or cut short
            return None

    def put(self, place: str, value: Any) -> None:
        """Write a value, which JSON can hold, to a place."""
        write_atomically(self.folder / place, json.dumps(value).encode())

    def has(self, place: str) -> bool:
        """True when there is a value at a place or below it."""
        return (self.folder / place).exists()


def key_of(*parts: Any) -> str:
    """Hash values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class DiskCachedPolicy:
    """A policy whose answers are kept on the disk; sampled ones are if each request has a seed of its own."""

    supports_concurrency = False

    def __init__(self, policy: Policy, cache: Cache, identity: Identity) -> None:
        self.policy, self.cache, self.identity = policy, cache, dict(identity)
        self.uncached = policy
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Reply to each request, in order."""
        if sampling.temperature > 0 and any(request.seed is None for request in requests):
            return self.policy.generate(requests, sampling)
        places = [self._place(request, sampling) for request in requests]
        replies = [_read_reply(self.cache.get(place)) for place in places]
        new = [number for number, reply in enumerate(replies) if reply is None]
        if new:
            for number, reply in zip(new, self.policy.generate([requests[n] for n in new], sampling), strict=True):
                self.cache.put(places[number], asdict(reply))
                replies[number] = reply
        return [reply for reply in replies if reply is not None]

    def close(self) -> None:
        """Close the policy."""
        self.policy.close()

    def _place(self, request: Request, sampling: Sampling) -> str:
        decoding = asdict(sampling)
        if sampling.temperature > 0:
            decoding["seed"] = sampling.seed_for(0, request.seed)
        key = key_of(self.identity, request.messages, *map(pixels_key, request.images), decoding)
        return f"answers/{key[:2]}/{key}.json"


def _read_reply(value: Any) -> Reply | None:
    try:
        return Reply(str(value["text"]), int(value["tokens"]), bool(value["truncated"]))
    except (TypeError, KeyError, ValueError):
        return None


@dataclass(frozen=True, eq=False)
class _Images(Embeddings):
    """Images to draw masks in. New ones are encoded already; the others are encoded once a new mask is wanted."""

    places: tuple[str, ...] = ()  # of each image's masks in the cache
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)  # by place, so that equal images are one
    new: tuple[str, ...] = ()  # places of the images in `encoded`
    encoded: Embeddings | None = None

    def __getitem__(self, index: int | slice) -> "Embeddings":
        """One image, encoded if it was among the new ones."""
        assert isinstance(index, int)
        place = self.places[index]
        encoded = self.encoded[self.new.index(place)] if self.encoded is not None and place in self.new else None
        new = () if encoded is None else (place,)
        return _Images((), (self.sizes[index],), (place,), {place: self.pictures[place]}, new, encoded)


class DiskCachedSegmenter:
    """A segmenter whose masks are kept on the disk. A new image is encoded at once, while the policy generates."""

    def __init__(self, segmenter: Segmenter, cache: Cache, identity: Identity) -> None:
        self.segmenter, self.cache, self.identity = segmenter, cache, dict(identity)
        self.uncached = segmenter
        self.name, self.reads_text = segmenter.name, segmenter.reads_text

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode the images without any mask in the cache, each once."""
        keys = [key_of(self.identity, pixels_key(image)) for image in images]
        places = tuple(f"masks/{key[:2]}/{key}" for key in keys)
        pictures = dict(zip(places, images, strict=True))
        new = tuple(place for place in pictures if not self.cache.has(place))
        encoded = self.segmenter.embed([pictures[place] for place in new]) if new else None
        return _Images((), tuple(image.size for image in images), places, pictures, new, encoded)

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict a mask for each prompt in each image; `embeddings` are those of this object's `embed`."""
        assert isinstance(embeddings, _Images) and not all_masks
        files = [
            [f"{place}/{_key(prompt)}.json" for prompt in each]
            for place, each in zip(embeddings.places, prompts, strict=True)
        ]
        masks = [
            [self._read_mask(file, size) for file in each] for each, size in zip(files, embeddings.sizes, strict=True)
        ]
        missing: dict[str, list[tuple[int, int]]] = defaultdict(list)  # place -> numbers of image and prompt
        for number, each in enumerate(masks):
            for at, mask in enumerate(each):
                if mask is None:
                    missing[embeddings.places[number]].append((number, at))
        for places, encoded in self._encoded(embeddings, missing):
            wanted = [[prompts[number][at] for number, at in missing.get(place, [])] for place in places]
            for place, predicted in zip(places, self.segmenter.decode(encoded, wanted), strict=True):
                for (number, at), mask in zip(missing.get(place, []), predicted, strict=True):
                    self.cache.put(files[number][at], {"rle": encode(mask.masks[0]), "score": float(mask.scores[0])})
                    masks[number][at] = mask
        for place in embeddings.new:
            if place not in missing:  # an image without masks leaves a file too, so that it is not new again
                self.cache.put(f"{place}/nothing.json", None)
        return [[mask for mask in each if mask is not None] for each in masks]

    def find(
        self, embeddings: Embeddings, phrases: Sequence[Sequence[PhrasePrompt]], threshold: float = BOX_THRESHOLD
    ) -> list[list[PhrasePrediction]]:
        """Find the instances of each phrase of each image; `embeddings` are those of this object's `embed`."""
        assert isinstance(embeddings, _Images) and reads_text(self.segmenter)
        found: list[list[PhrasePrediction]] = []
        for number, (place, prompts) in enumerate(zip(embeddings.places, phrases, strict=True)):
            image, size = embeddings[number], embeddings.sizes[number]
            assert isinstance(image, _Images)
            files = [f"{place}/{key_of(one.text, one.boxes, one.box_labels, threshold)}.json" for one in prompts]
            listed = [_read_phrase(self.cache.get(file), size) for file in files]
            new = [at for at, each in enumerate(listed) if each is None]
            for _, encoded in self._encoded(image, {place} if new else ()):
                wanted = [[prompts[at] for at in new]]
                for at, each in zip(new, self.segmenter.find(encoded, wanted, threshold)[0], strict=True):
                    self.cache.put(files[at], _phrase_value(each))
                    listed[at] = each
            found.append([each for each in listed if each is not None])
        return found

    def _encoded(self, images: _Images, missing: Container[str]) -> Iterator[tuple[Sequence[str], Embeddings]]:
        """Yield the images in which masks are missing, encoded: the new ones, then those that are encoded only now."""
        if images.encoded is not None and any(place in missing for place in images.new):
            yield images.new, images.encoded
        late = [place for place in images.pictures if place in missing and place not in images.new]
        if late:
            yield late, self.segmenter.embed([images.pictures[place] for place in late])

    def _read_mask(self, file: str, size: tuple[int, int]) -> MaskPrediction | None:
        value = self.cache.get(file)
        try:
            mask, score = decode(value["rle"], size), float(value["score"])
        except (TypeError, KeyError, ValueError, UserError):
            return None
        return MaskPrediction(np.where(mask, 1, -1).astype(np.float32)[None], np.array([score], np.float32), size)


def _phrase_value(found: PhrasePrediction) -> dict[str, Any]:
    """A prediction as JSON can hold it."""
    return {
        "presence": found.presence,
        "scores": found.scores.tolist(),
        "boxes": found.boxes.tolist(),
        "rles": [encode(mask) for mask in found.masks],
    }


def _read_phrase(value: Any, size: tuple[int, int]) -> PhrasePrediction | None:
    """The prediction in a file of the cache; None if it holds no whole one."""
    try:
        masks = [decode(rle, size) for rle in value["rles"]]
        scores = np.array(value["scores"], np.float32).reshape(len(masks))
        boxes = np.array(value["boxes"], np.float32).reshape(len(masks), 4)
        presence = float(value["presence"])
    except (TypeError, KeyError, ValueError, UserError):
        return None
    logits = np.where(masks, 1, -1).astype(np.float32) if masks else np.zeros((0, *size[::-1]), np.float32)
    return PhrasePrediction(presence, logits, scores, boxes, size)


def _key(prompt: MaskPrompt) -> str:
    assert prompt.mask is None
    return key_of(prompt.box, prompt.points, prompt.labels)


class DiskCachedMaskModel:
    """A mask model whose answers are kept on the disk."""

    def __init__(self, model: MaskModel, cache: Cache, identity: Identity) -> None:
        self.uncached, self.cache, self.identity = model, cache, dict(identity)
        self.name, self.kind, self.memory, self.protocol = model.name, model.kind, model.memory, model.protocol

    def answer(self, questions: Sequence[MaskQuestion]) -> list[AnsweredMask]:
        """Answer each question, in order."""
        places = [self._place(question) for question in questions]
        answers = [
            _read_answer(self.cache.get(place), question.image.size)
            for place, question in zip(places, questions, strict=True)
        ]
        new = [number for number, answer in enumerate(answers) if answer is None]
        if new:
            for number, answer in zip(new, self.uncached.answer([questions[n] for n in new]), strict=True):
                kept = {"rle": encode(answer.drawn), "score": answer.score, "presence": answer.presence}
                self.cache.put(places[number], kept)
                answers[number] = answer
        return [answer for answer in answers if answer is not None]

    def fits(self, image: Image.Image) -> None:
        """Refuse an image of a shape that the model can't see."""
        self.uncached.fits(image)

    def close(self) -> None:
        """Close the model."""
        self.uncached.close()

    def _place(self, question: MaskQuestion) -> str:
        earlier = [encode(mask) for mask in question.earlier]
        key = key_of(self.identity, pixels_key(question.image), question.question, earlier)
        return f"mask_answers/{key[:2]}/{key}.json"


def _read_answer(value: Any, size: tuple[int, int]) -> AnsweredMask | None:
    try:
        mask, score, presence = decode(value["rle"], size), float(value["score"]), float(value["presence"])
    except (TypeError, KeyError, ValueError, UserError):
        return None
    return AnsweredMask(np.where(mask, 1, -1).astype(np.float32), score, presence, size)
