"""Supervised fine-tuning: the loss is that of separate rows, runs resume, and what is written is a checkpoint."""

import os
import subprocess
import sys

import pytest
import torch

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.policy import Request, load_policy
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import render_messages
from segzero.sample import Object, Sample
from segzero.supervised import answers, settings
from segzero.supervised.loop import batches, load_state, save_state
from segzero.supervised.lora import merged_weights
from segzero.supervised.sft import load_learner, read_data, save, sft
from segzero.training.tokenization import Encoder, load_processor
from tests.helpers.launching import SCRIPTS, write_one_object_scenes
from tests.helpers.random_checkpoints import FAMILIES
from tests.helpers.released_shapes import write_released

QUICK = ["steps=4", "batch=3", "val_every=2", "val_samples=4", "save_every=2", "lr=1e-3", "warm_up=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    folder = tmp_path_factory.mktemp("data")
    to_parquet(make_samples(18, 31), folder / "train.parquet")
    to_parquet(make_samples(4, HELD_OUT_SEED + 31), folder / "val.parquet")
    return folder


def config_of(*overrides):
    return settings.compose("sft", overrides)


def learner_of(path, *overrides):
    checkpoint = read_checkpoint(path)
    encoder = Encoder(checkpoint, load_processor(str(path)))
    return load_learner(config_of(*overrides), encoder, torch.device("cpu")).eval()


def samples_of(count=3):
    from segzero.tiny.questions import make_samples

    return make_samples(count, 5)


def trained(learner):
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def run(data, out, *overrides):
    sft([f"data={data}", f"out={out}", *QUICK, *overrides])
    weights = torch.load(out / "state.pt", weights_only=True)
    return weights["step"], weights["weights"]


# The loss


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_library_for_each_row_alone(family, checkpoints):
    from transformers import AutoModelForImageTextToText

    learner = learner_of(checkpoints[family])
    rows = [learner.encode(sample) for sample in samples_of()]
    plain = AutoModelForImageTextToText.from_pretrained(checkpoints[family], dtype=torch.float32).eval()
    total = 0.0
    for row in rows:
        ids = torch.tensor([row.prompt + row.answer])
        labels = torch.tensor([[-100] * len(row.prompt) + row.answer])
        kinds = (ids == learner.encoder.processor.image_token_id).int()
        output = plain(input_ids=ids, labels=labels, mm_token_type_ids=kinds, **learner._pixels(row.picture))
        total += float(output.loss.detach()) * len(row.answer)
    assert float(learner(rows).detach()) == pytest.approx(total, rel=1e-5)


def test_passes_change_neither_loss_nor_gradients():
    learner = learner_of(shipped.policy_path())
    found = []
    for count in (1, 3):
        learner.zero_grad()
        passes = learner.passes(samples_of(), count)
        assert len(passes) == count
        losses = [learner(rows) for rows in passes]
        sum(losses).backward()
        gradients = {name: p.grad.clone() for name, p in trained(learner).items()}
        found.append((float(sum(losses).detach()), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-4)


def test_only_what_should_learn_has_gradients():
    for overrides, wanted in ((["lora_rank=2"], "lora_"), ([], "language_model"), (["freeze_vision_tower=false"], "")):
        names = trained(learner_of(shipped.policy_path(), *overrides))
        assert names and all(wanted in name for name in names), overrides
        assert ("visual" in " ".join(names)) == (not wanted)


# Adapters


def test_merged_weights_answer_as_adapters_do(tmp_path):
    learner = learner_of(shipped.policy_path(), "lora_rank=4")
    torch.manual_seed(0)
    for name, parameter in trained(learner).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    rows = [learner.encode(sample) for sample in samples_of()]
    before = learner_of(shipped.policy_path())(rows)
    save(learner, tmp_path / "merged")
    merged = learner_of(tmp_path / "merged")
    assert float(merged(rows).detach()) == pytest.approx(float(learner(rows).detach()), rel=1e-5)
    assert float(merged(rows).detach()) != pytest.approx(float(before.detach()), rel=1e-3)


def test_adapters_leave_the_vision_tower_alone(checkpoints):
    for folder in checkpoints.values():
        learner = learner_of(folder, "lora_rank=2")
        assert not any("visual" in name for name in trained(learner))
        assert set(merged_weights(learner.net)) == set(learner_of(folder).net.state_dict())


# A run


def stop_in_the_third_update(data, out, monkeypatch, *overrides):
    from segzero.supervised import loop

    update, calls = loop.update, []

    def stop_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(loop, "update", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(data, out, *overrides)
    monkeypatch.setattr(loop, "update", update)


def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(data, tmp_path, monkeypatch):
    step, whole = run(data, tmp_path / "whole")
    stop_in_the_third_update(data, tmp_path / "stopped", monkeypatch)
    assert (step, 4) == (4, run(data, tmp_path / "stopped")[0])
    resumed = torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)["weights"]
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=1e-6)


def test_what_is_written_is_a_policy_that_answers_alike(data, tmp_path):
    run(data, tmp_path / "run")
    best, shipped_card = read_checkpoint(tmp_path / "run" / "best"), read_checkpoint(shipped.policy_path())
    assert (best.frame, best.prompt) == (shipped_card.frame, shipped_card.prompt)
    learner = learner_of(tmp_path / "run" / "last")
    sample = samples_of(1)[0]
    request = Request(best.frame.fit(sample.open()), render_messages(sample.question, best.prompt))
    saved = load_policy(tmp_path / "run" / "last", "transformers").generate([request])
    loss = float(learner([learner.encode(sample)]).detach())
    with learner.generating() as policy:
        assert policy.generate([request]) == saved
    assert float(learner([learner.encode(sample)]).detach()) == loss  # and it trains on as before


def test_learning_lowers_the_loss_of_what_is_learnt():
    learner = learner_of(shipped.policy_path()).train()
    rows = [learner.encode(sample) for sample in samples_of()]
    optimizer = torch.optim.AdamW(trained(learner).values(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = learner(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def run_by_two(data, out, *overrides):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "segzero"]
    command += ["sft", f"data={data}", f"out={out}", *QUICK, *overrides]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert ended.returncode == 0 and ended.stdout.count(b"policy   ") == 1, ended.stderr[-3000:]
    return ended.stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_two_processes_with_divided_weights_go_on_where_one_stopped(data, tmp_path, monkeypatch, rank):
    """FSDP: the last two steps of four, from the state of one process, end as that one process alone would."""
    settings = [f"lora_rank={rank}", "lora_dropout=0", "val_every=2"]
    _, alone = run(data, tmp_path / "alone", *settings)
    stop_in_the_third_update(data, tmp_path / "two", monkeypatch, *settings)
    output = run_by_two(data, tmp_path / "two", *settings, "fsdp=true")
    assert "resuming from step 2" in output and "loss" in output
    both = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["weights"]
    for name, weights in alone.items():
        torch.testing.assert_close(both[name], weights, rtol=0, atol=1e-5)
    sample = samples_of(1)[0]
    losses = []
    for place in ("two", "alone"):
        learner = learner_of(tmp_path / place / "last")
        losses.append(float(learner([learner.encode(sample)]).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(data, tmp_path):
    _, alone = run(data, tmp_path / "alone", "val_every=100")
    run_by_two(data, tmp_path / "two", "val_every=100")
    both = torch.load(tmp_path / "two" / "state.pt", weights_only=True)["weights"]
    for name, weights in alone.items():
        torch.testing.assert_close(both[name], weights, rtol=0, atol=1e-5)


def test_batches_go_on_where_they_stopped():
    samples = samples_of(5)
    whole, later = batches(samples, 3, 0), batches(samples, 3, 0, start=2)
    ids = [[sample.id for sample in next(whole)] for _ in range(5)]
    assert [[sample.id for sample in next(later)] for _ in range(3)] == ids[2:]
    assert sorted([*ids[0], *ids[1]][:5]) == sorted(sample.id for sample in samples)  # each once in an epoch


# What is taught


def test_an_answer_has_the_format_of_the_prompt_and_the_coordinates_of_the_frame():
    from segzero.answer import parse_answer
    from segzero.frames import stretch

    thing = Object((10, 20, 50, 60))
    sample = Sample("s", "x.jpg", "the cup", 100, 100, (thing,), meta={"think": "a cup\n on the left"})
    text = answers.answer_text(sample, stretch(840), "seg_zero")
    answer = parse_answer(text, "seg_zero")
    assert answer.error is None and answer.think == "a cup on the left"
    assert answer.instances[0].box == (84, 168, 420, 504)
    assert answer.instances[0].points == ((252, 336), (252, 336))
    nothing = answers.answer_text(Sample("s", "x.jpg", "the cup", 100, 100), stretch(840), "multi")
    assert nothing == '<think>I look for "the cup". Nothing in the image matches.</think><answer>[]</answer>'


def test_a_prompt_for_one_object_takes_samples_of_one_object(data):
    config = config_of(f"data={data}", "prompt=seg_zero", "max_prompt_length=2000")
    checkpoint = read_checkpoint(shipped.policy_path(), prompt="seg_zero")
    found = read_data(config, Encoder(checkpoint, load_processor(checkpoint.path)))
    assert found.train and all(len(sample.objects) == 1 for sample in found.train)
    assert len(found.train) + len(found.report.unreadable) == 18


# Mistakes


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("step=3", "unknown key 'step'; did you mean 'steps'"),
        ("steps=many", "steps=many: it must be a number"),
        ("steps=0", "steps=0: it must be a whole number from 1 on"),
        ("lr=-1", "lr=-1: it must be 0 or more"),
        ("freeze_vision_tower=3", "it must be true or false"),
        ("precision=half", "precision=half: use one of"),
        ("data=/nowhere", "no data for training: no /nowhere/train*.parquet"),
        ("model=/nowhere", "no checkpoint"),
        ("dry_run", "dry_run: write key=value"),
    ],
)
def test_a_mistake_is_one_line(override, problem, run_segzero, tmp_path):
    code, _, error = run_segzero("sft", f"out={tmp_path / 'run'}", override)
    assert code == 2 and problem in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_divided_weights_need_several_processes(data, tmp_path, run_segzero):
    code, _, error = run_segzero("sft", f"data={data}", f"out={tmp_path / 'run'}", "fsdp=true")
    assert code == 2 and "start several with torchrun" in error and not (tmp_path / "run").exists()


def test_a_state_of_another_run_is_refused(tmp_path):
    learner, other = learner_of(shipped.policy_path()), learner_of(shipped.policy_path(), "lora_rank=2")
    from segzero.supervised.loop import Position

    optimizer = torch.optim.AdamW(trained(learner).values())
    save_state(tmp_path / "state.pt", learner, optimizer, Position(3, 0.5))
    assert load_state(tmp_path / "state.pt", learner, optimizer) == Position(3, 0.5)
    with pytest.raises(UserError, match="it holds other weights than this run trains; set resume=none"):
        load_state(tmp_path / "state.pt", other, torch.optim.AdamW(trained(other).values()))
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match="can't resume from"):
        load_state(tmp_path / "state.pt", learner, optimizer)


def test_a_dry_run_shows_what_is_taught_and_writes_nothing(data, run_segzero, tmp_path):
    code, output, _ = run_segzero("sft", f"data={data}", f"out={tmp_path / 'run'}", "dry_run=true", *QUICK)
    assert code == 0 and "18 samples; 4 for validation" in output and output.count("<think>") == 2
    assert "0.0 GB a process" in output and "of 493,536 trained weights" in output and " s an update, " in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_launcher_passes_a_dry_run(tmp_path):
    write_one_object_scenes(tmp_path, 30)
    places = {"MODEL_PATH": str(write_released("qwen2_5_vl_3b", tmp_path / "3b")), "DATA": str(tmp_path)}
    command = ["bash", SCRIPTS / "run_sft_3b.sh", "dry_run=true", "precision=bfloat16", f"out={tmp_path / 'run'}"]
    ended = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "frame stretch(840), prompt seg_zero; adapters of rank 64" in ended.stdout
    assert "9.4 GB a process before activations and images: weights 8.0, gradients and AdamW 1.4," in ended.stdout
    assert '"points_1"' in ended.stdout and not (tmp_path / "run").exists()


def test_names_of_the_configuration_stand_for_paths(monkeypatch):
    monkeypatch.delenv("MODEL_PATH", raising=False)
    assert settings.model_path("tiny") == str(shipped.policy_path())
    assert settings.model_path("qwen2_5_vl_3b") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert settings.model_path("owner/name") == "owner/name"
