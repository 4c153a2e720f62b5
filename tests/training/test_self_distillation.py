"""Self-distillation: loss and gradients are those of dense logits and autograd; the teacher's prompt holds the best
attempts that fit."""

import pickle
from dataclasses import replace

import pytest
import torch

from segzero.answer import Answer, Instance
from segzero.dialogue.prompting import sample_prompt
from segzero.several_answers import notes_of
from segzero.training.answer_head import likeliest
from segzero.training.config import compose
from segzero.training.self_distillation import METRIC, divergence, teacher_prompt
from tests.helpers import engines
from tests.helpers.random_checkpoints import build_checkpoint

WEIGHT = 3.0  # the divergence is much smaller than the other terms of the loss
ON = [f"segzero.self_distillation.weight={WEIGHT}", "segzero.self_distillation.top_k=5"]
VARIANTS = {
    "plain": [],
    "warm": ["actor_rollout_ref.rollout.temperature=0.7"],
    "checkpointing": ["actor_rollout_ref.model.enable_gradient_checkpointing=true"],
    "lora": engines.LORA,
    "several-passes": ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=800"],
    "static": [
        "actor_rollout_ref.actor.use_dynamic_bsz=false",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3",
    ],
    "by-answer": ["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"],
}
LENGTHS = [[7, 1, 30], [12, 5], [2, 9, 4, 16]]


# The divergence


def plain_divergence(teacher, student, top_k):
    """Jensen-Shannon divergence between distributions [N, words] by the teacher's top k words and the rest."""
    ids = teacher.topk(top_k).indices
    p, q = (
        torch.cat([part, 1 - part.sum(-1, keepdim=True)], dim=-1)
        for part in (teacher.gather(1, ids), student.gather(1, ids))
    )
    middle = (p + q) / 2
    return (p * (p / middle).log() + q * (q / middle).log()).sum(-1) / 2


def test_the_divergence_follows_its_definition():
    torch.manual_seed(0)
    teacher, student = (torch.randn(40, 30).mul(2).double().softmax(-1) for _ in range(2))
    ids = teacher.topk(4).indices
    found = divergence(teacher.gather(1, ids).log(), student.gather(1, ids).log())
    torch.testing.assert_close(found, plain_divergence(teacher, student, 4))
    assert found.min() > 0 and found.max() < torch.tensor(2.0).log()


def test_certainty_and_impossibility_stay_finite():
    """A student that is certain of what the teacher rules out, the other way round, and two that agree."""
    teacher = torch.tensor([[0.0, -80.0], [-80.0, 0.0], [0.0, -80.0], [-0.7, -0.7]])
    student = torch.tensor([[-80.0, 0.0], [-90.0, -90.0], [0.0, -80.0], [-0.7, -0.7]], requires_grad=True)
    found = divergence(teacher, student)
    found.sum().backward()
    assert found[:2].tolist() == pytest.approx([0.6931, 0.6931], abs=1e-3)
    assert found[2:].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert student.grad.isfinite().all() and student.grad[2:].abs().max() < 1e-5


def test_the_likeliest_words_in_blocks_are_those_of_logits(monkeypatch):
    monkeypatch.setattr("segzero.training.answer_head.LOGITS", 5 * 50)  # blocks of 5 of 23 tokens
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8), torch.randn(50, 8)
    log_probs, ids = likeliest(hidden, weight, 6, 0.7)
    wanted = (hidden @ weight.T / 0.7).log_softmax(-1).topk(6)
    torch.testing.assert_close(log_probs, wanted.values)
    assert torch.equal(ids, wanted.indices)
    assert likeliest(hidden, weight, 99, 1.0)[1].shape == (23, 50)  # no more than there are


# Whole engines, against dense logits of rows of their own


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    engines.join_processes(tmp_path_factory.mktemp("alone"))
    with pytest.MonkeyPatch.context() as patches:
        engines.keep_forwards(patches)
        yield
    torch.distributed.destroy_process_group()


