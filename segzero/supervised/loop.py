"""The loop of supervised training under accelerate: schedule, passes, states to resume from, validation.

A state holds the trained weights and the optimizer. The order of the samples follows from the seed and the step alone,
so that a resumed run sees what an undisturbed one would have seen.
"""

import io
import math
import resource
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from omegaconf import DictConfig
from torch import nn

from segzero.errors import UserError, one_line
from segzero.io import write_atomically
from segzero.sample import Sample
from segzero.supervised.phases import Phase, batches_of, in_order, phase_at
from segzero.supervised.sharding import divided_state, put, whole, whole_state
from segzero.training import metrics_log

STATE = "state.pt"


class Learner(nn.Module):
    """A module whose forward pass returns a summed loss; what requires gradients is trained."""

    step = 0  # of the run, for what a learner draws by chance

    @abstractmethod
    def passes(self, samples: Sequence[Sample], count: int | None = None) -> list[list[Any]]:
        """Prepare samples and divide them into passes, as few as fit into memory or a given number."""

    @abstractmethod
    def weight(self, rows: Sequence[Any]) -> int:
        """The number by which the summed loss of rows is divided."""


@dataclass
class Position:
    """A place in a run."""

    step: int = 0
    best: float = -math.inf  # of the validations so far


@dataclass(frozen=True)
class Trial:
    """Time and memory of an update, measured."""

    first: float  # seconds of an update whose images are new
    later: float  # seconds of an update whose images were encoded before
    peak: int  # bytes, of a GPU or else of the process

    def report(self, steps: int) -> str:
        """Say what an update and a whole run need.

        >>> Trial(2.0, 0.5, 3 << 30).report(3600)                                 # doctest: +SKIP
        '2.00 s an update, 0.50 s with images seen before; 0.5 to 2.0 h in all; 3.0 GiB on the GPU'
        """
        place = "on the GPU" if torch.cuda.is_available() else "of memory"
        whole = " to ".join(f"{seconds * steps / 3600:.1f}" for seconds in sorted({self.later, self.first}))
        each = f"{self.first:.2f} s an update, {self.later:.2f} s with images seen before"
        return f"{each}; {whole} h in all; {self.peak / 2**30:.1f} GiB {place}"


