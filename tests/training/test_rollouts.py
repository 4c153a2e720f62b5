"""Rollouts with servers that a test controls: every failure is raised, and nothing waits for ever."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError

from segzero.errors import UserError
from segzero.masks import decode, mask_iou
from segzero.training import rollouts as module
from segzero.training.group_buffer import GroupBuffer
from segzero.training.monitor import group_metrics
from segzero.training.own_masks import OwnMasks
from segzero.training.rollouts import Rollouts
from segzero.training.scorer import Scorer
from segzero.training.segmenter_actor import SegmenterActor
from segzero.training.tokenization import GeneratedAnswer
from tests.training.test_scorer import truth_as_text


class Server:
    """A replica's handle: `generate_group.remote` returns the result of `reply` for a number of answers."""

    def __init__(self, reply) -> None:
        self.generate_group, self.reply = self, reply
        self.writing = self.most = 0
        self.asked: list[tuple[list[int], int, float]] = []
        self.pictures: list[dict] = []

    async def remote(self, ids, picture, checkpoint, count, sampling):
        self.asked.append((ids, count, sampling["temperature"]))
        self.pictures.append(picture)
        self.writing += 1
        self.most = max(self.most, self.writing)
        try:
            return await self.reply(count)
        finally:
            self.writing -= 1


async def write(count):
    await asyncio.sleep(0.01)
    return [GeneratedAnswer([1, 2, 3], [-0.1] * 3, False, 0) for _ in range(count)]


async def die(count):
    raise RayActorError(error_msg="killed")


async def never(count):
    await asyncio.Event().wait()


@pytest.fixture
def started(samples, encoder):
    """started(reply) -> Rollouts with one server."""
    config = SimpleNamespace(
        n=2,
        temperature=1.0,
        top_p=1.0,
        top_k=-1,
        prompt_length=300,
        response_length=8,
        val_kwargs=SimpleNamespace(top_p=1.0, top_k=-1),
    )

    def start(reply, samples=samples, reward="vision_reasoner", draw=None, **options):
        scorer = Scorer(reward, "multi", encoder.checkpoint.frame, draw)
        return Rollouts([Server(reply)], samples, encoder, scorer, config, **options)

    return start


def batch(*indices, step=1):
    return {"global_steps": step, "uid": [f"prompt-{i}" for i in indices], "index": list(indices)}


def wait_for_failure(rollouts, expected, match):
    assert rollouts.changed.wait(10)
    with pytest.raises(expected, match=match):
        rollouts.check()


def test_validation_answers_all_in_order_but_not_all_at_once(started, samples, monkeypatch):
    monkeypatch.setattr(module, "MOST_VALIDATING", 2)
    rollouts = started(write)
    groups = rollouts.validate(samples)
    assert [group.sample.id for group in groups] == [sample.id for sample in samples]
    assert [len(group.rollouts) for group in groups] == [1] * len(samples)
    assert rollouts.servers[0].most == 2


def test_a_replica_that_dies_ends_validation(started, samples):
    with pytest.raises(RayActorError, match="killed"):
        started(die).validate(samples)


def test_validation_ends_when_any_process_dies(started, samples):
    def check():
        raise UserError("trainer 0 died")

    with pytest.raises(UserError, match="trainer 0 died"):
        started(never, watchdog=SimpleNamespace(check=check)).validate(samples)


def test_a_replica_that_dies_ends_a_step(started):
    rollouts = started(die)
    rollouts.generate_sequences(batch(0, 1))
    wait_for_failure(rollouts, RayActorError, "killed")


def test_a_failure_while_handing_over_ends_a_step(started, monkeypatch):
    async def fail(**options):
        raise ConnectionError("the queue is gone")

    monkeypatch.setattr(module.tq, "async_kv_batch_put", fail)
    rollouts = started(write)
    rollouts.generate_sequences(batch(0))
    wait_for_failure(rollouts, ConnectionError, "the queue is gone")
    assert [len(group.rollouts) for group in rollouts.take_finished(1)] == [2]
    assert rollouts.take_finished(1) == []


def test_the_first_failure_is_raised(started):
    deaths = iter(["first", "second"])

    async def die_in_turn(count):
        raise RayActorError(error_msg=next(deaths))

    rollouts = started(die_in_turn)
    rollouts.generate_sequences(batch(0))
    wait_for_failure(rollouts, RayActorError, "first")
    rollouts.changed.clear()
    rollouts.generate_sequences(batch(1))
    wait_for_failure(rollouts, RayActorError, "first")


