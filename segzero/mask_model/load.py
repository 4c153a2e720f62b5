"""Load a mask model from the folder that `segzero tune` wrote, whatever its head is.

>>> model = load_mask_model("runs/prompt_head/best")                                       # doctest: +SKIP
>>> [answer] = model.answer([MaskQuestion(image, "what keeps the rain off")])              # doctest: +SKIP
"""

from pathlib import Path

from segzero.errors import UserError
from segzero.mask_model.light_model import LightModel
from segzero.mask_model.network import CARD, MaskNetwork, read_card
from segzero.mask_model.prompt_model import PromptModel

KINDS: dict[str, type[PromptModel] | type[LightModel]] = {"prompt": PromptModel, "light": LightModel}


def load_mask_model(path: str | Path, device: str = "auto", dtype: str = "auto") -> MaskNetwork:
    """Load a mask model; its card says which head it has."""
    folder = Path(path)
    kind = read_card(folder)["head"]
    if kind not in KINDS:
        raise UserError(f"{folder / CARD} names the head {kind!r}; there is: {', '.join(KINDS)}")
    model = KINDS[kind].load(folder, device, dtype)
    model.name, model.kind = str(path), kind
    return model.eval()
