"""The tiny policy's tokenizer: Qwen's special tokens, one token per digit, whole sentences of the prompts as tokens.

The sentences of the prompts never change, so each is a single token and a whole prompt has about twenty. Answers are
split at their JSON syntax. Any other text is encoded in smaller pieces, down to bytes, without loss.

>>> tokenizer = make_tokenizer()
>>> tokenizer.decode(tokenizer("the red mug, 42 €").input_ids)
'the red mug, 42 €'
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from segzero.answer import Answer, Instance, render_answer
from segzero.prompts import PROMPTS, SYSTEM
from segzero.tiny.questions import COLUMNS, EXTREMES, PLURAL, RELATIONS, ROWS, SIZE_WORDS
from segzero.tiny.scenes import COLOURS, KINDS, RADII

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Pieces of a later round's prompt, and words that only such rounds use.
DIALOGUE_PIECES = (
    *("Earlier in this dialogue:", "\nround ", "[REF:", "<box>[", "]</box>", " <point>[", "]</point>"),
    *("others of the same", " one of", "emblem", "whole", "its", "kind", "size", "colour"),
)

# The constant pieces of a rendered answer, then digits one by one, then words with the space before them.
_PIECES = (
    r'<think>|</think><answer>\[\{"bbox_2d": \[|</think><answer>\[\]</answer>|\], "point_2d": \[|\]\}, \{"bbox_2d": \['
    r"|\]\}\]</answer>|\d| ?[a-z]+|[^\da-z\s]+|\s"
)

# The layout of Qwen2.5-VL: a default system turn if none is given, images and texts in their order.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the words of questions and answers, then add the prompts' sentences as whole tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    pieces = [*template_sentences(), *DIALOGUE_PIECES]
    tokenizer.add_tokens([AddedToken(s, special=False, normalized=False) for s in pieces])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def template_sentences() -> list[str]:
    """List every constant sentence of the prompts once."""
    sentences = [SYSTEM]
    for prompt in PROMPTS.values():
        sentences += [prompt.before, *prompt.after]
    return list(dict.fromkeys(sentences))


def _corpus() -> list[str]:
    """Every word of questions and answers, at the start of a text and after a space, and the syntax of answers."""
    phrases = [*RADII, *COLOURS, *KINDS, *PLURAL.values(), *EXTREMES, *RELATIONS, *SIZE_WORDS.values(), *ROWS, *COLUMNS]
    phrases += ["center", "all shapes", "the shape in that is different from the others", "are it no"]
    phrases += ["system", "user", "assistant"]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    thing = Instance((1, 2, 3, 4), ((2, 3),))
    answers = [render_answer(Answer("no; it, is", (thing,) * count)) for count in range(3)]
    return (words + [f" {word}" for word in words] + answers) * 10
