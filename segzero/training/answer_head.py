"""Log-probs and entropies of answer tokens straight from hidden states, without logits of whole batches.

Self-distillation also asks for the likeliest tokens in each place, and for the log-probs of given ones.

With a vocabulary of 152,000 words the logits of a pass would be its largest tensors. Here they exist for one block of
tokens at a time; the backward pass computes each block again from what the forward pass kept, two numbers per token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segzero.errors import UserError

LOGITS = 1 << 25  # of one block; smaller ones would write the head's gradient more often


class TokenScores(torch.autograd.Function):
    """hidden [N, dim], weight [words, dim], labels [N, C], temperature -> log-probs [N, C] and entropies [N], float32.

    With z = logits / temperature and p = softmax(z), the entropy is logsumexp(z) - sum(p * z), and the gradients are
    d log-prob / dz = onehot - p and d entropy / dz = -p * (log p + entropy).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        log_probs, entropies, sums = [], [], []
        for h, label in _blocks(weight, hidden, labels):
            z = _scaled_logits(h, weight, temperature)
            most = z.amax(-1)
            z.sub_(most[:, None])
            chosen = z.gather(-1, label)
            p = z.exp()
            total = p.sum(-1)
            log_probs.append(chosen - total.log()[:, None])
            entropies.append(total.log() - p.mul_(z).sum(-1) / total)
            sums.append(most + total.log())
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, labels, torch.cat(sums), entropy)
        ctx.temperature = temperature
        return torch.cat(log_probs), entropy

    @staticmethod
    def backward(ctx: Any, d_log_prob: Tensor, d_entropy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, labels, sums, entropy = ctx.saved_tensors
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        d_hidden = []
        d_weight = torch.zeros_like(weight) if needs_weight else None
        rest = (labels, sums, entropy, d_log_prob, d_entropy)
        for h, label, total, block_entropy, d_p, d_e in _blocks(weight, hidden, *rest):
            log_p = _scaled_logits(h, weight, ctx.temperature).sub_(total[:, None])
            p = log_p.exp()
            d_z = log_p.add_(block_entropy[:, None]).mul_(-d_e[:, None]).sub_(d_p.sum(-1, keepdim=True)).mul_(p)
            d_z.scatter_add_(1, label, d_p)
            d_logits = d_z.div_(ctx.temperature).to(weight.dtype)
            if needs_hidden:
                d_hidden.append(d_logits @ weight)
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, h.to(weight.dtype))
        return torch.cat(d_hidden).to(hidden.dtype) if needs_hidden else None, d_weight, None, None


def likeliest(hidden: Tensor, weight: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The likeliest words in each place, hidden [N, dim] -> log-probs float32 [N, count] and ids int64 [N, count]."""
    log_probs, ids = [], []
    for (h,) in _blocks(weight, hidden):
        z = _scaled_logits(h, weight, temperature)
        top = z.topk(min(count, len(weight)))
        log_probs.append(top.values - z.logsumexp(-1, keepdim=True))
        ids.append(top.indices)
    return torch.cat(log_probs), torch.cat(ids)


def _blocks(weight: Tensor, *tensors: Tensor) -> Any:
    size = max(1, LOGITS // len(weight))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _scaled_logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Logits of a block in float32, divided by the temperature."""
    logits = (hidden.to(weight.dtype) @ weight.T).float()
    return logits if temperature == 1 else logits.div_(temperature)


class AnswerHead:
    """A language model's head, made to return log-probs and entropies of the answers' tokens in place of logits.

    The model calls its head within its own forward pass, when FSDP has gathered the weight.
    """

    def __init__(self, model: Any) -> None:
        head = model.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.bias is not None:
            raise UserError(
                f"segzero.shared_prompt=true needs a linear head without bias or adapter; this model's is a "
                f"{type(head).__module__}.{type(head).__name__}: set it to false, or leave the head out of LoRA"
            )
        self.linear = head
        self._score: Callable[[Tensor, Tensor], Any]
        head.forward = self._forward

    def expect(self, predicting: Tensor, labels: Tensor, temperature: float, others: Tensor | None = None) -> None:
        """Set the tokens of the next pass: which ones predict, and what; and the temperature.

        `others` [N, C] are further words whose log-probs are wanted in each place.
        """
        columns = labels[:, None] if others is None else torch.cat([labels[:, None], others], dim=1)

        def score(hidden: Tensor, weight: Tensor) -> Tensor:
            """hidden [L, dim] -> [1 + C + 1, N]: log-probs of the labels and of the others, and entropies."""
            log_probs, entropies = TokenScores.apply(hidden[predicting], weight, columns, temperature)
            return torch.cat([log_probs.T, entropies[None]])

        self._score = score

    def expect_likeliest(self, predicting: Tensor, count: int, temperature: float) -> None:
        """Ask the next pass for the likeliest words in place of that: their log-probs and ids, [N, count] each."""
        self._score = lambda hidden, weight: likeliest(hidden[predicting], weight, count, temperature)

    def _forward(self, hidden: Tensor) -> Any:
        weight = self.linear.weight
        if torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(torch.get_autocast_dtype(hidden.device.type))
        return self._score(hidden[0], weight)