def dense_engine():
    """The engine with rows of their own, whose loss gets the divergence from dense logits, in float64."""
    from verl.utils import tensordict_utils as tu

    from segzero.training.engine import ImageEngine

    class DenseEngine(ImageEngine):
        def forward_step(self, micro_batch, loss_function, forward_only):
            images = list(micro_batch["multi_modal_inputs"])  # before they are replaced by pixels
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
            if forward_only:
                return loss, output
            by_row = [self._divergence(micro_batch, row, image) for row, image in enumerate(images)]
            if loss_function.keywords["config"].loss_agg_mode == "token-mean":
                mean = torch.cat(by_row).sum() / tu.get_non_tensor_data(micro_batch, "batch_num_tokens", None)
            else:
                mean = sum(each.mean() for each in by_row) / micro_batch["global_batch_size"]
            output["loss"] += WEIGHT * mean.item()
            return loss + WEIGHT * mean, output

        def _divergence(self, batch, row, image):
            prompt, teachers_prompt, answer, positions, teachers_positions = (
                batch[name].unbind()[row]
                for name in ("prompts", "teacher_prompts", "responses", "position_ids", "teacher_positions")
            )
            temperature = batch["temperature"]
            student = self._probabilities(prompt, answer, positions, image, temperature)
            with torch.no_grad():
                teachers_positions = teachers_positions.view(4, -1)
                teacher = self._probabilities(teachers_prompt, answer, teachers_positions, image, temperature)
            return plain_divergence(teacher, student, 5)

        def _probabilities(self, prompt, answer, positions, image, temperature):
            tokens = torch.cat([prompt, answer])
            self.shared.first_of_each([None])
            output = self.module(
                input_ids=tokens[None],
                attention_mask=torch.ones_like(tokens)[None],
                position_ids=positions[:, None],
                use_cache=False,
                **self._read(getattr(image, "data", image)),
            )
            return (output.logits[0, len(prompt) - 1 : -1].double() / temperature).softmax(-1)

    return DenseEngine


def compute(job, kind=None):
    """Loss, gradients by name, and the logged divergence of a job's batch."""
    engine, batch, loss = job.start(kind)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(batch, loss)
        gradients = {n: p.grad.full_tensor().clone() for n, p in engine.module.named_parameters() if p.grad is not None}
    logged = output["metrics"].get(METRIC)
    return sum(output["loss"]), gradients, logged


def assert_same(found, wanted, tolerance=1e-5):
    """Check that losses and gradients agree, all gradients together."""
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    assert found[1].keys() == wanted[1].keys()
    whole = torch.cat([value.flatten() for value in wanted[1].values()])
    differing = torch.cat([(found[1][name] - value).flatten() for name, value in wanted[1].items()])
    assert whole.norm() > 0 and differing.norm() <= tolerance * whole.norm(), float(differing.norm() / whole.norm())


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_dense_logits(variant, checkpoints, samples, alone, tmp_path):
    """The first sample comes twice: its groups have one prompt, and the teacher two."""
    asked = [samples[0], samples[1], samples[0]]
    overrides = [*ON, *VARIANTS[variant], "actor_rollout_ref.model.use_fused_kernels=false"]
    jobs = [
        engines.Job(checkpoints["qwen2_5_vl"], tmp_path, asked, LENGTHS, overrides, shared) for shared in (True, False)
    ]
    assert_same(compute(jobs[0]), compute(jobs[1], dense_engine()))


def test_the_loss_grows_by_the_divergence_that_is_logged(checkpoints, samples, alone, tmp_path):
    job = engines.Job(checkpoints["qwen2_5_vl"], tmp_path, samples, LENGTHS, ON, True)
    with_teacher, without = compute(job), compute(replace(job, overrides=[]))
    assert with_teacher[0] > without[0] + 1e-3 and without[2] is None
    assert with_teacher[0] - without[0] == pytest.approx(WEIGHT * with_teacher[2].aggregate(), rel=1e-4)


