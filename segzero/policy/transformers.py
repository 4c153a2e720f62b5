"""Policies through the transformers library: any device, no engine to start.

Batches are padded on the left and run until the last answer ends. Only the stop tokens are taken from the
checkpoint's generation config, so that every backend decodes alike: greedy is plain argmax, and a temperature samples
from the whole distribution.
"""

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedTokenizerBase

from segzero.errors import UserError, one_line
from segzero.policy.chat_template import load_processor, render_request
from segzero.policy.checkpoint import Checkpoint
from segzero.policy.generate import IncrementalDetokenizer, generate_tokens
from segzero.policy.protocol import Reply, Request, Sampling


class TransformersPolicy:
    """A checkpoint whose weights are in this process; `batch_size` bounds the answers generated at once."""

    supports_concurrency = False

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", dtype: str = "auto", batch_size: int = 64) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        self.checkpoint = checkpoint
        self.name, self.frame, self.prompt = checkpoint.path, checkpoint.frame, checkpoint.prompt
        self.batch_size = batch_size
        self.device = _pick_device(device)
        self.processor = load_processor(checkpoint)
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                checkpoint.path,
                dtype=_pick_dtype(dtype, self.device),
                attn_implementation="sdpa",
                trust_remote_code=False,
            )
        except ImportError:
            raise
        except Exception as error:  # files can be broken in many ways, and each has its own exception
            raise UserError(f"the weights of {checkpoint.path} do not load: {one_line(error)}") from error
        self.model = model.to(self.device).eval()
        self.stops = _stop_tokens(model.generation_config, self.processor.tokenizer)

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
        seeds = [sampling.seed_for(i) for i in places]
        choose = _Sampler(sampling.temperature, seeds, self.device) if sampling.temperature > 0 else _argmax
        limit = min(sampling.max_tokens, self.checkpoint.max_length - inputs["input_ids"].shape[1])
        detokenizers = {
            row: IncrementalDetokenizer(self._decode, request.on_text)
            for row, request in enumerate(requests)
            if request.on_text is not None
        }

        def on_token(row: int, token: int) -> None:
            if row in detokenizers:
                detokenizers[row].add(token)

        answers = generate_tokens(self.model, inputs, self.stops, limit, choose, on_token)
        return [self._reply(answer) for answer in answers]

    def _reply(self, tokens: list[int]) -> Reply:
        return Reply(self._decode(tokens), len(tokens), truncated=tokens[-1] not in self.stops)

    def _decode(self, tokens: list[int]) -> str:
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


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
