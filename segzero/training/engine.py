"""verl's FSDP engines on one GPU, which open images where their pixels are needed and compute what is shared once.

A trajectory carries the path of its image, not its pixels, which at 840x840 are 17 MB. The engine opens the
image when a micro-batch comes, and caches pixels up to a number of bytes: the n answers to a prompt and the passes
of a step (log-probs, reference, update) share them. Within a micro-batch they share the vision tower's work too: it
encodes each image once, and its features are repeated for every row about it.

`SharedPromptEngine` (segzero.shared_prompt=true) packs a micro-batch into one row that holds each prompt once;
`ImageEngine` has a row with its own prompt for each answer, as verl does. With segzero.self_distillation, each pass of
an update begins with one of the teacher.
"""

import os
import socket
from pathlib import Path
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.model import extract_multi_modal_inputs
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import prepare_micro_batches
from verl.workers.engine_workers import ActorRolloutRefWorker

from segzero.errors import UserError
from segzero.lru import LRUCache
from segzero.policy.adapters import keep_in_float32
from segzero.policy.checkpoint import read_checkpoint
from segzero.policy.shared_prompt import PackedRow, pack, use_packed_rows
from segzero.training.answer_head import AnswerHead
from segzero.training.collector import collect_as_usual
from segzero.training.passes import split_groups
from segzero.training.self_distillation import (
    TEACHER_IDS,
    TEACHER_LOG_PROBS,
    TOP_K,
    distilled,
    divergence,
    teacher_batch,
)
from segzero.training.shared_folder import has_content
from segzero.training.tokenization import open_picture, picture_key
from segzero.training.verl_glue.patches import log_probs_in_blocks

# VERL_ENGINE_VENDOR chooses among the engines registered here.
SEPARATE_ROWS, SHARED_PROMPT = "segzero", "segzero-shared-prompt"
CACHE_BYTES = 1 << 30

Pixels = dict[str, torch.Tensor]  # arguments of the model's forward: pixel_values and image_grid_thw


@EngineRegistry.register("language_model", ["fsdp", "fsdp2"], ["cuda", "cpu"], vendor=SEPARATE_ROWS)
class ImageEngine(FSDPEngineWithLMHead):
    """verl's engine; it also reads freeze_vision_tower, a key that verl 0.9.1 ignores."""

    freeze_vision_tower = False  # set by the worker from its config before the engine is made
    image_options: dict[str, Any] = {}  # noqa: RUF012  # frame and prompt, likewise

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cache = LRUCache(CACHE_BYTES, _bytes)  # pixels by image path
        self.checkpoint = read_checkpoint(self.model_config.local_path, **self.image_options)

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        if self.freeze_vision_tower:
            freeze_vision(module)
        self.shared = SharedFeatures(module)
        return module

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        module = super()._build_lora_module(module)
        # verl casts them to the base's half precision. FSDP2 needs a single dtype among the trained parameters.
        keep_in_float32(module)
        return module

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        module = super()._build_fsdp_module(module)
        if self.model_config.use_fused_kernels:
            gather_head(module)
        return module

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        """verl's inputs, after the image paths are replaced by pixels."""
        references = micro_batch.get("multi_modal_inputs", None)
        if references is not None:
            rows = [_plain(reference) for reference in references]
            # The others' features are those of the first.
            first = self.shared.first_of_each([picture_key(row) for row in rows])
            read = [self._read(row) if i in first else {} for i, row in enumerate(rows)]
            micro_batch["multi_modal_inputs"] = NonTensorStack(*read)
        return super().prepare_model_inputs(micro_batch)

    def _read(self, reference: dict[str, Any]) -> dict[str, Any]:
        """Replace a reference to a picture by pixels; rows that already hold pixels stay as they are."""
        key = picture_key(reference)
        if key is None:
            return reference
        pixels = self.cache.get(key)
        if pixels is None:
            image = open_picture(reference, self.checkpoint)
            processed = self.model_config.processor.image_processor(images=[image], return_tensors="pt")
            pixels = {name: processed[name] for name in ("pixel_values", "image_grid_thw")}
            self.cache.put(key, pixels)
        return pixels