def test_waiting_ends_when_all_groups_of_two_steps_are_handed_over(started, monkeypatch):
    handed = []

    async def take(keys, **options):
        await asyncio.sleep(0.1)
        handed.extend(keys)

    async def mark(**options):
        pass

    monkeypatch.setattr(module.tq, "async_kv_batch_put", take)
    monkeypatch.setattr(module.tq, "async_kv_put", mark)
    rollouts = started(write)
    rollouts.generate_sequences(batch(0, 1))
    rollouts.generate_sequences(batch(2, step=2))
    rollouts.wait()
    assert len(handed) == 6
    assert [len(rollouts.take_finished(step)) for step in (1, 2, 1)] == [2, 1, 0]


def test_waiting_ends_with_a_failure(started):
    rollouts = started(die)
    rollouts.generate_sequences(batch(0))
    with pytest.raises(RayActorError, match="killed"):
        rollouts.wait()


# Later rounds of a dialogue

FOUND = '<think>here</think><answer>[{"bbox_2d": [20, 30, 40, 50], "point_2d": [30, 40]}]</answer>'
OTHER = '<think>there</think><answer>[{"bbox_2d": [60, 30, 80, 50], "point_2d": [70, 40]}]</answer>'
MANY = FOUND.replace("]</answer>", ', {"bbox_2d": [60, 30, 80, 50], "point_2d": [70, 40]}' * 20 + "]</answer>")
CITED = "<think>left of [20, 30, 40, 50]</think><answer>[]</answer>"


@pytest.fixture
def later(samples):
    """A third round."""
    turns = (
        {"question": "the ring", "boxes": [[28.0, 56.0, 84.0, 112.0]]},
        {"question": "what is above it", "boxes": [[0.0, 0.0, 20.0, 20.0]]},
    )
    return replace(samples[0], id="later", question="what is left of [REF:1]", turns=turns)


@pytest.fixture
def trained(started, later, encoder, monkeypatch):
    """trained(texts, own_history) -> the prompts, the group, and the fields that verl gets."""
    handed = []

    async def take(fields=None, **options):
        handed.extend([] if fields is None else [fields])

    monkeypatch.setattr(module.tq, "async_kv_batch_put", take)

    def train(texts, own_history=1.0, sample=later, **options):
        left = iter(texts)

        async def reply(count):
            ids = encoder.processor.tokenizer(next(left), add_special_tokens=False)["input_ids"]
            return [GeneratedAnswer(ids, [-0.1] * len(ids), False, 0) for _ in range(count)]

        rollouts = started(reply, [sample], "dialogue", own_history=own_history, **options)
        rollouts.generate_sequences(batch(0))
        assert rollouts.changed.wait(10)
        rollouts.check()
        [group] = rollouts.take_finished(1)
        asked = [(encoder.processor.tokenizer.decode(ids), *how) for ids, *how in rollouts.servers[0].asked]
        return asked, group, handed.pop()

    return train


def test_the_prompt_shows_the_policys_own_answers(trained, encoder, later):
    asked, group, fields = trained([FOUND, OTHER, CITED])
    assert [how for _, *how in asked] == [[1, 0.0], [1, 0.0], [2, 1.0]]  # greedy, greedy, then the group
    texts = [text for text, *_ in asked]
    assert '"the ring"' in texts[0] and "Earlier" not in texts[0]
    assert 'find "what is above <box>[20, 30, 40, 50]</box>"' in texts[1]
    assert 'find "what is left of <box>[20, 30, 40, 50]</box>"' in texts[2]
    assert 'round 2, "what is above it": <box>[60, 30, 80, 50]</box> <point>[70, 40]</point>' in texts[2]
    assert group.history == "own" and [rollout.scored.reward.terms["cites"] for rollout in group.rollouts] == [1.0, 1.0]
    prompts = [row.tolist() for row in fields["prompts"].unbind()]
    assert prompts == [encoder.encode(later, group.prompt).ids] * 2  # what verl learns from is what was asked
    assert "[20, 30, 40, 50]" in encoder.processor.tokenizer.decode(prompts[0])


