"""Pictures of all masks: every mask can be seen, and colours are apart."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from segzero.viz.everything import distinct_color, draw_everything, draw_everything_panel


@dataclass(frozen=True)
class Square:
    """A square mask in an image of 60x40."""

    left: int
    side: int

    @property
    def mask(self) -> np.ndarray:
        mask = np.zeros((40, 60), bool)
        mask[5 : 5 + self.side, self.left : self.left + self.side] = True
        return mask

    @property
    def area(self) -> int:
        return self.side**2


def test_small_masks_lie_above_large_ones_and_nothing_else_changes():
    image = Image.new("RGB", (60, 40), (120, 120, 120))
    small, large = Square(10, 8), Square(5, 30)
    picture = np.asarray(draw_everything(image, [small, large], image.size), int)
    alone = np.asarray(draw_everything(image, [large], image.size), int)
    assert np.abs(picture[9, 14] - alone[9, 14]).max() > 20
    assert (picture[:, 40:] == 120).all() and (picture[20, 20] != 120).any()
    assert draw_everything(image, [small]).size == (660, 440), "small images are enlarged"
    assert np.asarray(draw_everything(image, [], image.size)).tolist() == np.asarray(image).tolist()


def test_a_panel_shows_image_and_masks():
    image = Image.new("RGB", (60, 40), "grey")
    one, none = (draw_everything_panel(image, found) for found in ([Square(10, 8)], []))
    assert one.size == none.size and one.width > 2 * 640 and np.asarray(one).tolist() != np.asarray(none).tolist()


def test_colours_are_apart():
    colors = np.array([distinct_color(number) for number in range(12)], int)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert distances.min() > 30 and colors.min() >= 0 and colors.max() <= 255
