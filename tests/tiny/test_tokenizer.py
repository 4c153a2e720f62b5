"""The tiny policy's tokenizer: prompts and answers are short, and every text is decoded as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero.prompts import PROMPTS, render_messages, render_text
from segzero.tiny.questions import questions_of
from segzero.tiny.scenes import make_scene
from segzero.tiny.tokenizer import SPECIAL_TOKENS, make_tokenizer, template_sentences
from segzero.tiny.train_policy import question_answer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_the_tokenizer_is_the_same_every_time(tokenizer):
    assert make_tokenizer().get_vocab() == tokenizer.get_vocab()


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize(
    "text", ["Das grüne Boot, 42 €", "猫を探して", "a\tb\r\n  c", "<think>1.5</think> {}", "🦆", " "]
)
def test_text_unlike_the_prompts_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_template_sentences_are_single_tokens(tokenizer):
    for sentence in template_sentences():
        assert len(tokenizer(sentence, add_special_tokens=False).input_ids) == 1, sentence


def test_special_tokens_are_those_of_qwen(tokenizer):
    for token in SPECIAL_TOKENS:
        [number] = tokenizer(token, add_special_tokens=False).input_ids
        assert tokenizer.decode([number], skip_special_tokens=True) == ""


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_and_answers_are_short(tokenizer, prompt):
    assert len(tokenizer(render_text("the red circle", prompt)).input_ids) <= 11


def test_digits_stand_alone_and_answers_come_back(tokenizer):
    rng = np.random.default_rng(2)
    for question in questions_of(make_scene(rng), rng):
        answer = question_answer(question, 224).answer
        pieces = [tokenizer.decode([number]) for number in tokenizer(answer).input_ids]
        assert "".join(pieces) == answer
        assert len(pieces) <= 10 + 27 * max(len(question.targets), 1)
        assert all(len(piece) == 1 or "_2d" in piece for piece in pieces if any(c.isdigit() for c in piece))


def test_chat_template_renders_as_that_of_qwen(tokenizer):
    def render(messages):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    image = "<|vision_start|><|image_pad|><|vision_end|>"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    asked = f"<|im_start|>user\n{image}{render_text('the mug')}<|im_end|>\n<|im_start|>assistant\n"
    assert render(render_messages("the mug")) == system + asked
    assert render(render_messages("the mug")[1:]) == system + asked  # the default system turn
    assert render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    rounds = [*render_messages("the mug"), {"role": "assistant", "content": "[]"}, {"role": "user", "content": "sure"}]
    assert render(rounds).endswith(
        "<|im_end|>\n<|im_start|>assistant\n[]<|im_end|>\n<|im_start|>user\nsure<|im_end|>\n<|im_start|>assistant\n"
    )
