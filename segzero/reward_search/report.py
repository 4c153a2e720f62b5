"""The report of a search, one self-contained HTML page: result, trials, candidates and their lineage, answers, cost."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rewards.search.expressions import genome_of
from rewards.search.prompts import JudgedAnswer
from rewards.search.term_statistics import TOTAL
from segzero.data.preview import true_instances
from segzero.io import write_atomically
from segzero.masks import box_of, decode
from segzero.result import InstanceMask
from segzero.reward_search.comparison import RewardComparison
from segzero.reward_search.llm import usage
from segzero.reward_search.loop import SearchRun, lineage
from segzero.reward_search.records import SearchCandidate
from segzero.reward_search.rollouts import AnswerGroup
from segzero.reward_search.trials import TrainingTrial
from segzero.viz.charts import Line, chart
from segzero.viz.html import page, picture, side_by_side, table, text
from segzero.viz.panel import draw_panel

NAME = "report.html"
MOST_CURVES = 3  # in a chart: more names would not fit beside its title
MOST_PROBLEM = 200  # characters in the table of candidates


def write_report(run: SearchRun, groups: Sequence[AnswerGroup]) -> Path:
    """Write report.html."""
    return write_atomically(run.out / NAME, report_page(run, groups).encode("utf-8", "backslashreplace"))


def report_page(run: SearchRun, groups: Sequence[AnswerGroup]) -> str:
    """Lay the page out."""
    parts = [f"<h1>Search for a reward <small>{text(_outcome(run))}</small></h1>", f"<p>{text(run.settings.task)}</p>"]
    if run.comparison is not None:
        parts += ["<h2>The winner against the base</h2>", _comparison(run.comparison)]
        parts += [_mean_curves(run.finals)]
    if run.hacking:
        parts += ["<h2>Reward hacking</h2>", table(("training", "finding"), run.hacking)]
    if run.trials or run.failed_trials:
        parts += ["<h2>Trials</h2>", _trials(run)]
    if run.winner is not None:
        parts += ["<h2>The winner</h2>", _winner(run, run.winner), *_panels(run.winner, groups)]
    parts += ["<h2>Candidates</h2>", _candidates(run), "<h2>Terms</h2>", _terms(run)]
    parts += ["<h2>Cost</h2>", _cost(run, groups)]
    return page("SegZero: search for a reward", "\n".join(parts))


def _outcome(run: SearchRun) -> str:
    if run.winner is None:
        return "no candidate can be used"
    if run.comparison is None:
        return f"{run.winner.id} chosen"
    return run.comparison.in_words


def _comparison(comparison: RewardComparison) -> str:
    rows = [
        (
            one.name,
            f"{one.base:.3f}",
            f"{one.winner:.3f}",
            f"{one.difference:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            f"{one.p:.4f}",
            " ".join(f"{value:+.3f}" for value in one.by_seed),
        )
        for one in comparison.figures
    ]
    low, high = comparison.with_seeds
    head = ("figure", "base", "winner", "difference", "95 % interval", "p", "by seed")
    return (
        f"<p>{comparison.questions} questions that played no part in the choice, {comparison.seeds} trainings of each. "
        "Interval and p-value say what other questions would have given; the last column shows how far seeds differ. "
        f"With the seeds drawn, too, the interval of gIoU is {low:+.3f} to {high:+.3f}.</p>{table(head, rows)}"
    )


def _trials(run: SearchRun) -> str:
    rows = [
        (
            trial.name,
            str(trial.steps),
            f"{trial.held_out[0][1]:.3f}" if trial.held_out else "-",
            f"{trial.score:.3f}",
            f"{trial.giou[-1][1]:.3f}" if trial.giou else "-",
            f"{trial.n_acc[-1][1]:.3f}" if trial.n_acc else "-",
            f"{trial.seconds:.0f}",
            trial.hacking,
        )
        for trial in sorted(run.trials, key=lambda one: (-one.steps, -one.score))
    ]
    rows += [(name, "-", "-", "failed", "-", "-", "-", why) for name, why in run.failed_trials.items()]
    head = ("candidate", "steps", "score before", "score", "gIoU", "N-acc", "seconds", "finding")
    explained = (
        "<p>The score is the mean of gIoU and N-acc over questions that no training has seen, and over the last two "
        "validations; gIoU and N-acc are those after the last step. Rewards are not on one scale.</p>"
    )
    best = sorted(run.trials, key=lambda one: (-one.steps, -one.score))[:MOST_CURVES]
    charts = _charts([Line(one.name, one.held_out) for one in best], [Line(one.name, one.rewards, 5) for one in best])
    return explained + table(head, rows) + charts


def _mean_curves(finals: Sequence[TrainingTrial]) -> str:
    """Draw the trainings of the comparison: the mean over the seeds of each reward."""
    kinds = {name: [one for one in finals if one.name.rpartition("-")[0] == name] for name in ("base", "winner")}
    return _charts(
        [Line(name, _mean([one.held_out for one in some])) for name, some in kinds.items()],
        [Line(name, _mean([one.rewards for one in some]), 5) for name, some in kinds.items()],
    )


def _mean(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean of curves over the steps that all of them have."""
    by_step = [dict(curve) for curve in curves]
    steps = [step for step in (by_step[0] if by_step else ()) if all(step in one for one in by_step)]
    return [(step, sum(one[step] for one in by_step) / len(by_step)) for step in steps]


