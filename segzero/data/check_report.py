"""What `check` found, as one HTML page: the table, and pictures of what is wrong and of some of the rest."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from segzero.data.check import Report, samples_of
from segzero.data.preview import draw_some, entry
from segzero.sample import Sample
from segzero.viz.html import page

EACH = 4  # pictures of one thing that is wrong
REST = 12  # pictures of samples with which nothing is wrong


def check_page(report: Report, folders: Sequence[str | Path], seed: int = 0) -> str:
    """The page. It reads the data once more, as a report holds ids alone."""
    first = {what: list(dict.fromkeys(ids))[:EACH] for what, ids in report.wrong.items()}
    wanted = {id for ids in first.values() for id in ids}
    wrong = {id for ids in report.wrong.values() for id in ids}
    found: dict[str, Sample] = {}

    def others():
        for _, _, sample in samples_of(folders):
            if sample.id in wanted:
                found.setdefault(sample.id, sample)
            if sample.id not in wrong:
                yield sample

    rest = draw_some(others(), REST, seed)
    title = f"{', '.join(map(str, folders))}: {'nothing is' if report.ok else 'something is'} wrong"
    body = f"<h1>{escape(title)}</h1><pre>{escape(str(report))}</pre>"
    for what, ids in sorted(first.items()):
        everyone = report.wrong[what]
        body += f"<h2>{escape(what)} <small>({len(everyone)} samples)</small></h2>"
        body += f"<details><summary>all ids</summary>{escape(' '.join(everyone))}</details>"
        body += "".join(entry(found[id]) for id in ids)
    if rest:
        body += "<h2>Some of the rest</h2>" + "".join(map(entry, rest))
    return page(title, body)
