"""Phases of a run: shares of replayed samples, learning rates, and going on in the middle of any of them."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from segzero.data.parquet import to_parquet
from segzero.sample import Sample
from segzero.supervised.phases import Phase, batches_of, phase_at
from segzero.supervised.tune import tune
from segzero.tiny.questions import HELD_OUT_SEED, make_samples


def samples_of(name, count):
    return [Sample(f"{name}{i}", "x.png", "it", 9, 9) for i in range(count)]


A, B, C = (samples_of(name, count) for name, count in (("a", 7), ("b", 5), ("c", 3)))
PHASES = [Phase(A, 6, 1e-3), Phase(B, 8, 1e-4, 0.3, A), Phase(C, 4, 1e-5, 0.5, [*A, *B])]


def test_a_share_of_each_batch_is_replayed():
    batches = list(batches_of(PHASES, 10, seed=0))
    kinds = [Counter(sample.id[0] for sample in batch) for batch in batches]
    assert kinds[:6] == [{"a": 10}] * 6 and kinds[6:14] == [{"b": 7, "a": 3}] * 8
    assert all(kind["c"] == 5 and kind["a"] + kind["b"] == 5 for kind in kinds[14:]) and len(kinds) == 18
    small = [Counter(sample.id[0] for sample in batch) for batch in batches_of(PHASES, 2, seed=0)]
    assert sum(kind["a"] for kind in small[6:14]) == 4  # 0.3 of 16, spread over the phase
    seen = Counter(sample.id for batch in batches[6:14] for sample in batch if sample.id[0] == "b")
    assert set(seen) == {sample.id for sample in B} and max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("start", [0, 3, 6, 9, 14, 17])
def test_batches_go_on_anywhere(start):
    whole = list(batches_of(PHASES, 4, seed=5))
    assert list(batches_of(PHASES, 4, 5, start)) == whole[start:]
    assert phase_at(PHASES, start)[0].lr == (1e-3 if start < 6 else 1e-4 if start < 14 else 1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for place, (name, seed) in enumerate((("first", 41), ("second", 43))):
        (folder / name).mkdir()
        made = [replace(sample, id=f"{name}{i}") for i, sample in enumerate(make_samples(6, seed))]
        to_parquet(made, folder / name / "train.parquet")
        to_parquet(make_samples(2, HELD_OUT_SEED + 50 + place), folder / name / "val.parquet")
    return folder


def arguments(data, out, *more):
    later = f"phases=[{{data: {data / 'second'}, steps: 2, lr: 1e-4, replay: 0.5}}]"
    usual = [
        "steps=2",
        "batch=4",
        "lr=1e-3",
        "warm_up=0",
        "lora_rank=2",
        "lora_dropout=0",
        "val_every=9",
        "val_samples=2",
        "save_every=1",
    ]
    return [f"data={data / 'first'}", f"out={out}", later, *usual, *more]


def test_a_run_in_two_phases_goes_on_in_the_second(data, tmp_path, monkeypatch):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    tune("prompt", arguments(data, whole))
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["data"]["lr"] for row in rows] == pytest.approx([1e-3, 5.05e-4, 1e-4, 5.05e-5])
    from segzero.supervised import loop

    save, saved = loop.save_state, []

    def save_three(*state):
        save(*state)
        saved.append(state)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_three)
    with pytest.raises(KeyboardInterrupt):
        tune("prompt", arguments(data, halted))
    monkeypatch.undo()
    tune("prompt", arguments(data, halted))
    states = [torch.load(folder / "state.pt", weights_only=True)["weights"] for folder in (whole, halted)]
    last = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (whole, halted)]
    assert last[0]["step"] == last[1]["step"] == 4
    assert last[0]["data"] == pytest.approx(last[1]["data"], rel=1e-4)
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)


def test_a_dry_run_shows_the_phases(data, tmp_path, run_segzero):
    code, output, _ = run_segzero("tune", *arguments(data, tmp_path / "run", "dry_run=true"))
    assert code == 0 and "6 samples of 6 images" in output and "phase 2" in output
    assert "2 updates, 0.7 epochs, lr 0.0001; 50% of a batch from the 6 samples before" in output


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ("[{data: x}]", "each has data and steps"),
        ("[{data: x, steps: 1, rate: 2}]", "each has data and steps"),
        ("[{data: x, steps: many}]", "phases: steps=many is not what it should be"),
        ("[{data: x, steps: 1, replay: 1}]", "replay from 0 to below 1"),
        ("[1]", "each has data and steps"),
        ("3", "it must be a list"),
        ("[{data: /nowhere, steps: 1}]", "no data for training"),
    ],
)
def test_a_wrong_phase_is_one_line(phases, problem, data, tmp_path, run_segzero):
    code, _, error = run_segzero("tune", f"data={data / 'first'}", f"out={tmp_path / 'run'}", f"phases={phases}")
    assert code == 2 and problem in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
