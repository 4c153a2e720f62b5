"""Choice of the trainer's attention.

flash-attn is built for one torch and one CUDA, and there is no wheel for many pairs, so it is optional. Without it
PyTorch's own attention (SDPA) is used. Where prompts are shared that is the vision tower's: the language model then has
an attention of its own (shared_prompt.py). Where they are not, SDPA needs padded batches, as verl's batches without
padding call flash-attn by name.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segzero.errors import UserError, one_line
from segzero.machine import has_flash

FLASH = "flash_attention_2"
PADDED = ("sdpa", "eager")
_KEY = "actor_rollout_ref.model.override_config.attn_implementation"


def choose_attention(config: DictConfig) -> None:
    """Write the implementation into the configuration, unless the user has, and turn packing off without flash-attn."""
    model = config.actor_rollout_ref.model
    chosen = model.override_config.get("attn_implementation")
    if chosen is None:
        chosen = FLASH if config.trainer.device == "cuda" and has_flash() else "sdpa"
        OmegaConf.update(config, _KEY, chosen, force_add=True)
    if chosen not in (FLASH, *PADDED):
        raise UserError(f"{_KEY}={chosen}: choose {FLASH}, {' or '.join(PADDED)}, or leave it out")
    if chosen == FLASH and config.trainer.device != "cuda":
        raise UserError(f"{_KEY}={chosen} needs a GPU, and trainer.device={config.trainer.device}; leave it out")
    if chosen == FLASH and not has_flash():
        raise UserError(f"{_KEY}={chosen}, but flash-attn is not installed; leave it out (see `segzero docs install`)")
    shared = config.segzero.shared_prompt
    if shared or chosen in PADDED:
        if config.actor_rollout_ref.actor.ulysses_sequence_parallel_size > 1:
            raise UserError(
                "actor_rollout_ref.actor.ulysses_sequence_parallel_size needs segzero.shared_prompt=false and "
                "flash-attn (`segzero docs install` says how to install it); set the key to 1"
            )
        model.use_remove_padding = False
    if shared:
        model.use_fused_kernels = False  # verl's, which compute from rows of their own


def describe_attention(config: DictConfig) -> str:
    """The choice in words, for the first lines of a run."""
    model = config.actor_rollout_ref.model
    chosen = model.override_config.attn_implementation
    if config.segzero.shared_prompt:
        language = "flex_attention" if config.trainer.device == "cuda" else "SDPA"
        return f"{language} over packed rows with shared prompts; vision tower {chosen}"
    batches = "batches without padding" if model.use_remove_padding else "padded batches"
    without = config.trainer.device == "cuda" and chosen != FLASH and not has_flash()
    return f"{chosen}, {batches}" + ("; flash-attn is not installed, which is optional" if without else "")


def try_attention(path: str | Path | None = None, implementation: str | None = None, dtype: str = "bfloat16") -> None:
    """Build a checkpoint's model with an attention as training would, without memory for weights; raise if it fails.

    The defaults are the shipped policy, and the attention that this machine would train with.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText
    from verl.utils.torch_dtypes import PrecisionType

    from segzero import shipped

    implementation = implementation or (FLASH if has_flash() else "sdpa")
    config = AutoConfig.from_pretrained(
        path or shipped.policy_path(), attn_implementation=implementation, trust_remote_code=False
    )
    try:
        with init_empty_weights():
            AutoModelForImageTextToText.from_config(
                config, dtype=PrecisionType.to_dtype(dtype), trust_remote_code=False
            )
    except ImportError as error:
        raise UserError(
            f"{_KEY}={implementation} does not work here: {one_line(error, 200)}; leave the key out, or set it to sdpa"
        ) from None
    except ValueError as error:
        raise UserError(f"{_KEY}={implementation}: {one_line(error, 200)}") from None
