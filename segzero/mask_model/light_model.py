"""The mask model of a light head: a vision-language model answers with [SEG] tokens, whose states the head draws.

An answer has a fixed wording, "Sure, the mask of the mug is [SEG].", and [REJ] in place of [SEG] where nothing is
there. At inference each question is asked alone and the answer is given up to the place of the decision: as the
wording is fixed, one pass computes what generation of the next token would. The log-odds of [SEG] against [REJ] there
are the presence, and the state that predicts [SEG] is what the head draws, whichever of the two is likelier. In
training questions about one image share a question and its answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from segzero.errors import UserError
from segzero.mask_model.light_head import LightHead
from segzero.mask_model.network import Decoded, MaskNetwork, language_model_of, load_head, save_head
from segzero.mask_model.reader import Reader, Reading, SeenImage, Text
from segzero.prompts import normalise

SEG, REJ = "[SEG]", "[REJ]"
MOST = 1 << 62


class LightModel(MaskNetwork):
    """Reader and light head; the reader's language model knows [SEG] and [REJ]."""

    def __init__(self, reader: Reader, head: LightHead, name: str = "") -> None:
        super().__init__(reader, head, name)
        reader.keep_patches = True
        self.own_tokens = [reader.processor.tokenizer.convert_tokens_to_ids(token) for token in (SEG, REJ)]

    @classmethod
    def start(cls, policy: str | Path, device: str = "auto", dtype: str = "auto") -> "LightModel":
        """Make a model with an untrained head from a vision-language model, whose tokens [SEG] and [REJ] are new."""
        reader = Reader.load(policy, device, dtype)
        _add_tokens(reader)
        return cls(reader, _head(reader))

    @classmethod
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> "LightModel":
        """Load a model that `save` wrote."""
        policy = language_model_of(folder)
        reader = Reader.load(policy, device, dtype)
        known = reader.processor.tokenizer.get_vocab()
        for token in (SEG, REJ):
            if not known.get(token, MOST) < reader.net.get_input_embeddings().num_embeddings:
                raise UserError(f"the model in {policy} has no token {token}, which `segzero tune --head light` adds")
        model = cls(reader, _head(reader))
        load_head(folder, model.head)
        return model

    def save(self, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """Write the model: head, and language model with these weights. The folder is there and empty."""
        save_head(folder, self, weights, "light")

    def see(self, images: Sequence[Image.Image]) -> list[SeenImage]:
        """Encode images by the vision tower, with the features of their patches."""
        return self.reader.see(images)

    def forward(self, encoded: Sequence[SeenImage], questions: Sequence[str]) -> Decoded:
        """Predict a mask for each question about the image beside it, each asked alone."""
        alone = [[row] for row in range(len(questions))]
        readings = self._read(encoded, questions, alone, [True] * len(questions))
        return self._decode(encoded, readings, alone)

    def learn(
        self, encoded: Sequence[SeenImage], questions: Sequence[str], there: Sequence[bool], **told: Any
    ) -> Decoded:
        """Predict masks where several questions about an image share an answer, whose words are learnt too."""
        together = _by_image(encoded, self.expressions)
        readings = self._read(encoded, questions, together, there)
        decoded = self._decode(encoded, readings, together)
        return Decoded(decoded.logits, decoded.scores, decoded.presence, self._answer_loss(readings, together))

    def _read(
        self, encoded: Sequence[SeenImage], questions: Sequence[str], groups: list[list[int]], there: Sequence[bool]
    ) -> list[Reading]:
        """Read each group's answer, true where `there` says so."""
        texts = [self._text([questions[row] for row in group], [there[row] for row in group]) for group in groups]
        return self.reader.read([encoded[group[0]] for group in groups], texts)

    def _text(self, questions: Sequence[str], there: Sequence[bool]) -> Text:
        words = [normalise(question) for question in questions]  # in lower case, so that none holds [SEG] or [REJ]
        content = [{"type": "image"}, {"type": "text", "text": f"Please segment {', '.join(words)} in this image."}]
        chat = [{"role": "user", "content": content}]
        before = self.reader.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        masks = [f"the mask of {word} is {SEG if yes else REJ}" for word, yes in zip(words, there, strict=True)]
        return Text(before, f"Sure, {', '.join(masks)}.<|im_end|>")

    def _decode(self, encoded: Sequence[SeenImage], readings: list[Reading], groups: list[list[int]]) -> Decoded:
        """Predict a mask for each row from the state that predicts its decision; images of one grid go together."""
        asked: dict[int, Tensor] = {}  # states of the words up to each decision
        first: dict[int, Reading] = {}  # of each image; its tokens come first, so that no text changes their states
        for group, reading in zip(groups, readings, strict=True):
            ends = self._decisions(reading).nonzero()[:, 0].tolist()
            begins = [int(reading.marked.nonzero()[0]), *(end + 1 for end in ends[:-1])]
            asked |= {row: reading.at(slice(a, b)) for row, a, b in zip(group, begins, ends, strict=True)}
            first.setdefault(id(encoded[group[0]]), reading)
        by_grid: dict[torch.Size, list[int]] = {}
        for row in asked:
            by_grid.setdefault(_patches(encoded[row]).shape, []).append(row)
        logits: dict[int, Tensor] = {}
        scores: dict[int, Tensor] = {}
        for rows in by_grid.values():
            images = {id(encoded[row]): encoded[row] for row in rows}
            places = {image: place for place, image in enumerate(images)}
            masks = self.head(
                torch.stack([_patches(one) for one in images.values()]).float(),
                torch.stack([self._image_states(first[image], one) for image, one in images.items()]).float(),
                [asked[row].float() for row in rows],
                torch.tensor([places[id(encoded[row])] for row in rows], device=self.reader.device),
            )
            logits |= zip(rows, masks, strict=True)
            scores |= zip(rows, expected_iou(masks), strict=True)
        order = range(len(encoded))
        seg, rej = self._words(torch.stack([asked[row][-1] for row in order]))[:, self.own_tokens].T
        return Decoded([logits[row] for row in order], torch.stack([scores[row] for row in order]), seg - rej)

    def _decisions(self, reading: Reading) -> Tensor:
        """Which tokens of a reading are [SEG] or [REJ], bool [tokens]."""
        return torch.isin(reading.tokens, torch.tensor(self.own_tokens, device=reading.tokens.device))

    def _image_states(self, reading: Reading, seen: SeenImage) -> Tensor:
        """States at the image's tokens, [rows, columns, width]."""
        return reading.at(reading.tokens == self.reader.image_token).unflatten(0, seen.grid)

    def _words(self, states: Tensor) -> Tensor:
        """Logits of the next token after states [N, width], over the whole vocabulary."""
        return self.net.get_output_embeddings()(states).float()

    def _answer_loss(self, readings: list[Reading], groups: list[list[int]]) -> Tensor:
        """Mean cross-entropy of the tokens of each row's part of an answer, which ends with its decision, [rows]."""
        before, words, owners = [], [], []
        for group, reading in zip(groups, readings, strict=True):
            places = reading.marked.nonzero()[:, 0]
            decided = self._decisions(reading)[places].long()
            part = (decided.cumsum(0) - decided).clamp(max=len(group) - 1)  # the end belongs to the last
            before.append(reading.at(places - 1))
            words.append(reading.tokens[places])
            owners.append(torch.tensor(group, device=part.device)[part])
        losses = cross_entropy(self._words(torch.cat(before)), torch.cat(words), reduction="none")
        owner = torch.cat(owners)
        summed = losses.new_zeros(sum(map(len, groups))).index_add(0, owner, losses)
        return summed / owner.bincount()


@torch.no_grad()
def expected_iou(logits: Tensor) -> Tensor:
    """IoU to be expected of masks [B, h, w] if their pixels are as likely inside as their logits say, [B]."""
    inside, likely = (logits > 0).float().flatten(1), logits.float().sigmoid().flatten(1)
    both = (likely * inside).sum(1)
    return both / (inside.sum(1) + likely.sum(1) - both).clamp(min=1e-6)


def _by_image(encoded: Sequence[SeenImage], most: int) -> list[list[int]]:
    """Rows that share an answer: those about one image, in groups of random size up to `most`.

    Some stand alone, so that a question alone, as at inference, is nothing new.
    """
    of_image: dict[int, list[int]] = {}
    for row, image in enumerate(encoded):
        of_image.setdefault(id(image), []).append(row)
    groups = []
    for rows in of_image.values():
        while rows:
            size = int(torch.randint(1, most + 1, ()))
            groups.append(rows[:size])
            rows = rows[size:]
    return groups


def _patches(seen: SeenImage) -> Tensor:
    assert seen.patches is not None, "the reader keeps patches"
    return seen.patches


def _head(reader: Reader) -> LightHead:
    tower = reader.tower
    return LightHead(tower.width, reader.width, tower.patch).to(reader.device)


@torch.no_grad()
def _add_tokens(reader: Reader) -> None:
    """Give the language model [SEG] and [REJ], whose embeddings start as the mean of all others."""
    net, tokenizer = reader.net, reader.processor.tokenizer
    known = len(tokenizer)
    tokenizer.add_tokens([SEG, REJ], special_tokens=True)
    if len(tokenizer) > net.get_input_embeddings().num_embeddings:
        net.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table in (net.get_input_embeddings().weight, net.get_output_embeddings().weight):
        table[known : len(tokenizer)] = table[:known].float().mean(0).to(table.dtype)  # of tied ones twice, to no harm
        table.requires_grad_(False)
