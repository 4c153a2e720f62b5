"""The generation loop: its cache against the library's own, text that grows by whole characters, rows that end."""

import itertools
from dataclasses import replace

import torch
from transformers.cache_utils import DynamicLayer

from segzero.policy import Sampling
from segzero.policy.transformers import GROWTH, IncrementalDetokenizer, PreallocatedLayer, generate_tokens


def test_the_cache_holds_what_the_librarys_holds():
    ours, theirs = PreallocatedLayer(), DynamicLayer()
    for tokens in [70, 1, 1, GROWTH - 3, 1, 1, GROWTH + 5, 1]:
        new = torch.randn(4, 2, tokens, 8), torch.randn(4, 2, tokens, 8)
        for got, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(got, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_kept_rows_go_on_where_they_were():
    layer, rows = PreallocatedLayer(), torch.tensor([3, 1])
    old, new = torch.randn(4, 2, 70, 8), torch.randn(2, 2, 1, 8)
    layer.update(old, -old)
    layer.keep(rows)
    keys, values = layer.update(new, -new)
    assert torch.equal(keys, torch.cat([old[rows], new], 2)) and torch.equal(values, -keys)


def test_repeated_rows_go_on_each_by_itself():
    layer, rows = PreallocatedLayer(), [1, 0, 1]
    old, new = torch.randn(2, 2, 70, 8), torch.randn(3, 2, 1, 8)
    layer.update(old, -old)
    layer.repeat(rows)
    keys, values = layer.update(new, -new)
    assert torch.equal(keys, torch.cat([old[rows], new], 2)) and torch.equal(values, -keys)


def test_answers_to_one_prompt_are_those_to_each_by_itself(pipeline, held_out_requests, monkeypatch):
    """Sampled answers to the same request; its prompt is computed once for all of them."""
    first, second = held_out_requests[:2]
    mixed = [replace(first, seed=5), second, replace(first, seed=6), replace(second, seed=1), replace(first, seed=7)]
    sampling = Sampling(temperature=1.0, max_tokens=60)
    alone = [pipeline.policy.generate([replace(r, seed=1 if r.seed is None else r.seed)], sampling)[0] for r in mixed]
    rows = []
    forward = type(pipeline.policy.model).forward

    def counted(self, *args, **options):
        rows.append(options["input_ids"].shape)
        return forward(self, *args, **options)

    monkeypatch.setattr(type(pipeline.policy.model), "forward", counted)
    together = pipeline.policy.generate(mixed, sampling)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len({together[place].text for place in (0, 2, 4)}) > 1
    assert rows[0][0] == 2 and rows[0][1] > 1 and rows[1] == (5, 1)


def test_only_whole_characters_are_emitted_and_all_of_them():
    text = "a é 猫 🦊 b"
    texts: list[str] = []
    detokenizer = IncrementalDetokenizer(lambda tokens: bytes(tokens).decode(errors="replace"), texts.append)
    for byte in text.encode():
        detokenizer.add(byte)
    assert texts == [text[: n + 1] for n in range(len(text))]


def test_a_space_that_depends_on_the_token_before_is_kept():
    """Sentencepiece decoders drop the space before the first word alone."""
    texts: list[str] = []
    detokenizer = IncrementalDetokenizer(lambda tokens: " ".join("abc"[token] for token in tokens), texts.append)
    for token in (0, 1, 2):
        detokenizer.add(token)
    assert texts == ["a", "a b", "a b c"]


def test_tokens_without_text_call_nothing():
    texts: list[str] = []
    detokenizer = IncrementalDetokenizer(lambda tokens: "".join("ab "[t] for t in tokens if t < 2), texts.append)
    for token in (2, 0, 2, 1):
        detokenizer.add(token)
    assert texts == ["a", "ab"]


def test_each_token_is_decoded_a_few_times_only():
    decoded = 0

    def decode(tokens):
        nonlocal decoded
        decoded += len(tokens)
        return "x" * len(tokens)

    detokenizer = IncrementalDetokenizer(decode, lambda text: None)
    for token in range(1000):
        detokenizer.add(token)
    assert decoded <= 3 * 1000


def test_the_shipped_tokenizers_text_is_emitted_whole(pipeline):
    tokenizer = pipeline.policy.processor.tokenizer
    text = '<think>A mug, "très" 🦊.</think><answer>[{"bbox_2d": [1, 20, 300, 4000]}]</answer>'
    texts: list[str] = []
    detokenizer = IncrementalDetokenizer(pipeline.policy._decode, texts.append)
    for token in tokenizer(text)["input_ids"]:
        detokenizer.add(token)
    assert texts[-1] == pipeline.policy._decode(tokenizer(text)["input_ids"])
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_rows_end_at_their_stop_token_or_the_limit_and_each_token_is_reported(pipeline, held_out_requests):
    """Greedy answers of the shipped policy, whose batch loses rows on the way."""
    policy = pipeline.policy
    some = held_out_requests[:4]
    texts = [policy.processor.apply_chat_template(r.messages, add_generation_prompt=True, tokenize=False) for r in some]
    images = [request.images for request in some]
    inputs = policy.processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left")
    seen: dict[int, list[int]] = {row: [] for row in range(len(some))}
    with torch.inference_mode():
        answers = generate_tokens(
            policy.model, inputs, policy.stops, 1000, lambda logits, rows: logits.argmax(-1),
            lambda row, token: seen[row].append(token),
        )  # fmt: skip
        [cut] = generate_tokens(
            policy.model, policy.processor(text=texts[:1], images=images[:1], return_tensors="pt"), policy.stops, 5,
            lambda logits, rows: logits.argmax(-1),
        )  # fmt: skip
    assert answers == list(seen.values())
    assert all(answer[-1] in policy.stops and not set(answer[:-1]) & set(policy.stops) for answer in answers)
    assert len({len(answer) for answer in answers}) > 1
    assert cut == answers[0][:5]
