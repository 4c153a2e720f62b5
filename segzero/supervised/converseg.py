"""Training with the flags, the architecture and the files of ConverSeg's train.py, in our own loop.

The model is read as it is evaluated there (`segzero.mask_model.converseg.PROTOCOL`), with the mask token that is
trained; questions of different length are decoded apart, so that a result does not depend on the batch's company.
A step of the flags is a pass of `batch_size` questions, of which `acc` make an update.
"""

import math
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.io import lock, write_json
from segzero.mask_model.converseg import ConverSegModel, ConverSegReader, build_head, build_reader, load_sam2
from segzero.mask_model.converseg_files import RawAdapters, product, read_adapters, read_language
from segzero.mask_model.prompt_head import PromptHead
from segzero.sample import Sample
from segzero.supervised.converseg_flags import TrainFlags
from segzero.supervised.converseg_learner import ConverSegLearner, Erosion
from segzero.supervised.converseg_log import RunLog
from segzero.supervised.loop import fit, join_processes, mixed_precision
from segzero.supervised.lora import VISION, add_adapters
from segzero.supervised.settings import compose

CACHE_BYTES = 4 << 30
DROPOUT = 0.05


def train(flags: TrainFlags) -> Path:
    """Train and return the folder with the checkpoints; the same command goes on with a run that was interrupted."""
    out = Path(flags.out)
    training, validation = read_samples(flags)
    processes = join_processes()
    config = settings(flags)
    model = start(flags, config, processes.device)
    learner = ConverSegLearner(model, flags.batch_size, CACHE_BYTES, Erosion(flags.er_k, flags.er_it, flags.max_dim))
    trained = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    if processes.is_main_process:
        print(f"{len(training)} samples, {len(validation)} for validation; {trained:,} weights are trained", flush=True)
    busy = f"another training is at work in {config.out}; wait for it, or use another --name"
    with lock(Path(config.out), busy) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            write_json(Path(config.out, "flags.json"), asdict(flags), indent=1)
        log = RunLog(flags, learner.train(), training, validation) if processes.is_main_process else None

        def export(_: str) -> None:
            assert log is not None
            log.finish()

        fit(learner, training, config, None, export, after=log.after if log else None)
    return out


def settings(flags: TrainFlags) -> DictConfig:
    """The settings of our loop that the flags mean."""
    config = compose("prompt_head")
    rise = math.floor(0.03 * flags.updates) if flags.warmup_updates < 0 else flags.warmup_updates
    config.out = str(Path(flags.out, flags.name))
    config.steps, config.batch, config.seed = flags.updates, flags.batch_size * flags.acc, flags.seed
    config.lr, config.weight_decay, config.final_lr = flags.lr, flags.wd, flags.min_lr / flags.lr
    config.warm_up = min(1.0, rise / flags.updates)
    config.save_every = max(1, flags.save_every // flags.acc) if flags.save_every else flags.updates
    config.lora_rank, config.lora_alpha, config.lora_dropout = flags.lora_r, flags.lora_alpha, DROPOUT
    return config


def read_samples(flags: TrainFlags) -> tuple[list[Sample], list[Sample]]:
    """Read the samples and put one in a hundred aside for validation, at least one."""
    file = Path(flags.data_dir, flags.dataset_jsonl)
    if not file.is_file():
        raise UserError(f"no such file: {file}; name it by --data-dir and --dataset-jsonl")
    samples = list(islice(read(file, "converseg", images=flags.data_dir), flags.num_samples))
    order = np.random.default_rng(flags.seed).permutation(len(samples))
    aside = max(1, len(samples) // 100)
    if aside >= len(samples):
        raise UserError(f"{file} has {len(samples)} sample to use; one is for validation, so that there must be more")
    return [samples[i] for i in order[aside:]], [samples[i] for i in order[:aside]]


def start(flags: TrainFlags, config: DictConfig, device: torch.device) -> ConverSegModel:
    """Load the parts, anew or where a checkpoint ended, and choose what is trained."""
    torch.manual_seed(flags.seed)
    segmenter = load_sam2(Path(flags.resume_sam_path or flags.checkpoint), flags.model_cfg, device)
    side, channels = segmenter.model.prompt_encoder.input_image_size, segmenter.model.prompt_encoder.hidden_size
    if flags.max_dim != side:
        raise UserError(f"--max-dim {flags.max_dim}: SAM2 sees images at its own size, as in evaluation; it is {side}")
    half = "bfloat16" if mixed_precision(config.precision) == "bf16" else "float32"
    adapters = read_adapters(flags.resume_lora_path) if flags.resume_lora_path else None
    if flags.resume_plm_path:
        file = Path(flags.resume_plm_path)
        language = read_language(file, adapters, flags.lora_alpha / flags.lora_r)
        adapters = language.adapters
        reader = build_reader(flags.plm_model_name, language.weights, device, half, file)
        head = build_head(language, reader.width, channels, file)
    else:
        loaded = ConverSegReader.load(flags.plm_model_name, str(device), half)
        assert isinstance(loaded, ConverSegReader)
        reader, head = loaded, PromptHead(loaded.width, channels)
    put_adapters(reader.net, flags, adapters)
    model = ConverSegModel(reader, segmenter, head.to(device), flags.name)
    model.best_of_three = False
    model.train_with()
    return model


def put_adapters(net: nn.Module, flags: TrainFlags, known: RawAdapters | None) -> None:
    """Put adapters on the language model; known ones go on from there, and those of the vision tower become its own."""
    if known is not None and known.rank != flags.lora_r:
        raise UserError(f"--lora-r {flags.lora_r}: the adapters to go on from have the rank {known.rank}")
    scale, factors = flags.lora_alpha / flags.lora_r, known.factors if known else {}
    vision = {layer for layer in factors if "visual" in layer}
    weights = net.state_dict()
    for layer, (down, up) in factors.items():
        weight = weights.get(f"{layer}.weight", torch.empty(0))
        if weight.shape != (len(up), down.shape[1]):
            raise UserError(f"the adapters to go on from are for another base than {flags.plm_model_name}: {layer}")
    with torch.no_grad():
        for layer in vision:
            weights[f"{layer}.weight"] += product(factors[layer], scale).to(weights[f"{layer}.weight"])
    add_adapters(net, flags.lora_r, flags.lora_alpha, DROPOUT)
    layers = dict(net.named_modules())
    for layer in factors.keys() - vision:
        if not hasattr(layers[layer], "lora_A"):
            raise UserError(f"the adapters to go on from include {layer}, which is not trained; {VISION} is the tower")
        with torch.no_grad():
            layers[layer].lora_A["default"].weight.copy_(factors[layer][0])
            layers[layer].lora_B["default"].weight.copy_(factors[layer][1])