@EngineRegistry.register("language_model", ["fsdp", "fsdp2"], ["cuda", "cpu"], vendor=SHARED_PROMPT)
class SharedPromptEngine(ImageEngine):
    """The engine that computes each prompt once for all answers to it, in packed rows."""

    teacher_top_k = 0  # likeliest tokens by which the teacher teaches; 0: there is none. Set by the worker, likewise

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        use_packed_rows(module)
        return module

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        self.head = AnswerHead(module)  # here, where the model has its adapters
        return super()._build_fsdp_module(module)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict, dict]:
        """One packed row, and the pixels of each different image."""
        tokens, positions = micro_batch["input_ids"].values(), micro_batch["position_ids"].values()  # [T], [4, T]
        numbers, prompt_lengths, answer_lengths = prompts_and_lengths(micro_batch)
        packed = pack(numbers, prompt_lengths, answer_lengths).to(tokens.device)
        self._expect(packed, micro_batch)
        inputs = {"input_ids": tokens[None, packed.source], "position_ids": positions[:, None, packed.source]}
        references = [_plain(reference) for reference in micro_batch.get("multi_modal_inputs", [])]
        first_of_prompt = [references[numbers.index(number)] for number in dict.fromkeys(numbers)] if references else []
        different = self.shared.first_of_each([picture_key(reference) for reference in first_of_prompt])
        pixels = extract_multi_modal_inputs([self._read(first_of_prompt[i]) for i in sorted(different)])
        return {**inputs, "attention_mask": None, "packed": packed, **pixels}, {"packed": packed}

    def _expect(self, packed: PackedRow, micro_batch: TensorDict) -> None:
        """Tell the head what this pass is for."""
        temperature = float(micro_batch["temperature"])
        if top_k := tu.get_non_tensor_data(micro_batch, key=TOP_K, default=0):
            self.head.expect_likeliest(packed.predicting, top_k, temperature)
            return
        labels = micro_batch["input_ids"].values()[packed.predicted]
        taught = micro_batch.get(TEACHER_IDS, None)
        others = None if taught is None else taught.values()[in_packed_order(packed)]
        self.head.expect(packed.predicting, labels, temperature, others)

    def forward_step(self, micro_batch: TensorDict, loss_function: Any, forward_only: bool) -> tuple[Any, dict]:
        """verl's pass; in an update that distils, after one of the teacher."""
        if self.teacher_top_k and not forward_only:
            micro_batch = micro_batch.to(get_device_id())
            with torch.no_grad():
                asked = teacher_batch(micro_batch, self.teacher_top_k)
                _, output = super().forward_step(asked, loss_function=None, forward_only=True)
            micro_batch.update(output["model_output"])
        return super().forward_step(micro_batch, loss_function, forward_only)

    def prepare_model_outputs(
        self, output: Any, output_args: dict, micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Values of the answers' tokens in verl's layout, where they stand at the token before; zero elsewhere.

        The teacher's are in the layout of the answers alone.
        """
        packed: PackedRow = output_args["packed"]
        if tu.get_non_tensor_data(micro_batch, key=TOP_K, default=0):
            order, answers = packed.predicted.argsort(), micro_batch["responses"].offsets()
            return {
                name: torch.nested.nested_tensor_from_jagged(values[order], answers)
                for name, values in zip((TEACHER_LOG_PROBS, TEACHER_IDS), output.logits, strict=True)
            }
        rows, before = micro_batch["input_ids"], packed.predicted - 1
        named = {"log_probs": output.logits[0]}
        if tu.get_non_tensor_data(micro_batch, key="calculate_entropy", default=False):
            named["entropy"] = output.logits[-1]
        if (taught := micro_batch.get(TEACHER_LOG_PROBS, None)) is not None:
            named["divergence"] = divergence(taught.values()[in_packed_order(packed)], output.logits[1:-1].T)
        empty = torch.zeros(len(rows.values()), device=before.device)
        return {
            name: torch.nested.nested_tensor_from_jagged(empty.index_copy(0, before, values), rows.offsets())
            for name, values in named.items()
        }


def in_packed_order(packed: PackedRow) -> torch.Tensor:
    """The place of each predicted token among those of all answers, one answer after the other, int64 [N]."""
    return packed.predicted.argsort().argsort()


def prompts_and_lengths(data: TensorDict) -> tuple[list[int], list[int], list[int]]:
    """Number the different prompts of a batch, by tokens and image: each row's number, prompt length, answer length."""
    prompts, answers = data["prompts"], data["responses"]
    references = data.get("multi_modal_inputs", None)
    numbers: dict[Any, int] = {}
    each = []
    for row, ids in enumerate(prompts.values().cpu().split(prompts.offsets().diff().tolist())):
        reference = _plain(references[row]) if references is not None else {}
        image = picture_key(reference) or (row if reference else None)  # pixels of its own belong to that row alone
        each.append(numbers.setdefault((image, ids.numpy().tobytes()), len(numbers)))
    return each, prompts.offsets().diff().tolist(), answers.offsets().diff().tolist()


def prepare_passes(data: TensorDict, dp_group: Any = None, **options: Any) -> tuple[list[TensorDict], list | None]:
    """Split a batch into passes of whole groups, as many on each GPU; replaces verl's `prepare_micro_batches`."""
    if not tu.get_non_tensor_data(data, key="use_dynamic_bsz", default=True):
        return prepare_micro_batches(data, dp_group=dp_group, **options)
    groups, most = prompts_and_lengths(data), int(data["max_token_len_per_gpu"])
    count = torch.tensor([len(split_groups(*groups, most))], device=get_device_name())
    torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX, group=dp_group)
    passes = split_groups(*groups, most, int(count))
    return [tu.index_select_tensor_dict(data, rows) for rows in passes], passes


