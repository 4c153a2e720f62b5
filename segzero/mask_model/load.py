"""Load a mask model from the folder that `segzero tune` wrote, whatever its head is, or from ConverSeg's own files.

>>> model = load_mask_model("runs/prompt_head/best")                                       # doctest: +SKIP
>>> [answer] = model.answer([MaskQuestion(image, "what keeps the rain off")])              # doctest: +SKIP
"""

from pathlib import Path

from segzero import shipped
from segzero.errors import UserError
from segzero.mask_model.converseg import ConverSegModel
from segzero.mask_model.light_model import LightModel
from segzero.mask_model.network import CARD, MaskNetwork, read_card
from segzero.mask_model.prompt_model import PromptModel

KINDS: dict[str, type[PromptModel] | type[LightModel]] = {"prompt": PromptModel, "light": LightModel}
RAW = "converseg"
SHIPPED = "tiny"  # name of the mask model that comes with the package


def load_mask_model(path: str | Path, device: str = "auto", dtype: str = "auto") -> MaskNetwork:
    """Load a mask model, `tiny` being the shipped one; its card says which head it has.

    A folder of ConverSeg's raw files has no card.
    """
    folder = shipped.mask_model_path() if str(path) == SHIPPED else Path(path)
    raw = any(folder.glob("*_plm_*.torch")) and not (folder / CARD).exists()
    kind = RAW if raw else read_card(folder)["head"]
    if not raw and kind not in KINDS:
        raise UserError(f"{folder / CARD} names the head {kind!r}; there is: {', '.join(KINDS)}")
    model: MaskNetwork = (ConverSegModel if raw else KINDS[kind]).load(folder, device, dtype)
    model.name, model.kind = str(folder), kind
    return model.eval()