def test_the_teacher_moves_with_the_policy(checkpoints, samples, alone, tmp_path):
    """The second update asks the weights that the first has made. A large epsilon makes Adam's steps proportional."""
    options = ("lr=1e-2", "lr_warmup_steps=0", "lr_scheduler_type=constant", "override_optimizer_config={eps:1e-3}")
    overrides = [*ON, *(f"actor_rollout_ref.actor.optim.{option}" for option in options)]
    overrides += ["actor_rollout_ref.model.use_fused_kernels=false"]
    jobs = [
        engines.Job(checkpoints["qwen2_5_vl"], tmp_path, samples, LENGTHS, overrides, shared)
        for shared in (True, False)
    ]
    found, wanted = engines.train(jobs[0], 2), engines.train(jobs[1], 2, dense_engine())
    assert_same((0.0, found), (0.0, wanted))


def test_the_worker_adds_the_divergence_to_its_loss(policy, encoder, samples, alone, tmp_path, monkeypatch):
    """A step of two updates, by the class that a run makes, from columns as the TransferQueue packs and sends them."""
    from tensordict import TensorDict
    from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager
    from verl.utils import tensordict_utils as tu

    from segzero.training.engine import PolicyWorker

    ranks = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "", "MASTER_PORT": 0}
    for name, value in (ranks | {"VERL_ENGINE_VENDOR": ""}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    overrides = ["actor_rollout_ref.actor.ppo_mini_batch_size=1", "actor_rollout_ref.rollout.n=2"]
    config = engines.resolved(policy, tmp_path, *ON, *overrides)
    answers = [[[70, 71, 72], [80]], [[90, 91], [75, 76, 77, 78]]]
    batch = engines.make_batch(encoder, samples[:2], answers, config)
    nested = [name for name, column in batch.items() if getattr(column, "is_nested", False)]
    pack = AsyncSimpleStorageManager._pack_field_values
    columns = {name: pack(list(batch[name].unbind())) for name in nested}
    sent = pickle.loads(pickle.dumps(TensorDict(columns, batch_size=len(batch))))
    sent["multi_modal_inputs"] = batch["multi_modal_inputs"]
    size = {
        "global_batch_size": 2,
        "mini_batch_size": 2,
        "epochs": 1,
        "seed": 1,
        "dataloader_kwargs": {"shuffle": False},
    }
    tu.assign_non_tensor(sent, **size, temperature=1.0, calculate_entropy=True)

    worker = PolicyWorker(config.actor_rollout_ref, role="actor")
    worker.init_model()
    metrics = worker.update_actor(sent)["metrics"]
    divergences = metrics[METRIC]
    assert len(divergences) == 2 and all(0 < each < 0.6931 for each in divergences)
    wanted = [loss + WEIGHT * each for loss, each in zip(metrics["actor/pg_loss"], divergences, strict=True)]
    assert metrics["loss"] == pytest.approx(wanted)  # the tiny policy has no other terms


@pytest.mark.slow
def test_loss_and_gradients_are_right_with_the_real_vocabulary(samples, alone, tmp_path):
    build_checkpoint("qwen2_5_vl", tmp_path / "policy", real_vocabulary=True)
    overrides = [*ON, "actor_rollout_ref.model.use_fused_kernels=false"]
    policy, lengths = tmp_path / "policy", [[7, 1], [5]]
    jobs = [engines.Job(policy, tmp_path, samples, lengths, overrides, shared) for shared in (True, False)]
    assert_same(compute(jobs[0]), compute(jobs[1], dense_engine()))


def test_a_teacher_that_knows_no_more_teaches_nothing(checkpoints, samples, alone, tmp_path, monkeypatch):
    """Without readable attempts both read the same, and the loss is the policy's own; the teacher keeps no graph."""
    differentiable = []

    def asked(*options):
        differentiable.append(torch.is_grad_enabled())
        return likeliest(*options)

    monkeypatch.setattr("segzero.training.answer_head.likeliest", asked)
    job = engines.Job(checkpoints["qwen2_5_vl"], tmp_path, samples, LENGTHS, ON, True)
    monkeypatch.setattr(engines, "Answer", lambda *_: Answer(error="no_answer"))
    found = compute(job)
    assert differentiable == [False] and 0 <= found[2].aggregate() < 1e-6
    assert_same(found, compute(replace(job, overrides=[])), tolerance=1e-4)


@pytest.mark.slow
def test_two_ranks_compute_the_gradients_of_one(checkpoints, samples, alone, tmp_path):
    lengths = [*LENGTHS, [3, 3, 40]]  # two groups of different size for each rank
    jobs = [
        engines.Job(checkpoints["qwen2_5_vl"], tmp_path, samples, lengths, [*ON, *VARIANTS[name]], True)
        for name in ("plain", "several-passes")
    ]
    for job, found in zip(jobs, engines.compute_on_ranks(jobs, 2, tmp_path), strict=True):
        wanted = engines.compute(job)
        assert_same((found.loss, found.gradients), (wanted.loss, wanted.gradients))


# The teacher's prompt


def answer_at(x):
    return Answer("hm", (Instance((x, 20.0, x + 20, 60.0), ((x + 5, 30.0),)),))


@pytest.fixture
def shown(encoder, samples):
    """shown(answers, rewards, overrides) -> the teacher's prompt as text, and the number of attempts in it."""
    plain = encoder.processor.tokenizer.decode(encoder.encode(samples[0]).ids)

    def show(answers, rewards, *overrides, notes=""):
        settings = compose("train", [f"segzero.self_distillation.{each}" for each in overrides])
        prompt = replace(sample_prompt(samples[0], encoder.checkpoint.frame), notes=notes)
        teacher = teacher_prompt(encoder, samples[0], prompt, answers, rewards, settings.segzero.self_distillation)
        text = encoder.processor.tokenizer.decode(teacher.encoded.ids)
        assert len(text) >= len(plain)
        return text, teacher.attempts

    return show


def test_the_best_attempts_come_first(shown):
    answers = [answer_at(float(x)) for x in (10, 11, 12, 13)] + [Answer(error="not_json")]
    text, attempts = shown(answers, [0.5, 3.0, 0.0, 2.0, 9.0], "attempts=2")
    assert attempts == 2
    assert text.index('1 of 2: [{"bbox_2d": [11,20,31,60]') < text.index('1 of 2: [{"bbox_2d": [13,20,33,60]')
    assert "[10,20" not in text and "hm" not in text.replace("them", "")
    assert text.index("Earlier attempts at this question") < text.index("Please find")


def test_attempts_that_do_not_fit_are_dropped_the_worst_first(shown, encoder):
    answers = [answer_at(float(x)) for x in (10, 11, 12)]
    two = len(encoder.processor.tokenizer(notes_of(answers[:2], "multi") + "\n", add_special_tokens=False)["input_ids"])
    text, attempts = shown(answers, [1.0, 3.0, 2.0], f"attempt_tokens={two + 2}")
    assert attempts == 2 and "[11,20" in text and "[12,20" in text and "[10,20" not in text
    text, attempts = shown(answers, [1.0, 3.0, 2.0], "attempt_tokens=3")
    assert attempts == 0 and "attempts" not in text


def test_nothing_readable_leaves_the_prompt_as_it_was(shown, encoder, samples):
    text, attempts = shown([Answer(error="no_answer")] * 3, [1.0, 2.0, 3.0])
    assert attempts == 0
    assert text == encoder.processor.tokenizer.decode(encoder.encode(samples[0]).ids)


def test_earlier_rounds_stay_in_the_prompt(shown):
    text, _ = shown([answer_at(10.0)], [1.0], notes="Earlier in this dialogue:\nround 1")
    assert "round 1\nEarlier attempts at this question" in text
