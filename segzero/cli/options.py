"""Options shared by several commands, and commands that take their options as dataclasses."""

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from segzero import shipped
from segzero.errors import UserError

if TYPE_CHECKING:
    from segzero.mask_pipeline import MaskPipeline
    from segzero.pipeline import Pipeline, SegZeroPipeline
    from segzero.policy import Sampling

SegmenterOption = Annotated[
    str | None,
    typer.Option("--segmenter", help="Folder or hub name of a SAM2 or SAM3 checkpoint; default: the shipped one."),
]
PolicyBackendOption = Annotated[str, typer.Option(help="auto, transformers, vllm or openai.")]
SegmenterBackendOption = Annotated[str, typer.Option(help="auto, transformers or sam2.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
MaxPixelsOption = Annotated[int, typer.Option(help="Refuse larger images.", min=1)]


@dataclass(frozen=True)
class BackendOptions:
    """Programs and device that run the models, and the form of the policy's prompt and answers."""

    policy_backend: PolicyBackendOption = "auto"
    segmenter_backend: SegmenterBackendOption = "auto"
    device: DeviceOption = "auto"
    frame: Annotated[
        str | None, typer.Option(help="stretch(840), native or relative(1000); default: the checkpoint's.")
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="multi, vision_reasoner, seg_zero or phrase; default: the checkpoint's.")
    ] = None


@dataclass(frozen=True)
class RefineOptions:
    """Looks of the policy at its own masks."""

    refine: Annotated[
        int, typer.Option(help="Let the policy look at each mask, and correct it, up to so many times.", min=0)
    ] = 0
    refine_seconds: Annotated[
        float | None, typer.Option(help="Begin no further look at a batch's masks after so many seconds.")
    ] = None

    @property
    def limit(self) -> float:
        """Seconds in which a batch's masks are looked at."""
        if self.refine_seconds is not None and not self.refine:
            raise UserError("--refine-seconds limits --refine, which is not given")
        return math.inf if self.refine_seconds is None else self.refine_seconds

    def applied(self, pipeline: "Pipeline") -> "Pipeline":
        """Let the pipeline look at its masks, if that is wanted."""
        from segzero.pipeline import SegZeroPipeline
        from segzero.refinement.pipeline import refining

        limit = self.limit
        if not self.refine:
            return pipeline
        if not isinstance(pipeline, SegZeroPipeline):
            raise UserError("--refine lets a policy look at its masks, and a mask model is none; leave it out")
        return refining(pipeline, self.refine, limit)


@dataclass(frozen=True)
class ModelOptions:
    """A policy and a segmenter, or a mask model in their place."""

    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Folder, hub name or server of a Qwen-VL checkpoint; default: the shipped one."),
    ] = None
    segmenter: SegmenterOption = None
    mask_model: Annotated[
        str | None,
        typer.Option("--mask-model", help="Instead of policy and segmenter: what `segzero tune` wrote, or tiny."),
    ] = None
    backends: BackendOptions = field(default_factory=BackendOptions)

    def load(self, sampling: "Sampling | None" = None, by_hand: bool = False) -> "SegZeroPipeline | MaskPipeline":
        """Load them; a model that is not named is the shipped one, and a line says so.

        `by_hand`: a mask model has a segmenter beside it, for what is drawn by hand.
        """
        from segzero.mask_pipeline import MaskPipeline
        from segzero.pipeline import SegZeroPipeline
        from segzero.segmenter import load_segmenter

        if self.mask_model is not None:
            self.check_alone(by_hand=by_hand)
            pipeline = MaskPipeline.from_pretrained(self.mask_model, self.backends.device)
            if by_hand:
                segmenter, backend = segmenter_or_shipped(self.segmenter), self.backends.segmenter_backend
                pipeline.segmenter = load_segmenter(segmenter, backend, device=self.backends.device)
            return pipeline
        return SegZeroPipeline.from_pretrained(
            policy_or_shipped(self.policy),
            segmenter_or_shipped(self.segmenter),
            policy_backend=self.backends.policy_backend,
            segmenter_backend=self.backends.segmenter_backend,
            device=self.backends.device,
            frame=self.backends.frame,
            prompt=self.backends.prompt,
            sampling=sampling,
        )

    def check_alone(self, *others: tuple[str, object, object], by_hand: bool = False) -> None:
        """Refuse options without effect beside a mask model; `others` are names, values and defaults of a command's.

        `by_hand`: a segmenter has an effect.
        """
        if self.mask_model is None:
            return
        of_segmenter = [] if by_hand else ["segmenter", "segmenter_backend"]
        names = ["policy", "policy_backend", *of_segmenter, "frame", "prompt"]
        given, usual = ({**vars(one), **vars(one.backends)} for one in (self, ModelOptions()))
        rows = [*((name, given[name], usual[name]) for name in names), *others]
        idle = [f"--{name.replace('_', '-')}" for name, value, default in rows if value != default]
        if idle:
            raise UserError(f"--mask-model stands in place of policy and segmenter; leave {', '.join(idle)} out")


def policy_or_shipped(path: str | None) -> str:
    """Return the path, or that of the shipped policy after a line that says so."""
    return path or _shipped("policy", str(shipped.policy_path()))


def segmenter_or_shipped(path: str | None) -> str:
    """Return the path, or that of the shipped segmenter after a line that says so."""
    return path or _shipped("segmenter", str(shipped.segmenter_path()))


def _shipped(model: str, path: str) -> str:
    typer.echo(f"no --{model} given: using the small one that comes with SegZero, made for its synthetic scenes")
    return path


def split_commas(text: str) -> list[str]:
    """Split names that are separated by commas; spaces around them and empty ones go.

    >>> split_commas("panel, json,")
    ['panel', 'json']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def takes_dataclasses(command: Callable[..., None]) -> Callable[..., None]:
    """Let a Typer command have parameters that are dataclasses: each of their fields becomes an option.

    A field is declared as the parameter of a command is, `batch: Annotated[int, typer.Option(help="...")] = 16`, or is
    a dataclass itself. The decorated command takes all options by name; those left out have their defaults.
    """
    groups = {name: hint for name, hint in get_type_hints(command).items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**values: Any) -> None:
        built = {name: _build(group, values) for name, group in groups.items()}
        command(**values, **built)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
    return run


def _parameters(group: Any) -> Iterator[Parameter]:
    """A parameter per field of a dataclass, and of the dataclasses in it."""
    hints = get_type_hints(group, include_extras=True)
    for one in fields(group):
        if is_dataclass(hints[one.name]):
            yield from _parameters(hints[one.name])
        else:
            default = Parameter.empty if one.default is MISSING else one.default
            yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name])


def _build(group: Any, values: dict[str, Any]) -> Any:
    """Make a dataclass from its fields' values, which leave `values`."""
    built = {}
    for name, hint in get_type_hints(group).items():
        if is_dataclass(hint):
            built[name] = _build(hint, values)
        elif name in values:
            built[name] = values.pop(name)
    return group(**built)