def fit(
    learner: Learner,
    samples: Sequence[Sample],
    config: DictConfig,
    validate: Callable[[], dict[str, float]] | None,
    export: Callable[[str], None],
    log: Callable[[str], None] = print,
    after: Callable[[int, dict[str, float]], None] | None = None,
    later: Sequence[Phase] = (),
) -> Position:
    """Train for `config.steps` updates; `export` writes the model as `best` or `last` under config.out.

    `after` gets each step and its figures. The `later` phases follow, each with a rise and fall of its own rate.
    """
    accelerator = _accelerator(config)
    out = Path(config.out)
    sharded = bool(config.get("fsdp"))  # then all processes read the weights together
    trained, optimizer = _optimizer(learner, config)
    position = Position()
    if config.resume == "auto" and (out / STATE).is_file():
        position = load_state(out / STATE, learner, optimizer)
        if accelerator.is_main_process:
            log(f"resuming from step {position.step}")
    wrapped = _wrapped(accelerator, learner, config)
    phases = [Phase(samples, config.steps, config.lr), *later]
    steps = sum(phase.steps for phase in phases)
    stream = batches_of(phases, config.batch, config.seed, position.step, config.get("per_image", 1))
    while position.step < steps:
        phase, step = phase_at(phases, position.step)
        rate = phase.lr * share_of_rate(step, phase.steps, config.warm_up, config.final_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        learner.step = position.step
        figures = update(wrapped, learner, next(stream), accelerator, optimizer, trained, config.clip)
        position.step += 1
        last = position.step == steps
        takes_part = accelerator.is_main_process or sharded
        if validate is not None and (position.step % config.val_every == 0 or last) and takes_part:
            figures |= validate()
            score = figures.get("val/giou", -figures.get("val/loss", math.inf))
            if score > position.best:
                position.best = score
                export("best")
        if takes_part and (position.step % config.save_every == 0 or last):
            save_state(out / STATE, learner, optimizer, position, accelerator.is_main_process)
        if accelerator.is_main_process:
            metrics_log.append(out / metrics_log.NAME, position.step, {**figures, "lr": rate})
            if after is not None:
                after(position.step, {**figures, "lr": rate})
            if position.step % 10 == 0 or last or any(name.startswith("val/") for name in figures):
                log(_line(position.step, steps, figures))
        accelerator.wait_for_everyone()
    if accelerator.is_main_process or sharded:
        export("last")
    return position


def trial(learner: Learner, samples: Sequence[Sample], config: DictConfig) -> Trial:
    """Make the first update of a run three times with a learning rate of 0, so that nothing is learnt."""
    accelerator = _accelerator(config)
    trained, optimizer = _optimizer(learner, config)
    wrapped = _wrapped(accelerator, learner, config)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    seconds: list[float] = []
    batch = next(batches(samples, config.batch, config.seed, together=config.get("per_image", 1)))
    for _ in range(3):
        begin = time.perf_counter()
        update(wrapped, learner, batch, accelerator, optimizer, trained, config.clip)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else kilobytes << 10
    return Trial(seconds[0], min(seconds[1:]), peak)


def held(module: nn.Module, parts: int = 1) -> str:
    """Say how much memory weights, gradients and AdamW take, before activations and images, divided into parts."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) / parts
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    learning = 12 * trained / parts  # gradient and two moments in float32
    return (
        f"{(weights + learning) / 1e9:.1f} GB a process before activations and images: weights {weights / 1e9:.1f}, "
        f"gradients and AdamW {learning / 1e9:.1f}, of {trained:,} trained weights"
    )


def can_be_tried(module: nn.Module) -> bool:
    """Whether a dry run can make an update here in little time: on a GPU, or with a small model."""
    return torch.cuda.is_available() or sum(parameter.numel() for parameter in module.parameters()) < 1e8


def join_processes() -> PartialState:
    """Join the processes that torchrun started; the others wait for as long as one validates and writes."""
    # Without `cpu` processes would not be counted on a CPU.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))


def _accelerator(config: DictConfig) -> Accelerator:
    return Accelerator(mixed_precision=mixed_precision(config.precision), cpu=not torch.cuda.is_available())


def _wrapped(accelerator: Accelerator, learner: Learner, config: DictConfig) -> nn.Module:
    """A learner whose gradients are averaged over processes, which divided weights do by themselves."""
    wrapped: nn.Module = learner if config.get("fsdp") else accelerator.prepare(learner)
    return wrapped


def _optimizer(learner: Learner, config: DictConfig) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    return trained, torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)


def update(
    wrapped: nn.Module,
    learner: Learner,
    samples: Sequence[Sample],
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
    clip: float,
) -> dict[str, float]:
    """Make one update from a batch, of which each process takes its share."""
    bounds = [len(samples) * place // accelerator.num_processes for place in range(accelerator.num_processes + 1)]
    own = samples[bounds[accelerator.process_index] : bounds[accelerator.process_index + 1]]
    passes = learner.passes(own)
    most = int(accelerator.gather(torch.tensor([len(passes)], device=accelerator.device)).max())
    if len(passes) < most:
        passes = learner.passes(own, most)
    weight = torch.tensor([sum(map(learner.weight, passes))], device=accelerator.device)
    weight = float(accelerator.gather(weight).sum())
    summed = torch.zeros((), device=accelerator.device)
    for number, rows in enumerate(passes, 1):
        sync = accelerator.no_sync(wrapped) if number < most else nullcontext()
        with sync, accelerator.autocast():
            loss = wrapped(rows)
            # Gradients are averaged over processes.
            accelerator.backward(loss * accelerator.num_processes / weight)
        summed += loss.detach()
    norm = whole(torch.nn.utils.clip_grad_norm_(trained, clip))
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    total = accelerator.gather(summed[None]).sum()
    return {"loss": float(total) / weight, "grad_norm": float(norm)}


def share_of_rate(step: int, steps: int, warm_up: float, final: float) -> float:
    """Share of the learning rate at a step: a linear rise, then half a cosine.

    >>> [round(share_of_rate(step, 100, 0.1, 0.0), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    rise = round(warm_up * steps)
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def batches(
    samples: Sequence[Sample], size: int, seed: int, start: int = 0, together: int = 1
) -> Iterator[list[Sample]]:
    """Endless batches from the `start`-th on; each epoch has an order of its own, and none is cut short.

    Up to `together` samples of an image are drawn at a time.
    """
    stream = in_order(samples, seed, start * size, together)
    while True:
        yield [next(stream) for _ in range(size)]


def save_state(
    file: Path, learner: nn.Module, optimizer: torch.optim.Optimizer, position: Position, writes: bool = True
) -> None:
    """Write what a run needs to go on, whole or not at all; processes that only hold a part of it don't write."""
    content = io.BytesIO()
    weights = {name: whole(p.detach()).cpu() for name, p in learner.named_parameters() if p.requires_grad}
    moments = whole_state(optimizer.state_dict())
    if writes:
        torch.save({"step": position.step, "best": position.best, "weights": weights, "optimizer": moments}, content)
        write_atomically(file, content.getvalue())


def load_state(file: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Set weights and optimizer to a state."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        if parameters.keys() != state["weights"].keys():
            raise ValueError("it holds other weights than this run trains")
        for name, parameter in parameters.items():
            put(parameter, state["weights"][name])
        optimizer.load_state_dict(divided_state(state["optimizer"], list(parameters.values())))
        return Position(int(state["step"]), float(state["best"]))
    except Exception as error:  # a file can be broken in many ways, and each has its own exception
        raise UserError(
            f"can't resume from {file}: {one_line(error, 200)}; set resume=none, or `out` to another folder"
        ) from None


def mixed_precision(precision: str) -> str:
    """Accelerate's name of a precision; auto: bfloat16 on a GPU."""
    if precision == "auto":
        precision = "bfloat16" if torch.cuda.is_available() else "float32"
    return {"bfloat16": "bf16", "float32": "no"}[precision]


def _line(step: int, steps: int, figures: dict[str, float]) -> str:
    shown = [f"loss {figures['loss']:.4f}"]
    shown += [f"{name.removeprefix('val/')} {value:.3f}" for name, value in figures.items() if name.startswith("val/")]
    return f"step {step}/{steps}  " + "  ".join(shown)
