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


def _text(width, layers, heads, kv_heads, mlp, vocabulary, positions, **more):
    """The text part of a configuration."""
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        **more,
    }


DEEPSTACK = {
    "depth": 24,
    "num_heads": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "out_hidden_size": 2560,
    "deepstack_visual_indexes": [5, 11, 17],
}
QWEN2_2B = _text(1536, 28, 12, 2, 8960, 151936, 32768)
QWEN25_3B = _text(2048, 36, 16, 2, 11008, 151936, 128000)
QWEN25_7B = _text(3584, 28, 28, 4, 18944, 152064, 128000)
QWEN3_4B = _text(2560, 36, 32, 8, 9728, 151936, 262144, head_dim=128)

# model group -> config, text, vision, patch size, parameters in millions as the released checkpoint's files have them
RELEASED = {
    "qwen2_vl_2b": (Qwen2VLConfig, QWEN2_2B, {**EYE, "embed_dim": 1280, "hidden_size": 1536}, 14, 2209),
    "qwen2_5_vl_3b": (Qwen2_5_VLConfig, QWEN25_3B, {**EYE25, "out_hidden_size": 2048}, 14, 3755),
    "qwen2_5_vl_7b": (Qwen2_5_VLConfig, QWEN25_7B, {**EYE25, "out_hidden_size": 3584}, 14, 8292),
    "qwen3_vl_4b": (Qwen3VLConfig, QWEN3_4B, DEEPSTACK, 16, 4438),
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
