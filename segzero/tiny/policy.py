"""The tiny policy: a Qwen2.5-VL of 0.77 M parameters that sees 112 x 112 pixels in 49 tokens.

It differs from the large models in sizes alone; config, processor, chat template and weights are of the same kind.
"""

import torch
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from segzero.frames import Frame, native
from segzero.tiny.tokenizer import make_tokenizer

PATCH, MERGE = 8, 2
SIDE = 112  # side of a square image as the model sees it, in pixels
CELLS = SIDE // (PATCH * MERGE)  # image tokens along each side
MIN_PIXELS, MAX_PIXELS = 64 * 64, SIDE * SIDE
FRAME: Frame = native(MIN_PIXELS, MAX_PIXELS, PATCH * MERGE)


def make_processor(tokenizer: PreTrainedTokenizerFast | None = None) -> Qwen2_5_VLProcessor:
    """Make the processor of a checkpoint: tokenizer, chat template and image processor."""
    tokenizer = tokenizer or make_tokenizer()
    limits = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}  # Qwen's names for pixel counts
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, **sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=limits, **sizes),
        chat_template=tokenizer.chat_template,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make an untrained model in float32.

    Its linear layers have PyTorch's default initialization: transformers' standard deviation of 0.02 is meant for wide
    layers, and a narrow model learns several times slower with it.
    """
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer)).float()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and module is not model.lm_head:
            module.reset_parameters()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    token = tokenizer.convert_tokens_to_ids
    padded_vocabulary = len(tokenizer) + -len(tokenizer) % 64
    depth = 4
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": padded_vocabulary,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "type": "default",
                "mrope_section": [4, 6, 6],  # time, height, width; together half of a head
                "rope_theta": 10000.0,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": depth,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 96,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": SIDE,
            "fullatt_block_indexes": list(range(depth)),  # an image is one window
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