class PolicyWorker(ActorRolloutRefWorker):
    """verl's worker, which gives the engine the settings that verl does not pass on."""

    loss_fn: Any  # verl's, as a partial

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        collect_as_usual()  # in a process that trains, garbage may hold a GPU's memory
        os.environ["VERL_ENGINE_VENDOR"] = choose_engine(bool(self.config.get("shared_prompt")))
        log_probs_in_blocks()
        if get_device_name() == "cpu":
            do_not_pin()
            # vLLM rests while the trainer works, so the cores are free.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.world_size))
        ImageEngine.freeze_vision_tower = self.config.actor.freeze_vision_tower
        image = self.config.get("image") or {}
        ImageEngine.image_options = {"frame": image.get("frame"), "prompt": image.get("prompt")}
        self.distillation = self.config.get("self_distillation") or {"weight": 0.0, "top_k": 0}
        SharedPromptEngine.teacher_top_k = self.distillation["top_k"] if self.distillation["weight"] else 0

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Make verl's models; with self-distillation its term is added to the loss."""
        super().init_model()
        if SharedPromptEngine.teacher_top_k:
            self.loss_fn = distilled(self.loss_fn, self.distillation["weight"])
            self.actor.set_loss_fn(self.loss_fn)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def sees_file(self, file: str, token: str) -> tuple[str, bool]:
        """The name of this host, and whether it sees a file with that content."""
        return socket.gethostname(), has_content(Path(file), token)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_weights(self, folder: str, step: int) -> None:
        """Save as `save_checkpoint` does, but without optimizer, schedule and random state."""
        manager = self.actor.engine.checkpoint_manager
        usual = manager.checkpoint_save_contents
        manager.checkpoint_save_contents = ["model"]
        try:
            self.actor.save_checkpoint(folder, None, step, None)
        finally:
            manager.checkpoint_save_contents = usual


def choose_engine(shared_prompt: bool) -> str:
    """Set how this process splits its batches into passes; returns the vendor of the engine that verl is to make."""
    transformer_impl.prepare_micro_batches = prepare_passes if shared_prompt else prepare_micro_batches
    return SHARED_PROMPT if shared_prompt else SEPARATE_ROWS


def do_not_pin() -> None:
    """Let the reference model lie in ordinary memory: pinned memory needs a GPU's driver."""

    class Unpinned(CPUOffloadPolicy):
        def __init__(self, pin_memory: bool = False) -> None:
            super().__init__(pin_memory=False)

    transformer_impl.CPUOffloadPolicy = Unpinned


class SharedFeatures:
    """A hook on the vision tower: features of each different image are repeated for all rows about it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._places: list[int] | None = None  # by row: its image's number among the different ones
        for tower in vision_towers(module):
            tower.register_forward_hook(self._repeat, with_kwargs=True)

    def first_of_each(self, paths: list[str | None]) -> set[int]:
        """The first row of each different image; nothing is shared if a row has pixels of its own or no image."""
        different = list(dict.fromkeys(paths))
        shareable = None not in paths and len(different) < len(paths)
        self._places = [different.index(path) for path in paths] if shareable else None
        return {paths.index(path) for path in different} if shareable else set(range(len(paths)))

    def _repeat(self, tower: torch.nn.Module, args: tuple, options: dict[str, Any], output: Any) -> Any:
        if self._places is None:
            return output
        grid = options["grid_thw"] if "grid_thw" in options else args[1]
        sizes = (grid.prod(-1) // tower.spatial_merge_size**2).tolist()
        output.pooler_output = self._in_places(output.pooler_output, sizes)
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [self._in_places(level, sizes) for level in output.deepstack_features]
        return output

    def _in_places(self, features: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Features [different images, dim] -> [all rows, dim]."""
        assert self._places is not None
        parts = features.split(sizes)
        return torch.cat([parts[place] for place in self._places])


def vision_towers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The vision towers of a Qwen-VL, mergers included."""
    return [tower for name, tower in module.named_modules() if name.split(".")[-1] == "visual"]


def freeze_vision(module: torch.nn.Module) -> int:
    """Freeze the vision tower, its merger included; returns the number of frozen parameters."""
    towers = vision_towers(module)
    if not towers:
        raise UserError("freeze_vision_tower=true, but the model has no part called 'visual'; set it to false")
    frozen = 0
    for tower in towers:
        for parameter in tower.parameters():
            parameter.requires_grad_(False)
            frozen += parameter.numel()
        # With LoRA, transformers asks the tower's first layer for gradients too, and all of it would be recomputed.
        tower.forward = torch.no_grad()(tower.forward)
    return frozen


def gather_head(module: torch.nn.Module) -> None:
    """Gather the head before each forward pass, for fused kernels, which read its weight and never call it.

    FSDP2 shards an untied head by itself, and gathers it when it is called. A tied one lies in the root's group.
    """
    from torch.distributed.fsdp import FSDPModule

    for name, head in module.named_modules():
        if name.split(".")[-1] == "lm_head" and isinstance(head, FSDPModule):
            module.register_forward_pre_hook(lambda *_, head=head: head.unshard())


def _plain(reference: Any) -> dict[str, Any]:
    """Unwrap a row's value from tensordict."""
    return getattr(reference, "data", reference)


def _bytes(pixels: Pixels) -> int:
    return sum(tensor.nbytes for tensor in pixels.values())
