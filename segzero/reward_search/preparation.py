"""Data of a search, split into what trains, what chooses and what compares; and the recorded answers."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import get_prompt
from segzero.reward_search.rollouts import (
    AnswerFormat,
    AnswerGroup,
    draw_answers,
    prepare_samples,
    read_groups,
    recorded_texts,
    refuse_phrases,
    sample_answers,
    write_groups,
)
from segzero.reward_search.settings import SearchSettings
from segzero.sample import Sample

MOST_TOKENS = 512  # of a sampled answer
ROLLOUTS = "rollouts.jsonl"


def prepare_data(out: Path, data: Path, settings: SearchSettings, recorded: Path | None = None) -> list[Sample]:
    """Write train.parquet, val.parquet (to choose trials by) and the test's samples; returns those for training.

    The samples of `val*.parquet` take turns: one helps to choose, the next to compare. Training samples that a run's
    file `recorded` has answers to come first.
    """
    train, val, test = out / "data" / "train.parquet", out / "data" / "val.parquet", out / "test" / "samples.parquet"
    if not (train.is_file() and val.is_file() and test.is_file()):
        most = settings.batch * settings.final_steps * 2
        training = prepare_samples(_training_samples(data / "train*.parquet", settings.questions, recorded), most)
        held_out = prepare_samples(from_parquet(data / "val*.parquet"), 2 * settings.held_out)
        if len(held_out) < 2:
            raise UserError(f"{data}: val*.parquet must hold two samples at least, to choose by and to compare on")
        for samples, file in ((training, train), (held_out[::2], val), (held_out[1::2], test)):
            to_parquet(samples, file)
    return list(from_parquet(train))


def _training_samples(files: Path, questions: int, recorded: Path | None) -> Iterator[Sample]:
    """Read the training samples, first those with recorded answers, up to so many of them."""
    first: set[str] = set()
    if recorded is not None:
        texts = recorded_texts(recorded)
        for sample in islice((sample for sample in from_parquet(files) if sample.id in texts), questions):
            first.add(sample.id)
            yield sample
    yield from (sample for sample in from_parquet(files) if sample.id not in first)


def record_answers(
    out: Path, samples: Iterable[Sample], settings: SearchSettings, recorded: Path | None = None
) -> list[AnswerGroup]:
    """Read the recorded answers of the search; the first time they are sampled, or taken from a run's file."""
    file = out / ROLLOUTS
    checkpoint = read_checkpoint(settings.policy)
    written = AnswerFormat(get_prompt(checkpoint.prompt).format, checkpoint.frame)
    refuse_phrases(written)
    samples = list(samples)
    if not file.is_file():
        make = _sample_afresh if recorded is None else _take_recorded
        write_groups(file, make(samples, settings, written, recorded))
    return read_groups(file, samples, written)


def _sample_afresh(
    samples: list[Sample], settings: SearchSettings, written: AnswerFormat, recorded: Path | None
) -> list[AnswerGroup]:
    from segzero.pipeline import SegZeroPipeline
    from segzero.policy import Sampling

    sampling = Sampling(temperature=1.0, max_tokens=MOST_TOKENS, seed=settings.seed)
    pipeline = SegZeroPipeline.from_pretrained(settings.policy, settings.segmenter, sampling=sampling)
    try:
        return list(sample_answers(pipeline, samples[: settings.questions], settings.answers))
    finally:
        pipeline.close()


def _take_recorded(
    samples: list[Sample], settings: SearchSettings, written: AnswerFormat, recorded: Path | None
) -> list[AnswerGroup]:
    from segzero.segmenter import load_segmenter

    assert recorded is not None
    texts = recorded_texts(recorded)
    known = list(islice((sample for sample in samples if sample.id in texts), settings.questions))
    if not known:
        raise UserError(f"{recorded} records answers to none of the training samples; give the data of that run")
    segmenter = load_segmenter(settings.segmenter)
    return [draw_answers(segmenter, sample, texts[sample.id][: settings.answers], written) for sample in known]
