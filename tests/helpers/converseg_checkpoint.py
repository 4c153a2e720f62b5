"""A random checkpoint in ConverSeg's own layout, and what it answers by a straightforward computation.

`python -m tests.helpers.converseg_checkpoint BASE OUT` writes one for the language model in BASE, with Meta's package,
PEFT and the library's classes alone: nothing of segzero. It is a program because importing sam2 sets up hydra globally.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

QUESTIONS = ("the left-most person", "It", "What keeps the Rain off, if anything does?")
SIDE, CHANNELS = 128, 32
SIZES = ((120, 90), (90, 200), (128, 128))  # of the images, width and height


def images() -> list[np.ndarray]:
    """Images of different shapes, uint8 [H, W, 3]: coloured squares on noise."""
    made = []
    for seed, (width, height) in enumerate(SIZES):
        image = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
        image[height // 4 : height // 2, width // 3 : width // 2] = (250, 30 * seed, 90)
        made.append(image)
    return made


def write_sam2_config(file: Path) -> None:
    """Write Meta's own YAML file with small numbers in it."""
    import sam2

    config = yaml.safe_load((Path(sam2.__file__).parent / "configs/sam2/sam2_hiera_s.yaml").read_text())
    model = config["model"]
    trunk, neck = model["image_encoder"]["trunk"], model["image_encoder"]["neck"]
    trunk |= {"embed_dim": 8, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
    trunk |= {"window_spec": [8, 4, 4, 2], "window_pos_embed_bkg_spatial_size": [4, 4]}
    neck |= {"d_model": CHANNELS, "backbone_channel_list": [64, 32, 16, 8]}
    neck["position_encoding"]["num_pos_feats"] = CHANNELS
    attention, encoder = model["memory_attention"], model["memory_encoder"]
    attention |= {"d_model": CHANNELS, "num_layers": 1}
    attention["layer"] |= {"d_model": CHANNELS, "dim_feedforward": 32}
    for kind in ("self_attention", "cross_attention"):
        attention["layer"][kind] |= {"embedding_dim": CHANNELS, "feat_sizes": [8, 8]}
    attention["layer"]["cross_attention"]["kv_in_dim"] = 16
    encoder |= {"in_dim": CHANNELS, "out_dim": 16}
    encoder["mask_downsampler"]["embed_dim"] = encoder["fuser"]["layer"]["dim"] = CHANNELS
    encoder["position_encoding"]["num_pos_feats"] = 16
    model["image_size"] = SIDE
    file.write_text(yaml.safe_dump(config))


def make_predictor(config: Path) -> Any:
    """Meta's predictor with random weights."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(instantiate(OmegaConf.load(config).model, _recursive_=True).eval())
    predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]  # fixed for 1024 there
    return predictor


def make_adapter(base: str, rank: int = 4) -> Any:
    """The language model with adapters by base names, the vision tower's among them, and the head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from transformers import Qwen2_5_VLForConditionalGeneration

    backbone = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    adapter = nn.Module()
    adapter.backbone = get_peft_model(backbone, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
    width = backbone.config.text_config.hidden_size
    adapter.to_sparse = nn.Linear(width, CHANNELS)
    adapter.to_dense = nn.Sequential(nn.Linear(width, CHANNELS), nn.SiLU(), nn.Linear(CHANNELS, CHANNELS))
    adapter.scale, adapter.temp = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(0.7))
    adapter.txt_norm = nn.LayerNorm(width)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif not name.startswith("backbone") and parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter.eval()


def answer(predictor: Any, adapter: Any, processor: Any, image: np.ndarray, question: str) -> dict[str, Any]:
    """Masks and scores of all four mask tokens for one question."""
    from PIL import Image

    predictor.set_image(image)
    tokenizer = processor.tokenizer
    content = [{"type": "image"}, {"type": "text", "text": question}]
    rendered = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    inputs = processor(text=[rendered], images=[Image.fromarray(image)], return_tensors="pt")
    output = adapter.backbone(**inputs, output_hidden_states=True, use_cache=False)
    states = adapter.txt_norm(output.hidden_states[-1][0])
    ids = inputs["input_ids"][0].tolist()
    end = max(place for place, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<|im_end|>"))
    kept = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if not token.startswith("<|")]
    sparse = adapter.to_sparse(states[kept])[None] * adapter.scale
    embedding = predictor._features["image_embed"]
    dense = (adapter.to_dense(states[end]) * adapter.temp)[None, :, None, None].expand_as(embedding)
    decoder = predictor.model.sam_mask_decoder
    fields = {"image_embeddings": embedding, "image_pe": predictor.model.sam_prompt_encoder.get_dense_pe()}
    fields |= {"sparse_prompt_embeddings": sparse, "dense_prompt_embeddings": dense, "repeat_image": False}
    fields["high_res_features"] = predictor._features["high_res_feats"]
    three, scores, _, _ = decoder(multimask_output=True, **fields)
    one, score, _, _ = decoder(multimask_output=False, **fields)
    best = int(scores[0].argmax())
    whole = predictor._transforms.postprocess_masks(three, image.shape[:2])[0, best]
    kept_words = tokenizer.decode([ids[i] for i in kept])
    return {
        "best": three[0, best],
        "mask": whole > 0,
        "score": scores[0, best],
        "single": one[0, 0],
        "single_score": score[0, 0],
        "words": kept_words,
    }


def main(base: str, out: Path) -> None:
    import torch
    from transformers import AutoProcessor

    torch.manual_seed(0)
    write_sam2_config(out / "tiny.yaml")
    predictor, adapter = make_predictor(out / "tiny.yaml"), make_adapter(base)
    torch.save({"model": predictor.model.state_dict()}, out / "ConverSeg-Net_sam2_90000.torch.torch")
    torch.save({"plm": adapter.state_dict()}, out / "ConverSeg-Net_plm_90000.torch")
    adapter.backbone.save_pretrained(out / "lora_plm_adapter_90000")
    processor = AutoProcessor.from_pretrained(base)
    with torch.inference_mode():
        answers = [answer(predictor, adapter, processor, *asked) for asked in zip(images(), QUESTIONS, strict=True)]
    torch.save(answers, out / "answers.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
