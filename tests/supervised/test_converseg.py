"""Files and commands of ConverSeg: published checkpoints answer as there; what is trained here has their form."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from segzero.errors import UserError
from segzero.mask_model.converseg import ConverSegModel
from segzero.mask_model.converseg_files import RawFiles
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.protocol import MaskQuestion
from segzero.segmenter.meta_weights import RELEASED, architecture, find_architecture, make_sam2, read_tensors, to_meta
from tests.helpers import converseg_checkpoint
from tests.helpers.random_checkpoints import CHAT_TEMPLATE, build_checkpoint

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("sam2"), reason="Meta's sam2 package is not installed")

SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
SAM, PLM, LORA = "ConverSeg-Net_sam2_90000.torch.torch", "ConverSeg-Net_plm_90000.torch", "lora_plm_adapter_90000"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A narrow Qwen2.5-VL with the released vocabulary and system prompt."""
    folder = tmp_path_factory.mktemp("base")
    build_checkpoint("qwen2_5_vl", folder, real_vocabulary=True, tied=True)
    (folder / "chat_template.jinja").write_text(SYSTEM + CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def published(base, tmp_path_factory) -> Path:
    """A checkpoint in the published layout, with the answers that Meta's package and PEFT give."""
    folder = tmp_path_factory.mktemp("published")
    command = [sys.executable, "-m", "tests.helpers.converseg_checkpoint", str(base), str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.fixture(scope="module")
def model(published):
    return load_mask_model(published, "cpu")


def questions_of(texts=converseg_checkpoint.QUESTIONS):
    pictures = map(Image.fromarray, converseg_checkpoint.images())
    return [MaskQuestion(picture, text) for picture, text in zip(pictures, texts, strict=True)]


# Published checkpoints


def test_a_published_checkpoint_answers_as_it_does_there(model, published):
    assert isinstance(model, ConverSegModel) and "of mask tokens 1 to 3" in model.protocol
    expected = torch.load(published / "answers.pt", weights_only=True)
    for answer, there in zip(model.answer(questions_of()), expected, strict=True):
        assert there["words"].startswith("system\nYou are a helpful assistant.\nuser\n")
        np.testing.assert_allclose(answer.logits, there["best"].numpy(), atol=1e-5)
        assert answer.score == pytest.approx(float(there["score"]), abs=1e-5)
        assert (answer.mask != there["mask"].numpy()).mean() < 1e-3 < answer.mask.mean() < 0.999


def test_the_token_that_is_trained_can_answer_instead(model, published, monkeypatch):
    monkeypatch.setattr(model, "best_of_three", False)
    assert "mask token 0" in model.protocol
    expected = torch.load(published / "answers.pt", weights_only=True)
    for answer, there in zip(model.answer(questions_of()), expected, strict=True):
        np.testing.assert_allclose(answer.logits, there["single"].numpy(), atol=1e-5)
        assert answer.score == pytest.approx(float(there["single_score"]), abs=1e-5)
        assert not np.allclose(answer.logits, there["best"].numpy(), atol=1e-5)


def test_special_tokens_in_a_question_are_left_out_and_long_ones_are_cut(model):
    reader = model.reader
    assert reader.question("the<|image_pad|> cat") == reader.question("the cat")
    assert reader.question("") == reader.question("segment")
    assert reader.question("cat " * 900) == reader.question(" ".join(["cat"] * 256))


def test_a_sam2_goes_to_our_names_and_back(published):
    weights = read_tensors(published / SAM, "model")
    model, _ = make_sam2(architecture(published / "tiny.yaml"), weights, SAM)
    back = to_meta(model, weights)
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("size", sorted(RELEASED))
def test_a_released_architecture_is_known_by_name_and_by_shapes(size):
    hiera = RELEASED[size]
    assert architecture(f"configs/sam2.1/sam2.1_hiera_{size}.yaml") == architecture(f"sam2_hiera_{size}.yaml") == hiera
    import sam2

    theirs = Path(sam2.__file__).parent / f"configs/sam2/sam2_hiera_{size}.yaml"
    assert architecture(theirs) == hiera
    shapes = {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.empty(1) for i in range(sum(hiera.blocks))}
    shapes["image_encoder.trunk.patch_embed.proj.weight"] = torch.empty(hiera.width, 3, 7, 7)
    assert find_architecture(shapes, Path("x")) == hiera


def torn(folder):
    (folder / PLM).write_bytes((folder / PLM).read_bytes()[:1000])


def pickled(folder):
    torch.save({"plm": {"to_sparse.weight": Path("x")}}, folder / PLM)


def swapped(folder):
    shutil.copy(folder / SAM, folder / PLM)


def other_sam2(folder):
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text().replace("embed_dim: 8", "embed_dim: 16"))


def no_config(folder):
    (folder / "tiny.yaml").unlink()


def other_width(folder):
    content = torch.load(folder / PLM, weights_only=True)
    content["plm"]["txt_norm.weight"] = torch.ones(2048)
    torch.save(content, folder / PLM)


def other_layers(folder):
    file = folder / LORA / "adapter_model.safetensors"
    save_file({name.replace("layers.1", "layers.9"): tensor for name, tensor in load_file(file).items()}, file)


def other_base(folder):
    file = folder / LORA / "adapter_model.safetensors"
    wide = {name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in load_file(file).items()}
    save_file(wide, file)


def no_adapters(folder):
    shutil.rmtree(folder / LORA)


def two_steps(folder):
    shutil.copy(folder / PLM, folder / "ConverSeg-Net_plm_1.torch")


DAMAGES = [
    (torn, "is not a file of weights"),
    (pickled, "is not a file of weights"),
    (swapped, "holds no weights under 'plm'"),
    (other_sam2, "is not the SAM2 of that architecture"),
    (no_config, "holds no released SAM2"),
    (other_width, "is not a head for a language model of width 64"),
    (other_layers, "do not fit"),
    (other_base, "do not fit"),
    (no_adapters, "holds 0 of ConverSeg's lora_plm_adapter_STEP"),
    (two_steps, "holds 2 of ConverSeg's NAME_plm_STEP.torch"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_wrong_file_is_refused_in_one_line(damage, problem, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=problem) as caught:
        load_mask_model(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_for_another_language_model_is_refused(published, checkpoints):
    files = replace(RawFiles.of_folder(published), base=str(checkpoints["qwen2_5_vl"]))
    with pytest.raises(UserError, match="is not for that language model"):
        ConverSegModel.from_files(files, "cpu")
