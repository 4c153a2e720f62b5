"""Random weights of Meta's Hiera-T, and the same weights as transformers names them."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers import Sam2Config, Sam2Model, Sam2Processor
from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

# In a process of its own, as importing sam2 sets up hydra globally.
MAKE = """
import sys, torch
from sam2.build_sam import build_sam2
torch.manual_seed(0)
model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
torch.save({"model": model.state_dict()}, sys.argv[1])
"""

LAYERS = ("proj_in", "layers.0", "proj_out")  # of an MLP with three
RENAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."),
    (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"(mlps\.\d|_head)\.layers\.(\d)\.", lambda m: f"{m[1]}.{LAYERS[int(m[2])]}."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
)


def make_meta(folder: Path) -> Path:
    """A `.pt` file as Meta publishes them."""
    file = folder / "sam2.1_hiera_tiny.pt"
    subprocess.run([sys.executable, "-c", MAKE, str(file)], check=True, cwd=folder)
    return file


def convert(file: Path, folder: Path) -> Path:
    """The same weights as a folder that `Sam2Model.from_pretrained` reads."""
    weights = torch.load(file, weights_only=True)["model"]
    labels = [weights.pop(f"sam_prompt_encoder.point_embeddings.{i}.weight") for i in range(4)]
    named = {"prompt_encoder.point_embed.weight": torch.cat(labels)}
    for name, value in weights.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = value
    named["shared_image_embedding.positional_embedding"] = named["prompt_encoder.shared_embedding.positional_embedding"]
    model = Sam2Model(Sam2Config())
    wanted = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in named.items() if name in wanted})  # the rest is for video
    model.save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor()).save_pretrained(folder)
    return folder
