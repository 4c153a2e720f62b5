"""Rows for verl from our parquet, and the samples that are left out."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from segzero.data.parquet import to_parquet
from segzero.dialogue.prompting import sample_prompt
from segzero.errors import UserError
from segzero.training.dataset import SampleDataset


@pytest.fixture
def make(tmp_path, policy, encoder):
    """A dataset of some samples."""

    def make(samples, max_prompt_length=128, **options):
        config = OmegaConf.create(
            {
                "checkpoint": policy,
                "frame": None,
                "prompt": None,
                "max_prompt_length": max_prompt_length,
                "image_dir": str(tmp_path / "images"),
            }
        )
        file = to_parquet(samples, tmp_path / "samples.parquet")
        tokenizer = encoder.processor.tokenizer
        return SampleDataset([str(file)], tokenizer, config, encoder.processor, **options)

    return make


def test_a_row_names_its_sample(make, samples):
    dataset = make(samples)
    assert len(dataset) == len(samples)
    rows = [dataset[place] for place in range(len(samples))]
    assert [dataset.samples[row["index"]].id for row in rows] == [sample.id for sample in samples]
    assert all("raw_prompt" in row for row in rows)  # verl counts a batch's rows by it


def test_embedded_images_are_written_once(make, samples, tmp_path):
    content = [replace(sample, image=Path(sample.image).read_bytes()) for sample in samples]
    dataset = make([*content, replace(content[0], id="again")])
    assert len(list((tmp_path / "images").iterdir())) == len(samples)
    assert dataset.samples[0].image == dataset.samples[-1].image
    assert Image.open(dataset.samples[0].image).size == samples[0].size


def test_bad_samples_are_left_out_and_named(make, samples, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    dataset = make(
        [
            samples[0],
            replace(samples[1], id="gone", image=str(tmp_path / "gone.png")),
            replace(samples[2], id="broken", image=str(broken)),
            replace(samples[3], id="resized", width=100),
            replace(samples[4], id="long", question="ring " * 400),
        ]
    )
    assert [sample.id for sample in dataset.samples] == [samples[0].id]
    assert list(dataset.report.unreadable) == ["gone", "broken", "resized"]
    assert list(dataset.report.overlong) == ["long"]
    output = capsys.readouterr().out
    assert output.count("left out") == 2
    assert "1 samples; 3 left out as unreadable (first: gone: no such image" in output


def test_prompts_of_later_rounds_show_the_earlier_ones(make, samples):
    box = [28.0, 56.0, 84.0, 112.0]
    found, nothing = {"question": "the ring", "boxes": [box]}, {"question": "a cup", "boxes": []}
    questions = {
        "later": ("what is left of it", (nothing, found)),
        "nothing": ("what is left of [REF:1]", (nothing, found)),
        "both": ("what is between [REF:1] and [REF:2]", (nothing, found)),
        "unread": ("what is left of it", ({"question": "the ring"},)),
        "first": ("what is left of [REF:1]", ()),
        "broken": ("the ring", ({"question": "the ring", "boxes": [[1, 2]]},)),
    }
    dataset = make([replace(samples[0], id=id, question=q, turns=turns) for id, (q, turns) in questions.items()], 300)
    assert [sample.id for sample in dataset.samples] == ["later", "both"]
    assert list(dataset.report.unreadable) == ["unread", "first", "broken"]
    assert dataset.report.needless == ["nothing"]
    assert "1 left out as needing no policy (first: nothing)" in str(dataset.report)
    prompt = sample_prompt(dataset.samples[0], dataset.checkpoint.frame)
    text = prompt.messages(dataset.checkpoint.prompt)[1]["content"][-1]["text"]
    assert text.startswith('''Earlier in this dialogue:
round 1, "a cup": nothing there
round 2, "the ring": <box>[14, 28, 42, 56]</box>
Please find "what is left of <box>[14, 28, 42, 56]</box>"''')
    assert dataset.samples[0].turns == (nothing, found)


@pytest.mark.parametrize("count", [0, 1])
def test_no_usable_sample_is_an_error(make, samples, count):
    with pytest.raises(UserError, match=r"no samples in|no usable sample in"):
        make([replace(samples[0], image="gone.png")][:count])


def test_max_samples_limits_the_dataset(make, samples):
    assert len(make(samples, max_samples=3)) == 3
