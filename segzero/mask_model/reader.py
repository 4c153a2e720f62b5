"""A vision-language model that reads: states of its last layer for an image and a text about it.

Heads that predict masks start from these states. The vision tower is frozen, so an image's features are computed once
and can be kept; several texts about an image share them.

>>> reader = Reader.load("Qwen/Qwen2.5-VL-3B-Instruct")                                    # doctest: +SKIP
>>> seen = reader.see([image])                                                             # doctest: +SKIP
>>> [reading] = reader.read(seen, [reader.question("the mug")])                            # doctest: +SKIP
>>> reading.at(reading.marked).shape  # of the question's own words                    # doctest: +SKIP
torch.Size([2, 2048])
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from segzero.device import find_device
from segzero.errors import UserError, one_line
from segzero.mask_model.tower import Grid, tower_of
from segzero.policy.adapters import is_adapter, load_base, merge_into
from segzero.policy.checkpoint import FAMILIES_READ, Checkpoint, read_checkpoint
from segzero.policy.shared_prompt import PackedRow, pack, use_packed_rows
from segzero.policy.transformers import load_weights
from segzero.prompts import normalise

PIXELS_AT_ONCE = 1 << 20  # of images that go through the vision tower together


@dataclass(frozen=True, eq=False)
class SeenImage:
    """Features of one image by the frozen vision tower."""

    features: Any  # what the model's own get_image_features returns for it
    grid: Grid  # of its tokens in the language model
    patches: Tensor | None = None  # [rows, columns, width], the last layer's, if the reader keeps them

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        tensors = [*self.features.pooler_output, *(getattr(self.features, "deepstack_features", None) or ())]
        tensors += [] if self.patches is None else [self.patches]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Text:
    """A text about an image, with the part of it that matters to a head."""

    before: str  # with the placeholder of the image
    marked: str
    after: str = ""
    given: Tensor | None = None  # [N, width], tokens that are no words, read before the marked part


@dataclass(frozen=True, eq=False)
class Reading:
    """States of the language model's last layer for one image and one text."""

    packed: Tensor  # [length, width], states of the packed row
    places: Tensor  # int64 [tokens], where the text's tokens are in it
    tokens: Tensor  # int64 [tokens]
    marked: Tensor  # bool [tokens], the tokens of the text's marked part

    def at(self, chosen: Tensor | slice) -> Tensor:
        """States [chosen, width] at some of the text's tokens."""
        return self.packed[self.places[chosen]]


