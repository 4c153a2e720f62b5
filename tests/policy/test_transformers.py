"""The transformers backend on random checkpoints of every family."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from segzero.errors import UserError
from segzero.frames import FAMILY_FRAMES
from segzero.policy import Request, Sampling, load_policy
from segzero.prompts import render_messages

SIZES = [(90, 70), (640, 480), (60, 300)]
QUESTIONS = ["the red circle", "everything that could be thrown", "a"]
SHORT = Sampling(max_tokens=12)


@pytest.fixture(scope="module", params=list(FAMILY_FRAMES))
def policy(request, checkpoints):
    policy = load_policy(checkpoints[request.param], "transformers", device="cpu")
    yield policy
    policy.close()


@pytest.fixture
def requests(policy, ask):
    return [ask(policy, question, size) for question, size in zip(QUESTIONS, SIZES, strict=True)]


def test_fitted_images_are_left_as_they_are(policy, requests):
    for request in requests:
        inputs = policy.processor(text=["<|image_pad|>"], images=[request.image], return_tensors="pt")
        patch = policy.checkpoint.factor // 2
        rows, columns = request.image.height // patch, request.image.width // patch
        assert inputs["image_grid_thw"].tolist() == [[1, rows, columns]]
        tokens = inputs["input_ids"][0].tolist().count(policy.processor.image_token_id)
        assert tokens == policy.checkpoint.image_tokens(request.image.size)


def test_greedy_is_plain_argmax_whatever_the_batch(policy, requests):
    together = policy.generate(requests, SHORT)
    policy.batch_size = 2
    assert policy.generate(requests, SHORT) == together
    policy.batch_size = 64
    decode = policy.processor.tokenizer.decode
    assert [decode(argmax_tokens(policy, r, 12), skip_special_tokens=True) for r in requests] == [
        r.text for r in together
    ]
    assert all(reply.tokens == 12 and reply.truncated for reply in together)


def test_a_request_may_have_two_images(policy, requests):
    """Mixed with requests of one; the second image, of another size, changes what is read."""
    image, *others = [request.image for request in requests]
    messages = render_messages("the red circle", policy.prompt, notes="The second image shows it, enlarged.", images=2)
    mixed = [requests[1], *[Request(image, messages, extra_images=(other,)) for other in others]]
    replies = policy.generate(mixed, SHORT)
    decode = policy.processor.tokenizer.decode
    assert [r.text for r in replies] == [
        decode(argmax_tokens(policy, request, 12), skip_special_tokens=True) for request in mixed
    ]
    assert replies[1] != replies[2]


def argmax_tokens(policy, request: Request, count: int) -> list[int]:
    """Greedy decoding by whole forward passes, without a cache or the library's generate."""
    text = policy.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
    inputs = policy.processor(text=[text], images=[request.images], return_tensors="pt")
    start = inputs["input_ids"].shape[1]
    for _ in range(count):
        with torch.inference_mode():
            new = policy.model(**inputs, use_cache=False).logits[:, -1:].argmax(-1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(new)], 1)
    return inputs["input_ids"][0, start:].tolist()


def test_draws_differ_and_repeat(policy, requests):
    drawn = policy.generate(requests[:1] * 4, Sampling(1.0, 12, seed=3))
    assert len({reply.text for reply in drawn}) == 4
    policy.batch_size = 1
    assert policy.generate(requests[:1] * 4, Sampling(1.0, 12, seed=3)) == drawn
    policy.batch_size = 64
    assert policy.generate(requests[:1] * 4, Sampling(1.0, 12, seed=4)) != drawn


def test_a_low_temperature_is_nearly_greedy(policy, requests):
    assert policy.generate(requests, Sampling(1e-4, 12)) == policy.generate(requests, SHORT)


def test_nothing_in_nothing_out(policy):
    assert policy.generate([]) == []


# What follows does not depend on the family.


@pytest.fixture(scope="module")
def qwen25(checkpoints):
    return load_policy(checkpoints["qwen2_5_vl"], "transformers", device="cpu")


def test_an_answer_ends_at_the_end_token(checkpoints, tmp_path, qwen25, ask):
    questions = ["the red circle", "another question", "x", "the last of all"]
    rows = [argmax_tokens(qwen25, ask(qwen25, question), 6) for question in questions]
    stop = next(token for row in rows for token in row if not all(token in other for other in rows))
    folder = shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "ending")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [stop]}))
    ending = load_policy(folder, "transformers", device="cpu")
    replies = ending.generate([ask(ending, question) for question in questions], Sampling(max_tokens=6))
    expected = [(row.index(stop) + 1, False) if stop in row else (6, True) for row in rows]
    assert [(reply.tokens, reply.truncated) for reply in replies] == expected
    assert {False, True} == {reply.truncated for reply in replies}


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_have_ended_do_not_change_the_others(pipeline, held_out_requests, temperature):
    """The shipped policy's answers end at many different steps, in images of one size and questions of many."""
    policy, sampling = pipeline.policy, Sampling(temperature, 200)
    together = policy.generate(held_out_requests, sampling)
    assert len({reply.tokens for reply in together}) > 4
    for size in (1, 5):
        policy.batch_size = size
        in_parts = policy.generate(held_out_requests, sampling)
        policy.batch_size = 64
        assert in_parts == together