@pytest.mark.parametrize(
    ("message", "history"),
    [
        (["no idea", CITED], "fallback"),  # round 2 refers to round 1, and so does the question
        (["<think>?</think><answer>[]</answer>", CITED], "fallback"),  # nobody is asked what nothing follows from
        ([MANY, CITED], "fallback"),  # too long a prompt, for round 2 already
        ([FOUND, MANY, CITED], "fallback"),
        ([FOUND, "no idea", CITED], "own"),  # told as no answer
    ],
)
def test_the_prompt_falls_back_to_the_true_answers(trained, encoder, later, message, history):
    asked, group, _ = trained(message)
    assert group.history == history
    assert [how for _, *how in asked] == [[1, 0.0]] * (len(message) - 1) + [[2, 1.0]]
    if history == "fallback":
        assert asked[-1][0] == encoder.processor.tokenizer.decode(encoder.encode(later).unexpanded)
        assert [rollout.scored.reward.terms["cites"] for rollout in group.rollouts] == [0.0, 0.0]
    else:
        assert 'round 2, "what is above it": no answer' in asked[-1][0]


@pytest.mark.parametrize(("question", "share"), [("what is left of [REF:1]", 0.0), ("the largest shape", 1.0)])
def test_earlier_rounds_are_generated_only_if_needed(trained, later, question, share):
    asked, group, _ = trained([FOUND], share, replace(later, question=question))
    assert len(asked) == 1 and group.history == "true"


def test_validation_shows_the_true_history(started, later, encoder):
    rollouts = started(write, [later], own_history=1.0)
    [group] = rollouts.validate([later])
    assert group.history == "true"
    assert [(ids, count) for ids, count, _ in rollouts.servers[0].asked] == [(encoder.encode(later).unexpanded, 1)]


# Self-distillation


def test_the_teachers_prompt_travels_beside_each_trajectory(trained, encoder, later):
    settings = SimpleNamespace(attempts=1, attempt_tokens=512)
    _, group, fields = trained([FOUND, OTHER, CITED], self_distillation=settings)
    prompts = [row.tolist() for row in fields["teacher_prompts"].unbind()]
    assert group.teacher.attempts == 1 and prompts == [group.teacher.encoded.ids] * 2
    text, plain = (encoder.processor.tokenizer.decode(ids) for ids in (prompts[0], group.encoded.ids))
    note = "\nEarlier attempts at this question, which may be wrong:\n1 of 1: []"  # CITED
    assert note in text and text.replace(note, "") == plain
    for row, answer in zip(fields["teacher_positions"].unbind(), fields["responses"].unbind(), strict=True):
        assert torch.equal(row.view(4, -1), encoder.positions(group.teacher.encoded, len(answer)))
    _, group, fields = trained([FOUND, OTHER, CITED])
    assert group.teacher is None and not any(name.startswith("teacher") for name in fields.keys())  # noqa: SIM118


# Looks at own masks

KEEP = '<think>right</think><answer>{"keep": true}</answer>'
NOTHING = "<think>none</think><answer>[]</answer>"


@pytest.fixture
def looked(started, samples, encoder, segmenter, monkeypatch):
    """looked(texts, looks) -> prompts with how they were asked, pictures, group, verl's fields, images encoded."""
    handed = []

    async def take(fields=None, **options):
        handed.extend([] if fields is None else [fields])

    monkeypatch.setattr(module.tq, "async_kv_batch_put", take)

    def train(sample, texts, looks=1, step=0, prompt_length=400):
        left = iter(texts)

        async def reply(count):
            ids = encoder.processor.tokenizer(next(left), add_special_tokens=False)["input_ids"]
            return [GeneratedAnswer(ids, [-0.1] * len(ids), False, 0) for _ in range(count)]

        actor = SegmenterActor(lambda: segmenter)
        rollouts = started(reply, [sample], "refine", actor.draw, own_masks=OwnMasks(1.0, looks))
        rollouts.config.prompt_length = prompt_length
        rollouts.generate_sequences(batch(0, step=step))
        assert rollouts.changed.wait(30)
        rollouts.check()
        [group] = rollouts.take_finished(step)
        [server] = rollouts.servers
        asked = [(encoder.processor.tokenizer.decode(ids), *how) for ids, *how in server.asked]
        return asked, server.pictures, group, handed.pop(), actor.encoded

    return train


@pytest.fixture
def single(samples):
    """A sample with one object."""
    return next(sample for sample in samples if len(sample.objects) == 1)


def point_at(sample, frame):
    [x, y] = frame.to_frame(sample.objects[0].points[0], sample.size)
    return f'<think>more</think><answer>[{{"point_2d": [{x}, {y}], "label": 1}}]</answer>'


