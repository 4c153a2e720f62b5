"""SAM2 in Meta's own files: architectures, and names of weights both ways between them and transformers' `Sam2Model`.

Meta's file holds the whole video model; `Sam2Model` is its image part. The rest stays beside it, for writing.

>>> architecture("sam2_hiera_s.yaml").blocks
(1, 2, 11, 2)
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig
from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig
from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
from transformers.models.sam2.processing_sam2 import Sam2Processor

from segzero.errors import UserError, one_line


@dataclass(frozen=True)
class Hiera:
    """Architecture of a SAM2, as Meta's YAML files give it."""

    width: int
    heads: int
    blocks: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...] = (8, 4, 14, 7)
    background: tuple[int, ...] = (7, 7)
    channels: int = 256
    side: int = 1024  # of the square image


RELEASED = {
    "t": Hiera(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "s": Hiera(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "b+": Hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), background=(14, 14)),
    "l": Hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}
RELEASED_NAME = re.compile(r"(?:.*/)?sam2(?:\.1)?_hiera_(t|s|b\+|l)(?:\.yaml)?")
LAYERS = ("proj_in", "layers.0", "proj_out")  # of a network with three
RENAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."),
    (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"(mlps\.\d|_head)\.layers\.(\d)\.", lambda found: f"{found[1]}.{LAYERS[int(found[2])]}."),
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
OF_IMAGES = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
POINTS, LABELS = "prompt_encoder.point_embed.weight", "sam_prompt_encoder.point_embeddings.{}.weight"
SHARED = "prompt_encoder.shared_embedding.positional_embedding"


def architecture(config: str | Path) -> Hiera:
    """The architecture of a name like `sam2.1_hiera_l.yaml`, or of a YAML file of Meta's form."""
    released = RELEASED_NAME.fullmatch(str(config))
    if released and not Path(config).is_file():
        return RELEASED[released[1]]
    try:
        model = yaml.safe_load(Path(config).read_text())["model"]
        trunk, neck = model["image_encoder"]["trunk"], model["image_encoder"]["neck"]
        usual = RELEASED["b+"]  # whose file leaves all of Hiera's own values out
        return Hiera(
            int(trunk["embed_dim"]),
            int(trunk["num_heads"]),
            tuple(map(int, trunk.get("stages", usual.blocks))),
            tuple(map(int, trunk.get("global_att_blocks", usual.global_blocks))),
            tuple(map(int, trunk.get("window_spec", usual.windows))),
            tuple(map(int, trunk.get("window_pos_embed_bkg_spatial_size", usual.background))),
            int(neck["d_model"]),
            int(model["image_size"]),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"no architecture of SAM2 in {config}: {one_line(error, 200)}; use a name like sam2_hiera_l.yaml"
        ) from None


def find_architecture(weights: dict[str, Tensor], file: Path) -> Hiera:
    """The released architecture that has weights of these shapes."""
    first = weights.get("image_encoder.trunk.patch_embed.proj.weight", torch.empty(0))
    blocks = {name.split(".")[3] for name in weights if name.startswith("image_encoder.trunk.blocks.")}
    for hiera in RELEASED.values():
        if (hiera.width, sum(hiera.blocks)) == (len(first), len(blocks)):
            return hiera
    raise UserError(f"{file} holds no released SAM2 (Hiera-T, S, B+ or L); name its YAML file")


def read_tensors(file: str | Path, part: str) -> dict[str, Tensor]:
    """The weights that a `.pt` or `.torch` file holds under a name; nothing but tensors is unpickled."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"no such checkpoint: {file}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a file can be broken in many ways, and each has its own exception
        raise UserError(f"{file} is not a file of weights: {one_line(error, 200)}") from None
    found = content.get(part) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file} holds no weights under {part!r}")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()):
        raise UserError(f"{file} holds something else than weights under {part!r}")
    return found


def check_shapes(found: dict[str, Tensor], wanted: dict[str, Tensor], file: str | Path, what: str) -> None:
    """Refuse weights that lack one of the wanted names, or have one more, or one of another shape."""
    for name in wanted:
        if name not in found:
            raise UserError(f"{file} is not {what}: it lacks {name}")
        if found[name].shape != wanted[name].shape:
            shapes = f"{list(found[name].shape)}, not {list(wanted[name].shape)}"
            raise UserError(f"{file} is not {what}: {name} is {shapes}")
        if not found[name].is_floating_point():
            raise UserError(f"{file} is not {what}: {name} is {found[name].dtype}")
    if more := sorted(found.keys() - wanted.keys()):
        raise UserError(f"{file} is not {what}: it also holds {more[0]}")


def make_sam2(hiera: Hiera, weights: dict[str, Tensor], file: str | Path) -> tuple[Sam2Model, Sam2Processor]:
    """Build the image model of Meta's weights, once their names and shapes are found to be right."""
    config = _config(hiera)
    with torch.device("meta"):
        wanted = Sam2Model(config).state_dict()
    named = {name: tensor for name, tensor in to_transformers(weights).items() if name in wanted}
    check_shapes(named, wanted, file, f"the SAM2 of that architecture (width {hiera.width}, blocks {hiera.blocks})")
    model = Sam2Model(config)
    model.load_state_dict(named)
    images = Sam2ImageProcessor(
        size={"height": hiera.side, "width": hiera.side},
        mask_size={"height": hiera.side // 4, "width": hiera.side // 4},
    )
    return model.eval(), Sam2Processor(images)


def to_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's weights of the image model by the names of `Sam2Model`; those of the memory are left out."""
    labels = [weights[name] for i in range(4) if (name := LABELS.format(i)) in weights]
    named = {POINTS: torch.cat(labels)} if len(labels) == 4 and all(one.ndim == 2 for one in labels) else {}
    for name, tensor in weights.items():
        if name.startswith(OF_IMAGES) and ".point_embeddings." not in name:
            named[_renamed(name)] = tensor
    if SHARED in named:
        named["shared_image_embedding.positional_embedding"] = named[SHARED]
    return named


def to_meta(model: Sam2Model, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole SAM2 in Meta's names: the image model's weights, and those of the memory as in `base`."""
    ours = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    rows = {LABELS.format(i): row[None].clone() for i, row in enumerate(ours[POINTS])}
    return {name: rows[name] if name in rows else ours.get(_renamed(name), tensor) for name, tensor in base.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _config(hiera: Hiera) -> Sam2Config:
    widths = [hiera.width * 2**stage for stage in range(len(hiera.blocks))]
    trunk = Sam2HieraDetConfig(
        hidden_size=hiera.width,
        num_attention_heads=hiera.heads,
        image_size=[hiera.side, hiera.side],
        blocks_per_stage=list(hiera.blocks),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[hiera.heads * 2**stage for stage in range(len(hiera.blocks))],
        window_size_per_stage=list(hiera.windows),
        global_attention_blocks=list(hiera.global_blocks),
        window_positional_embedding_background_size=list(hiera.background),
    )
    vision = Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[hiera.side // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=hiera.channels,
    )
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=hiera.channels, image_size=hiera.side),
        mask_decoder_config=Sam2MaskDecoderConfig(hidden_size=hiera.channels),
    )
