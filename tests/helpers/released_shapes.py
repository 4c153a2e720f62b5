"""Checkpoint folders with the shapes of the released models and no weights: all that a plan reads of them."""

from pathlib import Path

from transformers import (
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
)

from segzero import shipped

EYE = {"depth": 32, "num_heads": 16}
EYE25 = {**EYE, "hidden_size": 1280, "intermediate_size": 3420}

# model group -> config, patch size, parameters in millions as the released checkpoint's files have them
RELEASED = {
    "qwen2_vl_2b": (
        Qwen2VLConfig,
        {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2}
        | {"intermediate_size": 8960, "vocab_size": 151936, "max_position_embeddings": 32768},
        {**EYE, "embed_dim": 1280, "hidden_size": 1536},
        14,
        2209,
    ),
    "qwen2_5_vl_3b": (
        Qwen2_5_VLConfig,
        {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
        | {"intermediate_size": 11008, "vocab_size": 151936, "max_position_embeddings": 128000},
        {**EYE25, "out_hidden_size": 2048},
        14,
        3755,
    ),
    "qwen2_5_vl_7b": (
        Qwen2_5_VLConfig,
        {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
        | {"intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 128000},
        {**EYE25, "out_hidden_size": 3584},
        14,
        8292,
    ),
    "qwen3_vl_4b": (
        Qwen3VLConfig,
        {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936, "max_position_embeddings": 262144},
        {"depth": 24, "num_heads": 16, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560}
        | {"deepstack_visual_indexes": [5, 11, 17]},
        16,
        4438,
    ),
}


def write_released(name: str, folder: Path) -> Path:
    """A folder that holds the configuration and a processor; the tokenizer is the shipped policy's."""
    kind, text, vision, patch, _ = RELEASED[name]
    kind(text_config=text, vision_config=vision, tie_word_embeddings=name != "qwen2_5_vl_7b").save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(shipped.policy_path())
    limits = {"shortest_edge": 56 * 56, "longest_edge": 16384 * 28 * 28}
    processor.image_processor = Qwen2VLImageProcessor(
        size=limits, patch_size=patch, merge_size=2, temporal_patch_size=2
    )
    processor.save_pretrained(folder)
    return folder
