"""Vision towers by family: an image's features for the language model, and the grid of patches behind them.

Qwen's towers keep the patches of one token together, and Qwen2.5-VL's also those of a window; InternVL's has rows of
patches behind a first token that stands for the whole image, and sees one tile.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

Grid = tuple[int, int]  # rows and columns


class Tower(Protocol):
    """A family's way of seeing: `merge` patches along each side of a token, `patch` pixels along each side of one."""

    merge: int
    patch: int
    width: int  # of a patch's features

    def see(self, images: Sequence[Image.Image]) -> list[tuple[Any, Grid]]:
        """Features of each image as the model's own get_image_features returns them, and the grid of its tokens."""
        ...

    def patches(self, features: Any, grid: Grid) -> Tensor:
        """The last layer's features of each patch [rows, columns, width], as they lie in the image."""
        ...

    def placeholder(self, count: int) -> str:
        """Text that stands for an image of so many tokens."""
        ...

    def join(self, several: Sequence[Any]) -> Any:
        """Join the features of images into what get_image_features returns for all of them at once."""
        ...

    def inputs(self, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Arguments of the model that say which shape images have."""
        ...

    def positions(self, before: Sequence[int], grid: Grid, count: int) -> Tensor:
        """Positions int64 [..., count] of tokens, of which those in `before` end with an image's."""
        ...


class QwenTower:
    """Tower of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, for images of any shape."""

    def __init__(self, net: Any, processor: Any) -> None:
        self.net, self.processor = net, processor
        self.visual, config = net.model.visual, net.config.vision_config
        self.merge, self.patch = config.spatial_merge_size, config.patch_size
        self.width: int = getattr(config, "embed_dim", config.hidden_size)  # of Qwen2-VL's two, the patches' one

    def see(self, images: Sequence[Image.Image]) -> list[tuple[Any, Grid]]:
        """Features of each image, and the grid of its tokens."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        place, shapes = self.net.device, inputs["image_grid_thw"]
        pixels = inputs["pixel_values"].to(place, self.net.dtype)
        features = self.net.model.get_image_features(pixels, shapes.to(place))
        grids = [(rows, columns) for rows, columns in (shapes[:, 1:] // self.merge).tolist()]
        return list(zip(self._apart(features, grids), grids, strict=True))

    def _apart(self, features: Any, grids: Sequence[Grid]) -> list[Any]:
        """The features of each image out of those of several, in memory of their own where they are kept."""
        tokens = [rows * columns for rows, columns in grids]
        patches = features.last_hidden_state.split([count * self.merge**2 for count in tokens])
        levels = [level.split(tokens) for level in getattr(features, "deepstack_features", None) or ()]
        parts = []
        for place, pooled in enumerate(features.pooler_output):
            one = type(features)(**features)
            one.pooler_output, one.last_hidden_state = (pooled.clone(),), patches[place]
            if levels:
                one.deepstack_features = [level[place].clone() for level in levels]
            parts.append(one)
        return parts

    def patches(self, features: Any, grid: Grid) -> Tensor:
        """The last layer's features of each patch [rows, columns, width]: windows undone, then tokens."""
        tokens = features.last_hidden_state.unflatten(0, (-1, self.merge**2))
        if hasattr(self.visual, "window_size"):
            shape = torch.tensor([[1, grid[0] * self.merge, grid[1] * self.merge]], device=tokens.device)
            sizes = {"window_size": self.visual.window_size, "patch_size": self.patch}
            order, _ = get_vision_window_index(shape, spatial_merge_size=self.merge, **sizes)
            tokens = tokens[order.argsort()]
        cells = tokens.reshape(*grid, self.merge, self.merge, -1)
        return cells.transpose(1, 2).reshape(grid[0] * self.merge, grid[1] * self.merge, -1)

    def placeholder(self, count: int) -> str:
        """Text that stands for an image; the template has the marks around it."""
        return self.processor.image_token * count

    def join(self, several: Sequence[Any]) -> Any:
        """Join the features of images, those of Qwen3-VL's inner layers too."""
        joined = type(several[0])(**several[0])
        joined.pooler_output = tuple(tensor for each in several for tensor in each.pooler_output)
        if getattr(several[0], "deepstack_features", None):
            levels = zip(*(each.deepstack_features for each in several), strict=True)
            joined.deepstack_features = [torch.cat(level) for level in levels]
        return joined

    def inputs(self, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Grids of images in patches."""
        return {"image_grid_thw": self._shapes(grids).to(self.net.device)}

    def positions(self, before: Sequence[int], grid: Grid, count: int) -> Tensor:
        """Positions int64 [4, count]: plain, then time, row and column as mRoPE counts them."""
        tokens = torch.tensor([before])
        kinds = (tokens == self.net.config.image_token_id).int()
        mrope = self.net.model.get_rope_index(tokens, mm_token_type_ids=kinds, image_grid_thw=self._shapes([grid]))[0]
        following = mrope.max() + 1 + torch.arange(count - len(before))  # text moves all three at once
        vision = torch.cat([mrope[:, 0], following.expand(3, -1)], dim=1)
        return torch.cat([torch.arange(count)[None], vision]).long()

    def _shapes(self, grids: Sequence[Grid]) -> Tensor:
        return torch.tensor([[1, rows * self.merge, columns * self.merge] for rows, columns in grids])


class InternTower:
    """Tower of InternVL in transformers' own classes, for one tile of a fixed size."""

    def __init__(self, net: Any, processor: Any) -> None:
        self.net, self.processor = net, processor
        config = net.config.vision_config
        self.merge, self.patch = round(1 / net.config.downsample_ratio), config.patch_size[0]
        self.width: int = config.hidden_size

    def see(self, images: Sequence[Image.Image]) -> list[tuple[Any, Grid]]:
        """Features of each image as one tile, and the grid of its tokens."""
        inputs = self.processor.image_processor(images=list(images), crop_to_patches=False, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.net.device, self.net.dtype)
        rows, columns = (side // (self.patch * self.merge) for side in pixels.shape[-2:])
        features = self.net.model.get_image_features(pixels)
        return [(self._one(features, place), (rows, columns)) for place in range(len(images))]

    def _one(self, features: Any, place: int) -> Any:
        """The features of one image out of those of several, in memory of their own."""
        one = type(features)(**features)
        one.pooler_output = features.pooler_output[place : place + 1].clone()
        one.last_hidden_state = features.last_hidden_state[place : place + 1].clone()
        return one

    def patches(self, features: Any, grid: Grid) -> Tensor:
        """The last layer's features of each patch [rows, columns, width], without the first token."""
        return features.last_hidden_state[0, 1:].unflatten(0, (grid[0] * self.merge, grid[1] * self.merge))

    def placeholder(self, count: int) -> str:
        """Text that stands for an image, marks around it."""
        processor = self.processor
        return f"{processor.start_image_token}{processor.image_token * count}{processor.end_image_token}"

    def join(self, several: Sequence[Any]) -> Any:
        """Join the features of images."""
        joined = type(several[0])(**several[0])
        joined.pooler_output = torch.cat([each.pooler_output for each in several])
        return joined

    def inputs(self, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Nothing: all images have one size."""
        return {}

    def positions(self, before: Sequence[int], grid: Grid, count: int) -> Tensor:
        """Positions int64 [count], one after the other."""
        return torch.arange(count)


def tower_of(net: Any, processor: Any) -> Tower:
    """The tower of a vision-language model."""
    return InternTower(net, processor) if net.config.model_type == "internvl" else QwenTower(net, processor)