@pytest.mark.slow
def test_greedy_text_is_that_of_the_librarys_generate(pipeline, held_out_requests):
    policy = pipeline.policy
    for request, reply in zip(held_out_requests, policy.generate(held_out_requests), strict=True):
        text = policy.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        inputs = policy.processor(text=[text], images=[request.image], return_tensors="pt")
        written = policy.model.generate(**inputs, do_sample=False, max_new_tokens=1024)
        [expected] = policy.processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert reply.text == expected


def test_an_image_that_would_be_resized_again_is_refused(qwen25):
    picture = Image.new("RGB", (90, 70))
    with pytest.raises(UserError, match="an image of 90x70 would be resized again"):
        qwen25.generate([Request(picture, render_messages("it"))])


def test_a_prompt_without_room_for_an_answer_is_refused(qwen25, ask):
    with pytest.raises(UserError, match="leaves no room for an answer within 4096"):
        qwen25.generate([ask(qwen25, "the mug " * 500)])


def test_an_answer_stays_within_the_models_length(qwen25, ask):
    used = 4090 - qwen25.checkpoint.image_tokens(ask(qwen25).image.size)
    empty = len(qwen25.processor.tokenizer(render(qwen25, "a")).input_ids)
    [reply] = qwen25.generate([ask(qwen25, "a" * (used - empty + 2))], Sampling(max_tokens=50))
    assert (reply.tokens, reply.truncated) == (6, True)


def render(policy, question: str) -> str:
    messages = render_messages(question, policy.prompt)
    return policy.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_two_placeholders_for_one_image_are_refused(qwen25, ask):
    request = ask(qwen25)
    twice = [request.messages[0], *request.messages[1:] * 2]
    with pytest.raises(UserError, match=r"a request has one image; .* place 2"):
        qwen25.generate([Request(request.image, twice)])


def test_every_image_needs_a_placeholder_and_room(qwen25, ask):
    request = ask(qwen25)
    with pytest.raises(UserError, match=r"a request has 2 images; .* place 1"):
        qwen25.generate([Request(request.image, request.messages, extra_images=(request.image,))])
    both = render_messages("the mug", qwen25.prompt, images=2)
    with pytest.raises(UserError, match="an image of 31x17 would be resized again"):
        qwen25.generate([Request(request.image, both, extra_images=(Image.new("RGB", (31, 17)),))])
    empty = len(qwen25.processor.tokenizer(render(qwen25, "a")).input_ids)
    long = "a" * (4090 - qwen25.checkpoint.image_tokens(request.image.size) - empty)
    assert qwen25.generate([replace(request, messages=render_messages(long, qwen25.prompt))], Sampling(max_tokens=1))
    with pytest.raises(UserError, match=r"of them the images'\) leaves no room"):
        both = render_messages(long, qwen25.prompt, images=2)
        qwen25.generate([Request(request.image, both, extra_images=(request.image,))])


def test_too_little_memory_halves_the_batches(qwen25, ask, monkeypatch):
    write, sizes = qwen25._generate, []

    def with_room_for_two(texts, *rest):
        sizes.append(len(texts))
        if len(texts) > 2:
            raise torch.cuda.OutOfMemoryError
        return write(texts, *rest)

    requests = [ask(qwen25, question) for question in "abcdefg"]
    expected = qwen25.generate(requests, SHORT)
    monkeypatch.setattr(qwen25, "_generate", with_room_for_two)
    assert qwen25.generate(requests, SHORT) == expected
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_too_little_memory_for_one_is_one_line(qwen25, ask, monkeypatch):
    def without_room(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(qwen25, "_generate", without_room)
    with pytest.raises(UserError, match="needs more memory than cpu has"):
        qwen25.generate([ask(qwen25)])


def test_cuda_without_cuda_is_one_line(checkpoints, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="PyTorch sees no CUDA here"):
        load_policy(checkpoints["qwen2_vl"], "transformers", device="cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("family", list(FAMILY_FRAMES))
def test_cuda_runs_in_bfloat16(checkpoints, family, ask):
    policy = load_policy(checkpoints[family], "transformers", device="cuda")
    assert policy.model.dtype == torch.bfloat16
    assert [r.tokens for r in policy.generate([ask(policy, q) for q in QUESTIONS], SHORT)] == [12, 12, 12]
