"""A whole SAM3 with random weights, small and built on the spot: the library's own classes, saved as released."""

from pathlib import Path

SIDE = 112  # pixels of the square image
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def build_sam3(folder: Path) -> None:
    """Save model, tokenizer and processor in the layout of facebook/sam3."""
    import torch
    from safetensors.torch import save_file
    from transformers import Sam3ImageProcessor, Sam3Processor, Sam3VideoConfig, Sam3VideoModel

    attention = {"hidden_size": 32, "num_attention_heads": 2}
    layer = attention | {"intermediate_size": 64, "dropout": 0.0}
    vision = {
        "backbone_config": attention
        | {
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "image_size": SIDE,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    text = attention | {"vocab_size": 2 * len(LETTERS) + 2, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"max_position_embeddings": 32, "projection_dim": 16, "hidden_act": "gelu"}
    text |= {"bos_token_id": 2 * len(LETTERS), "eos_token_id": 2 * len(LETTERS) + 1}
    config = Sam3VideoConfig(
        detector_config={
            "vision_config": vision,
            "text_config": text,
            "geometry_encoder_config": layer | {"num_layers": 1},
            "detr_encoder_config": layer | {"num_layers": 2},
            "detr_decoder_config": layer | {"num_layers": 2, "num_queries": 12},
            "mask_decoder_config": attention,
        },
        tracker_config={
            "image_size": SIDE,  # it sets those of its parts
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE, "patch_size": 14},
            "mask_decoder_config": attention | {"mlp_dim": 64, "iou_head_hidden_dim": 32},
            "memory_attention_hidden_size": 32,
            "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 32,
            "memory_attention_rope_feat_sizes": [8, 8],
            "memory_encoder_hidden_size": 32,
            "memory_encoder_output_channels": 16,
        },
        low_res_mask_size=32,
    )
    torch.manual_seed(3)
    model = Sam3VideoModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:  # with the library's small weights all phrases and images look the same
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5 * 1.5)
    config.architectures = ["Sam3VideoModel"]
    config.save_pretrained(folder)
    # `save_pretrained` would write the tracker's names with a doubled prefix, unlike the released file.
    save_file(dict(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    Sam3Processor(
        image_processor=Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer=_letters()
    ).save_pretrained(folder)


def _letters():
    """CLIP's tokenizer with a vocabulary of letters."""
    from transformers import CLIPTokenizer

    words = [letter + end for end in ("", "</w>") for letter in LETTERS] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
