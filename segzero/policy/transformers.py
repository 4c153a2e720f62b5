"""Policies through the transformers library: any device, no engine to start.

Batches are padded on the left and run until the last answer ends; finished rows drop out. Only the stop tokens are
taken from the checkpoint's generation config, so that every backend decodes alike: greedy is plain argmax, and a
temperature samples from the whole distribution.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForImageTextToText,
    BatchFeature,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from segzero.errors import UserError, one_line
from segzero.policy.chat_template import load_processor, render_request
from segzero.policy.checkpoint import Checkpoint
from segzero.policy.presence import presence_of
from segzero.policy.protocol import OnText, Reply, Request, Sampling
from segzero.policy.vision import enlarge_operations

GROWTH = 64  # tokens by which the cache grows
KEPT = 7 / 8  # share of a batch's rows: once at most so many go on, the others leave
ATTENTION = "segzero_sdpa"  # name of `attend` among the library's attention functions

Choose = Callable[[torch.Tensor, list[int]], torch.Tensor]  # logits [B, vocabulary], places of the rows -> tokens [B]
OnToken = Callable[[int, int], None]  # place of a row, and its next token


class TransformersPolicy:
    """A checkpoint whose weights are in this process; `batch_size` bounds the answers generated at once.

    `model` is the checkpoint's model where it is loaded already, with `ATTENTION` in its language model.
    """

    supports_concurrency = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 64,
        model: PreTrainedModel | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        self.checkpoint = checkpoint
        self.name, self.frame, self.prompt = checkpoint.path, checkpoint.frame, checkpoint.prompt
        self.batch_size = batch_size
        self.device = _pick_device(device) if model is None else model.device
        self.processor = load_processor(checkpoint)
        self.model = self._load(dtype) if model is None else model
        self.stops = _stop_tokens(self.model.generation_config, self.processor.tokenizer)

    def _load(self, dtype: str) -> PreTrainedModel:
        model = load_weights(self.checkpoint.path, _pick_dtype(dtype, self.device), ATTENTION)
        enlarge_operations(model)
        return model.to(self.device).eval()

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Answer each request, in order. Too little CUDA memory halves the batches."""
        texts = [render_request(r, self.checkpoint, self.processor, self.checkpoint.max_length) for r in requests]
        replies: list[Reply] = []
        size = self.batch_size
        while len(replies) < len(requests):
            places = range(len(replies), min(len(replies) + size, len(requests)))
            try:
                replies += self._generate([texts[i] for i in places], [requests[i] for i in places], places, sampling)
                continue
            except torch.cuda.OutOfMemoryError:
                if len(places) == 1:
                    raise UserError(
                        f"one answer of {self.name} needs more memory than {self.device} has; "
                        "take a frame with fewer pixels, a smaller checkpoint or a larger device"
                    ) from None
            size = len(places) // 2  # outside the handler, which would keep the failed batch alive
            torch.cuda.empty_cache()
        return replies

    def close(self) -> None:
        """Release the weights' memory."""
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate(self, texts: list[str], requests: list[Request], places: range, sampling: Sampling) -> list[Reply]:
        images = [request.images for request in requests]
        inputs = self.processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left")
        inputs = inputs.to(self.device, dtype=self.model.dtype)  # only floating point tensors change their type
        seeds = [sampling.seed_for(i, request.seed) for i, request in zip(places, requests, strict=True)]
        choose = _Sampler(sampling.temperature, seeds, self.device) if sampling.temperature > 0 else _argmax
        recorded = [request.wants_presence for request in requests]
        recorder = ProbabilityRecorder(choose, len(requests)) if any(recorded) else None
        limit = min(sampling.max_tokens, self.checkpoint.max_length - inputs["input_ids"].shape[1])
        detokenizers = {
            row: IncrementalDetokenizer(self._decode, request.on_text)
            for row, request in enumerate(requests)
            if request.on_text is not None
        }

        def on_token(row: int, token: int) -> None:
            if row in detokenizers:
                detokenizers[row].add(token)

        answers = generate_tokens(self.model, inputs, self.stops, limit, recorder or choose, on_token)
        return [
            self._reply(answer, recorder.probabilities[row] if recorder and recorded[row] else None)
            for row, answer in enumerate(answers)
        ]

    def _reply(self, tokens: list[int], probabilities: list[float] | None) -> Reply:
        presence = None if probabilities is None else presence_of([self._decode([t]) for t in tokens], probabilities)
        return Reply(self._decode(tokens), len(tokens), truncated=tokens[-1] not in self.stops, presence=presence)

    def _decode(self, tokens: list[int]) -> str:
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class ProbabilityRecorder:
    """Chooses tokens as `choose` does, and notes the probability that the model gave to each, at temperature 1."""

    def __init__(self, choose: Choose, count: int) -> None:
        self._choose = choose
        self.probabilities: list[list[float]] = [[] for _ in range(count)]  # by row; those after its end mean nothing

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        tokens = self._choose(logits, rows)
        chosen = logits.float().log_softmax(-1).gather(1, tokens[:, None]).exp()[:, 0]
        for row, probability in zip(rows, chosen.tolist(), strict=True):
            self.probabilities[row].append(probability)
        return tokens


