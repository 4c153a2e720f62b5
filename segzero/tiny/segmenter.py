"""The tiny SAM2: transformers' own `Sam2Model` and `Sam2Processor`, 0.8 million parameters, images of 192 pixels.

It differs from the large models in the numbers of its configuration and in one switch, which is off:
`dynamic_multimask_via_stability` takes the soft edges of a coarse mask grid for instability, and would replace good
masks by worse ones.

>>> model, processor = build(seed=0)
>>> model.num_parameters() < 1_000_000
True
"""

import torch
from torch import nn
from transformers import Sam2Config, Sam2Model, Sam2Processor
from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

SIDE = 192  # side of the image as the model sees it, in pixels
GRID = 48  # side of the masks it predicts and of its finest features
WIDTHS = [24, 48, 96, 192]  # widths of the four stages of the backbone
BLOCKS = [1, 1, 2, 1]  # blocks of these stages
HIDDEN = 64  # width of everything after the backbone


def build(seed: int) -> tuple[Sam2Model, Sam2Processor]:
    """Make an untrained model and its processor."""
    torch.manual_seed(seed)
    model = Sam2Model(_config()).float()
    # SAM2's own initialization (0.02 everywhere) suits wide layers; with narrow ones, training sticks at empty masks.
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    images = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}, mask_size={"height": GRID, "width": GRID})
    return model, Sam2Processor(images)


def _config() -> Sam2Config:
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "hidden_size": WIDTHS[0],
                "num_attention_heads": 1,
                "image_size": [SIDE, SIDE],
                "patch_kernel_size": [7, 7],
                "patch_stride": [SIDE // GRID, SIDE // GRID],
                "patch_padding": [3, 3],
                "blocks_per_stage": BLOCKS,
                "embed_dim_per_stage": WIDTHS,
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [8, 4, 6, 6],
                "window_positional_embedding_background_size": [8, 8],
                "global_attention_blocks": [sum(BLOCKS[:3]) - 1],
                "mlp_ratio": 3.0,
            },
            "backbone_channel_list": WIDTHS[::-1],
            "backbone_feature_sizes": [[GRID, GRID], [GRID // 2, GRID // 2], [GRID // 4, GRID // 4]],
            "fpn_hidden_size": HIDDEN,
        },
        prompt_encoder_config={"hidden_size": HIDDEN, "image_size": SIDE, "patch_size": 4 * SIDE // GRID},
        mask_decoder_config={
            "hidden_size": HIDDEN,
            "mlp_dim": 4 * HIDDEN,
            "num_attention_heads": 4,
            "attention_downsample_rate": 1,
            "iou_head_hidden_dim": HIDDEN,
            "dynamic_multimask_via_stability": False,
        },
    )