def _charts(scores: Sequence[Line], rewards: Sequence[Line]) -> str:
    """Draw held-out scores and rewards by step, of trainings that have any."""
    titled = (("Held-out score", scores), ("Reward", rewards))
    return side_by_side(chart(title, lines) for title, lines in titled if any(line.points for line in lines))


def _winner(run: SearchRun, winner: SearchCandidate) -> str:
    genome = genome_of(winner.source)
    described = f"<p>{text(genome.words)}</p>" if genome else ""
    line = " &larr; ".join(text(id) for id in lineage(winner, [run.base, *run.candidates]))
    return f"{described}<p>Lineage: {line}</p><pre>{text(winner.source)}</pre>{_findings(winner)}"


def _findings(candidate: SearchCandidate) -> str:
    return (
        table(("finding of the gates",), [(finding,) for finding in candidate.findings]) if candidate.findings else ""
    )


def _panels(winner: SearchCandidate, groups: Sequence[AnswerGroup]) -> list[str]:
    by_id = {group.sample.id: group for group in groups}
    parts = []
    for title, answers in (("Recorded answers that earn most", winner.best), ("... and least", winner.worst)):
        drawn = [picture(_panel(one, by_id[one.sample])) for one in answers if one.sample in by_id]
        if drawn:
            parts += [f"<h3>{title}</h3>", side_by_side(drawn)]
    return parts


def _panel(answer: JudgedAnswer, group: AnswerGroup) -> Image.Image:
    """Draw an answer beside the truth, under what it earned."""
    place = group.texts.index(answer.text)
    case, masks = group.cases[place], [decode(rle) for rle in group.masks[place]]
    instances = [InstanceMask(mask, box, (), 1.0) for mask in masks if (box := box_of(mask)) is not None]
    terms = ", ".join(f"{name} {value:.2f}" for name, value in answer.terms.items())
    return draw_panel(
        group.sample.open(),
        f"{answer.question}: reward {answer.total:.2f} ({terms}), IoU {answer.iou:.2f}",
        instances,
        think=case.answer.think,
        error=case.answer.error,
        raw_text=answer.text,
        warnings=case.answer.warnings,
        truth=true_instances(group.sample, group.sample.size),
    )


def _candidates(run: SearchRun) -> str:
    rows = [
        (
            one.id,
            one.origin,
            " ".join(one.parents),
            _state(run, one),
            *([f"{v:.3f}" for v in _fit_values(one)] if one.fit else ["-"] * 5),
            one.problem[:MOST_PROBLEM] or _in_words(one),
        )
        for one in [run.base, *sorted(run.candidates, key=lambda one: (-one.score, one.id))]
    ]
    head = ("candidate", "origin", "from", "state", "selection", "correlation", "within", "agreement", "moves", "")
    explained = (
        "<p>On the recorded answers: rank correlation with the IoU of masks over all of them, and within questions; "
        "the share of questions in which it is above 0, and in which the reward differs at all. Selection is the mean "
        "of the first three.</p>"
    )
    return explained + table(head, rows)


def _fit_values(candidate: SearchCandidate) -> list[float]:
    fit = candidate.fit
    return [fit.score, fit.correlation, fit.within, fit.agreement, fit.spread] if fit else []


def _in_words(candidate: SearchCandidate) -> str:
    genome = genome_of(candidate.source)
    return genome.words if genome else ", ".join(term.name for term in candidate.terms if term.name != TOTAL)


def _state(run: SearchRun, one: SearchCandidate) -> str:
    if run.winner is not None and one.id == run.winner.id:
        return "winner"
    if one.refused:
        return "refused"
    if one.problem:
        return "fails"
    return "tried" if any(trial.name == one.id for trial in run.trials) else "usable"


def _terms(run: SearchRun) -> str:
    """Statistics of the terms of the base, the winner and the candidates that were tried."""
    tried = [one for one in run.candidates if _state(run, one) in ("winner", "tried")]
    rows = [
        (
            one.id,
            term.name,
            f"{term.mean:.3f}",
            f"{term.spread:.3f}",
            f"{100 * term.flat:.0f} %",
            f"{term.correlation:+.2f}" if term.moves else "never moves",
        )
        for one in [run.base, *tried]
        for term in one.terms
    ]
    return table(("candidate", "term", "mean", "spread", "flat questions", "rank correlation with mask IoU"), rows)


def _cost(run: SearchRun, groups: Sequence[AnswerGroup]) -> str:
    spent = usage(run.out)
    judged = sum(one.seconds for one in run.candidates)
    rows = [
        ("recorded answers", f"{sum(len(group.texts) for group in groups)} to {len(groups)} questions"),
        ("candidates", f"{len(run.candidates)}, {judged:.0f} s in the sandbox"),
        ("trials", f"{len(run.trials)}, {sum(trial.seconds for trial in run.trials):.0f} s of training"),
        *[(f"stage {name}", f"{seconds:.0f} s in the last call") for name, seconds in run.seconds.items()],
        ("language model", f"{spent.calls} replies, {spent.input_tokens:,} tokens in, {spent.output_tokens:,} out")
        if run.settings.llm
        else ("language model", "none"),
        *[("remark", remark) for remark in run.remarks],
        *[(name, str(value)) for name, value in vars(run.settings).items() if name != "task"],
    ]
    return table((), rows)