class IncrementalDetokenizer:
    """Turns tokens into text one by one: whole characters only, and no token decoded more than a few times.

    `decode` turns tokens into text; `on_text` is called with the whole text so far.

    >>> texts = []
    >>> detokenizer = IncrementalDetokenizer(lambda tokens: bytes(tokens).decode(errors="replace"), texts.append)
    >>> for byte in "aé".encode():
    ...     detokenizer.add(byte)
    >>> texts
    ['a', 'aé']
    """

    def __init__(self, decode: Callable[[list[int]], str], on_text: OnText) -> None:
        self._decode, self._on_text = decode, on_text
        self._text = ""
        self._context: list[int] = []  # tokens emitted last: a token's text depends on those before it
        self._pending: list[int] = []

    def add(self, token: int) -> None:
        """Append a token, and call `on_text` if it completes a character."""
        self._pending.append(token)
        before, now = self._decode(self._context), self._decode([*self._context, *self._pending])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._text += now[len(before) :]
            self._context, self._pending = self._pending, []
            self._on_text(self._text)


def load_weights(path: str | Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """Load a vision-language model's weights; a user's mistake is one line."""
    try:
        return AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    except ImportError:
        raise
    except Exception as error:  # files can be broken in many ways, and each has its own exception
        raise UserError(f"the weights of {path} do not load: {one_line(error)}") from error


def generate_tokens(
    model: PreTrainedModel,
    inputs: BatchFeature,
    stops: Sequence[int],
    limit: int,
    choose: Choose,
    on_token: OnToken = lambda row, token: None,
) -> list[list[int]]:
    """Generate at most `limit` tokens for each row of `inputs`, which are padded on the left.

    The last token is a stop token unless the limit came first. `on_token` is called with each token at once.
    """
    cache = Cache(layer_class_to_replicate=PreallocatedLayer)
    positions, _ = model.model.get_rope_index(**inputs)  # [3, B, T]
    logits = model(**inputs, position_ids=positions, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    following = positions.amax(dim=(0, 2))  # [B], position of each row's latest token
    mask = inputs["attention_mask"].bool()
    mask = torch.cat([mask, mask.new_ones(len(mask), limit)], 1)[:, None, None]  # [B, 1, 1, T + limit]

    answers: list[list[int]] = [[] for _ in range(len(mask))]
    rows = list(range(len(mask)))  # the answer that each row of the batch belongs to
    while True:
        tokens = choose(logits, rows)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not _ended(answers[row], stops):
                answers[row].append(token)
                on_token(row, token)
        alive = [i for i, row in enumerate(rows) if len(answers[row]) < limit and not _ended(answers[row], stops)]
        if not alive:
            return answers
        if len(alive) <= len(rows) * KEPT:
            order = _close_gaps(alive)
            rows = [rows[i] for i in order]
            tokens, following, mask = tokens[order], following[order], mask[order]
            for layer in cache.layers:
                layer.keep(order)
        following = following + 1
        logits = model(
            input_ids=tokens[:, None],
            position_ids=following.expand(3, 1, -1).mT,  # [3, B, 1]
            attention_mask=mask[..., : cache.get_seq_length() + 1],  # four axes: the library takes it as it is
            past_key_values=cache,
        ).logits[:, -1]


def _close_gaps(alive: list[int]) -> list[int]:
    """Order of the remaining rows in which those at the end fill the places of rows that have ended.

    >>> _close_gaps([0, 2, 4, 5])
    [0, 5, 2, 4]
    """
    count, kept = len(alive), set(alive)
    late = [place for place in alive if place >= count]
    return [place if place in kept else late.pop() for place in range(count)]


def _ended(answer: list[int], stops: Sequence[int]) -> bool:
    return bool(answer) and answer[-1] in stops


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as in the library, which copies the cache for each head that shares keys, without these copies.

    A single new token [B, heads, 1, head_dim] has no order to keep: heads that share keys become queries of one head.
    """
    batch, heads, count, width = query.shape
    if count > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(batch, key.shape[1], -1, width)  # [B, key heads, heads that share one, head_dim]
    attended = scaled_dot_product_attention(grouped, key, value, attention_mask, scale=scaling)
    return attended.reshape(batch, 1, heads, width), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class PreallocatedLayer(DynamicLayer):
    """Cached keys and values of one layer: views of a buffer that grows by steps, so that few tokens are copied."""

    buffer: torch.Tensor  # [2, B, heads, tokens, head_dim]
    keys: torch.Tensor  # [B, heads, tokens, head_dim]
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, heads, n, head_dim], and return those of all tokens."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        batch, heads, _, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffer = key_states.new_empty(2, batch, heads, 0, width)
        if end > self.buffer.shape[3]:
            more = key_states.new_empty(2, batch, heads, end - start + GROWTH, width)
            self.buffer = torch.cat([self.buffer[:, :, :, :start], more], 3)
        self.buffer[0, :, :, start:end] = key_states
        self.buffer[1, :, :, start:end] = value_states
        self.keys, self.values = self.buffer[:, :, :, :end]
        return self.keys, self.values

    def keep(self, order: list[int]) -> None:
        """Drop all rows of the batch but these, in this order; only rows that change their place are copied."""
        used = self.get_seq_length()
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if moved:
            new, old = map(list, zip(*moved, strict=True))
            self.buffer[:, new, :, :used] = self.buffer[:, old, :, :used]
        self.buffer = self.buffer[:, : len(order)]
        self.keys, self.values = self.buffer[:, :, :, :used]


def _argmax(logits: torch.Tensor, places: list[int]) -> torch.Tensor:
    return logits.argmax(-1)


class _Sampler:
    """Samples tokens: the largest of logits / temperature + Gumbel noise is a sample of their softmax.

    A random stream per answer makes an answer independent of the batch it happens to be in.
    """

    def __init__(self, temperature: float, seeds: list[int], device: torch.device) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits: torch.Tensor, places: list[int]) -> torch.Tensor:
        logits = logits.float()
        noise = torch.empty_like(logits)  # [B, vocabulary]
        for row, place in zip(noise, places, strict=True):
            row.exponential_(generator=self.streams[place])
        # -log of an exponential sample is Gumbel noise
        return (logits / self.temperature - noise.log()).argmax(-1)


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; write auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but PyTorch sees no CUDA here; `segzero doctor` says more")
    return device


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def _stop_tokens(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the generation config's and the tokenizer's, as in vLLM."""
    named = config.eos_token_id
    stops = named if isinstance(named, list) else [named]
    return [token for token in dict.fromkeys([*stops, tokenizer.eos_token_id]) if token is not None]
