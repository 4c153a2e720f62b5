"""`segzero rewards`: search for a reward, and check one."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from segzero.cli.options import SegmenterOption, policy_or_shipped, segmenter_or_shipped, takes_dataclasses
from segzero.errors import UserError
from segzero.extras import needs, require

if TYPE_CHECKING:
    from segzero.reward_search.loop import Clock, SearchRun
    from segzero.reward_search.proposers import Proposer
    from segzero.reward_search.rollouts import AnswerGroup
    from segzero.reward_search.settings import SearchSettings

app = typer.Typer(help="Rewards: search for one, check one.", no_args_is_help=True)
console = Console(highlight=False, markup=False, soft_wrap=True)  # a model's words may hold brackets

TASK = (
    "All objects that the question asks for, and no others, with tight boxes and a point inside each. If nothing fits, "
    "say that nothing is there."
)


@dataclass(frozen=True)
class WriterOptions:
    """The writer of candidates: a language model, or mutation and crossover."""

    llm: Annotated[str | None, typer.Option(help="OpenAI-compatible server of a model, http://HOST:PORT/v1.")] = None
    llm_model: Annotated[str | None, typer.Option(help="The model's name there, if it serves several.")] = None
    offline: Annotated[bool, typer.Option("--offline", help="Without a model: terms are mutated and crossed.")] = False
    timeout: Annotated[float, typer.Option(help="Seconds for a reply.")] = 300.0


@dataclass(frozen=True)
class SizeOptions:
    """Numbers of candidates, answers, trainings and questions."""

    candidates: Annotated[int, typer.Option(help="Of an iteration.", min=1)] = 16
    iterations: Annotated[int, typer.Option(help="Each sees what came of those before.", min=1)] = 4
    questions: Annotated[int, typer.Option(help="Whose answers are recorded.", min=1)] = 64
    answers: Annotated[int, typer.Option(help="To each of them.", min=2)] = 8
    finalists: Annotated[int, typer.Option(help="Candidates that are trained with; 0: no training.", min=0)] = 4
    trial_steps: Annotated[int, typer.Option(help="Of a training; the better half takes twice as many.", min=1)] = 20
    seeds: Annotated[int, typer.Option(help="Trainings of the winner and of the base; 0: none.", min=0)] = 3
    held_out: Annotated[int, typer.Option(help="Questions to choose by, and to compare on.", min=1)] = 400
    batch: Annotated[int, typer.Option(help="Questions of a training step.", min=1)] = 16
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", min=0)] = 0
    override: Annotated[
        list[str] | None, typer.Option(help="A further setting of every training, key=value; may be repeated.")
    ] = None
    minutes: Annotated[float | None, typer.Option(help="Time that a call may take; less is tried then.")] = None


@app.command()
@needs("train")
@takes_dataclasses
def search(
    task: Annotated[str, typer.Option(help="A good answer, in words.")] = TASK,
    data: Annotated[
        str, typer.Option(help="A folder with train*.parquet and val*.parquet, or `scenes`, which are made.")
    ] = "scenes",
    base: Annotated[str, typer.Option(help="The reward to improve on: a preset, or a candidate's file.")] = "soft",
    policy: Annotated[str | None, typer.Option("--policy", help="A checkpoint; default: the shipped one.")] = None,
    segmenter: SegmenterOption = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="A run's rollouts.jsonl, in place of answers sampled afresh.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("search"),
    *,
    writer: WriterOptions,
    size: SizeOptions,
) -> None:
    """Search for a reward: candidates are gated, compared on recorded answers, trained with. Stopped, it goes on."""
    require("torch")
    from segzero.io import lock
    from segzero.reward_search.loop import Clock
    from segzero.reward_search.report import write_report
    from segzero.reward_search.settings import begin

    clock, begun = Clock(size.minutes), time.monotonic()
    models = {"policy": policy_or_shipped(policy), "segmenter": segmenter_or_shipped(segmenter)}
    sources: dict[str, Any] = {"data": data, "rollouts": str(rollouts or ""), **models}
    settings, proposer = _settings(task, base, sources, out, writer, size)
    with lock(out, f"another search is at work in {out}; wait for it, or choose another --out"):
        begin(out, settings)
        run, groups = _search(settings, proposer, clock, out, trains=size.finalists > 0)
        report = write_report(run, groups)
    console.print(f"{(time.monotonic() - begun) / 60:.1f} min; look at {report}")
    if run.winner is None:
        raise typer.Exit(1)
    _say_winner(run)


def _settings(
    task: str,
    base: str,
    sources: dict[str, Any],
    out: Path,
    writer: WriterOptions,
    size: SizeOptions,
) -> "tuple[SearchSettings, Proposer]":
    """Check the options."""
    from rewards import get_rubric
    from rewards.search.candidate import read_candidate
    from segzero.policy.chat_server import ChatServer, split_address
    from segzero.reward_search.llm import LanguageModel
    from segzero.reward_search.proposers import LlmProposer, OfflineProposer
    from segzero.reward_search.settings import SearchSettings

    if bool(writer.llm) == writer.offline:
        raise UserError("say who writes the candidates: --offline, or --llm http://HOST:PORT/v1")
    if base.endswith(".py"):
        read_candidate(base)
        base = str(Path(base).absolute())
    else:
        get_rubric(base)
    given = {name: value for name, value in vars(size).items() if name not in ("minutes", "override")}
    given |= {"finalists": max(1, size.finalists), "overrides": tuple(size.override or ())}
    llm = ""
    proposer: Proposer = OfflineProposer(size.seed)
    if writer.llm:
        named, url = split_address(writer.llm)
        server = ChatServer(url, timeout=writer.timeout)
        name = str(server.pick_model(writer.llm_model or named)["id"])
        llm = f"{name}@{url}"
        proposer = LlmProposer(LanguageModel(server, name, out), task)
    return SearchSettings(task, base, llm=llm, **sources, **given), proposer


def _search(
    settings: "SearchSettings", proposer: "Proposer", clock: "Clock", out: Path, trains: bool
) -> "tuple[SearchRun, list[AnswerGroup]]":
    """Prepare the data, record answers and search."""
    from segzero.reward_search.loop import search as run_search
    from segzero.reward_search.preparation import prepare_data, record_answers

    recorded = Path(settings.rollouts) if settings.rollouts else None
    data = _scenes(out, settings) if settings.data == "scenes" else Path(settings.data)
    samples = prepare_data(out, data, settings, recorded)
    begin = time.monotonic()
    groups = record_answers(out, samples, settings, recorded)
    answers = sum(len(group.texts) for group in groups)
    spent = time.monotonic() - begin
    console.print(f"{answers} recorded answers to {len(groups)} questions; {spent:.0f} s")
    run = run_search(out, settings, groups, proposer, clock, console.print, trains)
    run.seconds = {"recorded answers": spent, **run.seconds}
    return run, groups


def _scenes(out: Path, settings: "SearchSettings") -> Path:
    """Make synthetic scenes, as many as the search needs."""
    from segzero.tiny.scene_files import write_scenes

    folder = out / "scenes"
    if not (folder / "val.parquet").is_file():
        write_scenes(folder, settings.batch * settings.final_steps * 2, 2 * settings.held_out)
    return folder


def _say_winner(run: "SearchRun") -> None:
    assert run.winner is not None
    file = run.out / "winner.py"
    console.print(f"the winner is {run.winner.id}, in {file}; its evidence is in {run.out / 'winner.json'}")
    console.print(f"train with it: segzero train reward=candidate reward.path={file}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A candidate: a reward in the language of the search.")],
) -> None:
    """Check a candidate: its language, and the gates that a reward must pass before a training."""
    from rewards.search.candidate import read_candidate
    from rewards.search.gates import try_gates
    from rewards.search.sandbox import Sandbox

    candidate = read_candidate(file)
    with Sandbox(candidate) as sandbox:
        report = try_gates(sandbox.score)
    masks = "compares masks" if candidate.needs_masks else "needs no masks"
    console.print(f"{file}: in the language; {masks}; {'passes' if report.passed else 'fails'} the gates")
    for finding in [*report.findings, *report.notes]:
        console.print(f"- {finding}")
    if not report.passed:
        raise typer.Exit(1)