class Reader:
    """A vision-language model, its processor, and how images are fitted for it.

    With `keep_patches` the features of each patch are kept with an image, which takes a multiple of its memory.
    """

    keep_patches = False

    def __init__(self, net: Any, processor: Any, checkpoint: Checkpoint, device: torch.device) -> None:
        self.net, self.processor, self.checkpoint, self.device = net, processor, checkpoint, device
        self.frame, self.tower = checkpoint.frame, tower_of(net, processor)
        self.width: int = net.config.get_text_config().hidden_size
        self.image_token: int = net.config.image_token_id
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        use_packed_rows(net)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", dtype: str = "auto") -> "Reader":
        """Load a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or InternVL by folder or hub name.

        Adapters are merged into their base.
        """
        target = find_device(device)
        kind = dtype if dtype != "auto" else "bfloat16" if target.type == "cuda" else "float32"
        checkpoint = read_checkpoint(path, families=FAMILIES_READ)
        try:
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        except ImportError:
            raise
        except Exception as error:  # files can be broken in many ways, and each has its own exception
            raise UserError(f"the processor of {path} does not load: {one_line(error)}") from error
        number = getattr(torch, kind)
        net = merge_into(load_base(path), path).to(number) if is_adapter(path) else load_weights(path, number)
        return cls(net.to(target).eval(), processor, checkpoint, target)

    def question(self, question: str) -> Text:
        """Render a question as the user's turn of a chat, with the question's own words marked."""
        words = normalise(question)
        content = [{"type": "image"}, {"type": "text", "text": words}]
        rendered = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        before, found, after = rendered.rpartition(words)
        assert found, "chat templates keep the user's words"
        return Text(before, words, after)

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize an image to the size at which the model sees it."""
        return self.frame.fit(image)

    @torch.no_grad()
    def see(self, images: Sequence[Image.Image]) -> list[SeenImage]:
        """Compute the features of images, as many at once as have few pixels."""
        fitted = [self.fit(image) for image in images]
        parts: list[list[Image.Image]] = []
        for image in fitted:
            if not parts or _pixels([*parts[-1], image]) > PIXELS_AT_ONCE:
                parts.append([])
            parts[-1].append(image)
        return [self._keep(features, grid) for part in parts for features, grid in self.tower.see(part)]

    def read(self, seen: Sequence[SeenImage], texts: Sequence[Text]) -> list[Reading]:
        """Read each text beside its image, in one packed row: texts about an image share it, and see no other text."""
        rows = [self._tokens(text, one) for text, one in zip(texts, seen, strict=True)]
        shared = [len(ids) - ids[::-1].index(self.image_token) for ids, _ in rows]  # up to the image's last token
        keys = [(id(one), *ids[:prefix]) for one, (ids, _), prefix in zip(seen, rows, shared, strict=True)]
        images = dict(zip(keys, seen, strict=True))
        numbers = list(map({key: number for number, key in enumerate(images)}.__getitem__, keys))
        # The last token of an answer predicts nothing and is not computed, so one more is put behind each text.
        packed = pack(numbers, shared, [len(ids) + 1 - prefix for (ids, _), prefix in zip(rows, shared, strict=True)])
        packed = replace(packed, dense=True)
        tokens = torch.tensor([token for ids, _ in rows for token in (*ids, self._padding)])
        each = zip(rows, shared, seen, strict=True)
        positions = [self.tower.positions(ids[:prefix], one.grid, len(ids) + 1) for (ids, _), prefix, one in each]
        place = torch.full_like(tokens, -1)  # of each text's tokens in the packed row
        place[packed.source] = torch.arange(len(packed))
        given = [text.given for text in texts if text.given is not None and len(text.given)]
        places = place[(tokens == self._padding) & (place >= 0)] if given else place[:0]
        with self._put(places.to(self.device), given):
            states = self._states(tokens, torch.cat(positions, dim=-1), packed.to(self.device), list(images.values()))
        readings, start = [], 0
        first: dict[int, int] = {}  # the place of each image's first text among the tokens
        for (ids, marked), number, prefix in zip(rows, numbers, shared, strict=True):
            begin = first.setdefault(number, start)
            places = torch.cat([place[begin : begin + prefix], place[start + prefix : start + len(ids)]])
            own = torch.tensor(ids), torch.tensor(marked)
            readings.append(Reading(states, *(tensor.to(self.device) for tensor in (places, *own))))
            start += len(ids) + 1
        return readings

    def _keep(self, features: Any, grid: Grid) -> SeenImage:
        patches = self.tower.patches(features, grid) if self.keep_patches else None
        features.last_hidden_state = None  # of every patch, and nothing else needs it
        return SeenImage(features, grid, patches)

    def _tokens(self, text: Text, seen: SeenImage) -> tuple[list[int], list[bool]]:
        """Tokens of a text, the image's in their number, and which of them are marked."""
        place, count = self.processor.image_token, seen.grid[0] * seen.grid[1]
        before = text.before.replace(place, self.tower.placeholder(count))
        if text.given is not None:  # padding stands for them; no text can hold it
            before += self.processor.tokenizer.pad_token * len(text.given)
        whole = before + text.marked + text.after
        encoded = self.processor.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        begin, end = len(before), len(before) + len(text.marked)
        marked = [a < end and b > begin and b > a for a, b in encoded["offset_mapping"]]
        assert encoded["input_ids"].count(self.image_token) == count, "the text has one image"
        return encoded["input_ids"], marked

    def _states(self, tokens: Tensor, positions: Tensor, packed: PackedRow, seen: Sequence[SeenImage]) -> Tensor:
        """States [length, width] of a packed row."""
        with self._given(self.tower.join([one.features for one in seen])):
            return self.net.model(
                input_ids=tokens.to(self.device)[None, packed.source],
                position_ids=positions.to(self.device)[..., packed.source].unsqueeze(-2),
                attention_mask=None,
                packed=packed,
                pixel_values=torch.empty(0, device=self.device),  # the features are there already
                use_cache=False,
                **self.tower.inputs([one.grid for one in seen]),
            ).last_hidden_state[0]

    @contextmanager
    def _given(self, features: Any) -> Any:
        """Let the model take these features of images instead of computing them."""
        self.net.model.get_image_features = lambda *_, **__: features
        try:
            yield
        finally:
            del self.net.model.get_image_features

    @contextmanager
    def _put(self, places: Tensor, given: Sequence[Tensor]) -> Any:
        """Let the model read these tokens at places [N] of the packed row."""
        if not given:
            yield
            return
        tokens = torch.cat(list(given))
        assert len(tokens) == len(places), "each has its place"

        def put(_: Any, __: Any, embedded: Tensor) -> Tensor:
            return embedded.index_put((torch.zeros_like(places), places), tokens.to(embedded.dtype))

        hook = self.net.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    @property
    def _padding(self) -> int:
        return self.processor.tokenizer.pad_token_id or 0


def _pixels(images: Sequence[Image.Image]) -> int:
    return sum(image.width * image.height for image in images)