def test_the_group_looks_at_the_mask_that_the_policy_has_just_drawn(looked, single, encoder):
    frame = encoder.checkpoint.frame
    asked, pictures, group, fields, encoded = looked(single, [truth_as_text(single, frame), KEEP])
    assert [how for _, *how in asked] == [[1, 1.0], [2, 1.0]]  # sampled once, then the group
    assert "The mask so far" not in asked[0][0] and "The mask so far" in asked[1][0]
    mask = group.sample.current_mask
    assert mask_iou(decode(mask), decode(single.mask())) > 0.6
    assert pictures == [{"image": single.image}, {"image": single.image, "mask": mask}]
    # verl learns from what was asked, about the picture that was shown
    assert list(fields["multi_modal_inputs"]) == [pictures[1]] * 2
    assert [row.tolist() for row in fields["prompts"].unbind()] == [encoder.encode(group.sample).ids] * 2
    assert group.history == "own" and group.sample.id == f"{single.id}-look1"
    assert [rollout.scored.masks for rollout in group.rollouts] == [(mask,)] * 2  # kept
    assert encoded == 1


def test_a_later_look_follows_the_policys_own_corrections(looked, single, encoder):
    """The image is encoded once, and decoded for the answer, the correction, and the group."""
    frame = encoder.checkpoint.frame
    step = next(step for step in range(99) if OwnMasks(1.0, 2).look_of(single, step) == 2)
    corner = '<think>there</think><answer>[{"bbox_2d": [0, 0, 30, 30], "point_2d": [15, 15]}]</answer>'
    more = point_at(single, frame)
    asked, pictures, group, _, encoded = looked(single, [corner, more, corner], 2, step)
    assert [how for _, *how in asked] == [[1, 1.0], [1, 1.0], [2, 1.0]]
    assert group.sample.id == f"{single.id}-look2" and pictures[2]["mask"] == group.sample.current_mask
    assert pictures[1]["mask"] != pictures[2]["mask"]
    assert encoded == 1
    metrics = group_metrics([group])
    assert metrics["own_masks/groups"] == 1 and metrics["own_masks/kept"] == metrics["own_masks/fallbacks"] == 0
    assert metrics["own_masks/iou_before"] > 0.5 > metrics["own_masks/iou_after"]
    assert "dialogue/own_history" not in metrics


@pytest.mark.parametrize("text", ["no idea", NOTHING])
def test_the_question_is_asked_where_the_policy_has_drawn_no_mask(looked, single, encoder, text):
    asked, pictures, group, _, _ = looked(single, [text, truth_as_text(single, encoder.checkpoint.frame)])
    assert asked[0][0] == asked[1][0] and pictures == [{"image": single.image}] * 2
    assert group.sample is single and group.history == "fallback"
    assert group_metrics([group])["own_masks/fallbacks"] == 1
    assert [rollout.scored.reward.terms["decision"] for rollout in group.rollouts] == [1.0, 1.0]


def test_the_question_is_asked_where_one_about_a_mask_is_too_long(looked, single, encoder):
    length = len(encoder.encode(replace(single, current_mask=single.mask())))
    texts = [truth_as_text(single, encoder.checkpoint.frame)] * 2
    fits, too_long = (looked(single, texts, prompt_length=most)[2] for most in (length, length - 1))
    assert fits.history == "own"
    assert too_long.history == "fallback" and too_long.sample is single


def test_validation_looks_at_no_mask(started, single):
    [group] = started(write, [single], "refine", own_masks=OwnMasks(1.0, 3)).validate([single])
    assert group.sample is single and group.history == "true"


# Flat groups

WRONG = "no idea"


@pytest.fixture
def stepped(started, samples, encoder, monkeypatch):
    """stepped(flat, batches) -> the samples that a step of two trains on, its metrics, and what the rollouts finished.

    The groups about the samples of the numbers in `flat` earn the same twice; `refill` takes the next samples.
    """
    queued = []

    async def put(keys, fields, **options):
        queued.extend(keys)

    monkeypatch.setattr(module.tq, "async_kv_batch_put", put)

    def answer(text):
        ids = encoder.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return GeneratedAnswer(ids, [-0.1] * len(ids), False, 0)

    def step(flat, batches, value="reward"):
        queued.clear()
        numbers = {tuple(encoder.encode(sample).unexpanded): number for number, sample in enumerate(samples)}

        class Replica(Server):
            async def remote(self, ids, image, checkpoint, count, sampling):
                number = numbers[tuple(ids)]
                await asyncio.sleep(0.05 if number == 1 else 0.01)
                return [answer(WRONG), answer(WRONG if number in flat else FOUND)]

        rollouts = started(write, hold_back=value)
        rollouts.servers = [Replica(write)]
        left = iter(range(2, len(samples)))

        def refill(count):
            rollouts.generate_sequences(batch(*[next(left) for _ in range(count)]))

        rollouts.generate_sequences(batch(0, 1))
        buffer = GroupBuffer(refill, batches)
        buffer.rollouts = rollouts
        chosen, metrics = buffer.sample(1, "train", 2)
        trained = [int(key.split("_")[0].removeprefix("prompt-")) for key in chosen.keys[::2]]
        assert sorted(queued) == sorted(chosen.keys) and len(chosen.keys) == 4
        assert chosen.partition_id == "train" and [tag["global_steps"] for tag in chosen.tags] == [1] * 4
        return trained, metrics, [group.sample.id for group in rollouts.take_finished(1)], next(left)

    return step


