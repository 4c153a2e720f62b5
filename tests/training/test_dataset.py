"""What verl gets from our parquet, and what is left out of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from segzero.data.sample import to_parquet
from segzero.errors import UserError
from segzero.training.dataset import SampleDataset, from_json, to_json


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


def test_a_row_is_what_verl_reads(make, samples):
    dataset = make(samples)
    row = dataset[2]
    assert len(dataset) == len(samples)
    [image] = [part for part in row["raw_prompt"][1]["content"] if part["type"] == "image"]
    assert image["image"] == samples[2].image
    assert row["extra_info"] == {"index": 2, "id": samples[2].id}
    assert from_json(row["reward_model"]["ground_truth"]).objects == samples[2].objects


def test_truth_survives_as_text(samples):
    for sample in samples:
        plain = replace(sample, image="", meta={})
        assert from_json(to_json(plain)) == plain


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
    said = capsys.readouterr().out
    assert said.count("left out") == 2
    assert "1 samples; 3 left out as unreadable (first: gone: no such image" in said


@pytest.mark.parametrize("count", [0, 1])
def test_no_sample_is_the_users_mistake(make, samples, count):
    with pytest.raises(UserError, match=r"no samples in|no usable sample in"):
        make([replace(samples[0], image="gone.png")][:count])


def test_some_may_be_asked_for(make, samples):
    assert len(make(samples, max_samples=3)) == 3