def test_flat_groups_are_replaced_by_new_prompts(stepped, samples):
    trained, metrics, finished, following = stepped(flat={0, 2}, batches=4)
    assert trained == [1, 3]  # 2 came for 0, and 3 for 2; in the order of start, though 1 took longest
    assert metrics == {"rollout/refilled_groups": 2, "rollout/kept_flat_groups": 0}
    assert sorted(finished) == sorted(sample.id for sample in samples[:4])  # dropped groups are counted and recorded
    assert following == 4  # no prompt was taken from the data and not tried


def test_after_the_limit_flat_groups_are_trained_on(stepped):
    trained, metrics, finished, following = stepped(flat=set(range(9)), batches=2)
    assert len(trained) == 2 and set(trained) <= {1, 2, 3}  # the last ones found
    assert metrics == {"rollout/refilled_groups": 2, "rollout/kept_flat_groups": 2}
    assert len(finished) == 4 and following == 4


def test_a_term_may_decide_what_is_flat(stepped):
    trained, metrics, *_ = stepped(flat=set(), batches=2, value="no_such_term")
    assert metrics == {"rollout/refilled_groups": 2, "rollout/kept_flat_groups": 2} and len(trained) == 2
    trained, metrics, *_ = stepped(flat={1}, batches=3, value="format")
    assert trained == [0, 2] and metrics["rollout/refilled_groups"] == 1


def test_without_a_filter_all_groups_are_trained_on(stepped):
    trained, metrics, *_ = stepped(flat={0, 1}, batches=1, value=None)
    assert trained == [0, 1] and metrics == {}


def test_a_dead_replica_ends_the_wait_for_groups(started):
    rollouts = started(die)
    rollouts.generate_sequences(batch(0, 1))
    buffer = GroupBuffer(rollouts.generate_sequences)
    buffer.rollouts = rollouts
    with pytest.raises(RayActorError, match="killed"):
        buffer.sample(1, "train", 2)


def test_think_chains_are_asked_again_each_different_one_once(started, samples, encoder):
    """The answer to the think-chain alone decides the term; without a think-chain there is none to ask."""
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    truth = truth_as_text(sample, encoder.checkpoint.frame)
    texts = [truth, truth, truth.replace("it is there", ""), truth.replace("it is there", "somewhere")]
    nothing = "<think>none</think><answer>[]</answer>"

    async def reply(count):
        written = texts if count == 4 else [nothing]
        ids = [encoder.processor.tokenizer(text).input_ids for text in written]
        return [GeneratedAnswer(each, [-0.1] * len(each), False, 0) for each in ids]

    rollouts = started(reply, reward="dr2seg")
    rollouts.config.n = 4
    group = asyncio.run(rollouts._group(sample))
    asked = [encoder.decode(ids) for ids, count, temperature in rollouts.servers[0].asked[1:]]
    assert [count for _, count, _ in rollouts.servers[0].asked] == [4, 1, 1]
    assert sum("it is there" in text for text in asked) == sum("somewhere" in text for text in asked) == 1
    assert not any(sample.question in text for text in asked)
    assert [rollout.scored.reward.terms["self_contained"] for rollout in group.rollouts] == [0, 0, 0, 0]
    assert min(rollout.scored.reward.terms["mask_iou"] for rollout in group.rollouts) > 0.8
    empty = next(sample for sample in samples if sample.empty)
    group = asyncio.run(rollouts._group(empty))
    assert [rollout.scored.reward.terms["self_contained"] for rollout in group.rollouts] == [1, 1, 0, 1]
