"""Packed rows with shared prompts give the values of rows of their own; one rule serves both kinds of attention."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from segzero.errors import UserError
from segzero.policy.shared_prompt import attend, may_attend, pack, use_packed_rows
from segzero.training.answer_head import AnswerHead, TokenScores
from segzero.training.passes import split_groups
from tests.helpers import engines
from tests.helpers.random_checkpoints import FAMILIES

VARIANTS = {
    "plain": [],
    "checkpointing": ["actor_rollout_ref.model.enable_gradient_checkpointing=true"],
    "lora": engines.LORA,
    "several-passes": ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=800"],
    "static": [
        "actor_rollout_ref.actor.use_dynamic_bsz=false",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3",
    ],
}
TOLERANCE = 1e-5  # float32
# Adam's step is as large where the gradient is nothing but rounding; a large epsilon makes it in proportion.
OPTIMIZER = ("lr=1e-2", "lr_warmup_steps=0", "lr_scheduler_type=constant", "override_optimizer_config={eps:1e-3}")
LENGTHS = [
    [7, 1, 30],
    [12, 5],
    [2, 9, 4, 16],
]  # answers to each prompt; one is nothing but its end, one is at the limit
CASES = [(family, variant) for family in FAMILIES for variant in ("plain", "lora")]
CASES += [("qwen2_5_vl", variant) for variant in VARIANTS if variant not in ("plain", "lora")]


# The layout and the rule


def test_a_packed_row_holds_each_prompt_once():
    row = pack([4, 4, 9], [3, 3, 2], [2, 3, 1])
    assert len(row) == 3 + 1 + 2 + 2 and row.sizes == [6, 2]
    assert row.prompt.tolist() == [0] * 6 + [1] * 2
    assert row.source.tolist() == [0, 1, 2, 3, 8, 9, 11, 12]


def test_an_empty_answer_takes_no_place():
    row, without = pack([0, 0, 1, 1], [2, 2, 2, 2], [0, 3, 0, 0]), pack([0, 1], [2, 2], [3, 0])
    assert row.sizes == without.sizes == [4, 2]
    assert row.predicting.tolist() == without.predicting.tolist() == [1, 2, 3]
    assert row.predicted.tolist() == [4, 5, 6]


def test_a_token_attends_to_its_prompt_and_its_own_answer():
    row = pack([0, 0, 1], [2, 2, 1], [3, 2, 2])  # p p a a b q c
    seen = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3], 4: [0, 1, 4], 5: [5], 6: [5, 6]}
    places = torch.arange(len(row))
    allowed = may_attend(row.prompt, row.answer, places[:, None], places[None])
    assert {query: keys.nonzero()[:, 0].tolist() for query, keys in enumerate(allowed)} == seen
    assert torch.equal(torch.block_diag(*(mask == 0 for mask in row.dense_masks)), allowed)


def test_blocks_for_flex_attention_follow_the_rule():
    torch.manual_seed(0)
    row = pack([0] * 4 + [1] * 3, [150] * 4 + [290] * 3, [20, 1, 140, 55, 60, 260, 3])
    found = row.block_mask
    rule = lambda batch, head, query, key: may_attend(row.prompt, row.answer, query, key)  # noqa: E731
    wanted = create_block_mask(rule, None, None, len(row), len(row), device="cpu")
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(found, f"{name}_num_blocks")
        assert torch.equal(counts, getattr(wanted, f"{name}_num_blocks")), name
        for line, count in enumerate(counts[0, 0].tolist()):
            listed = [set(getattr(m, f"{name}_indices")[0, 0, line, :count].tolist()) for m in (found, wanted)]
            assert listed[0] == listed[1], (name, line)
    assert int(found.full_kv_num_blocks.sum()) > 0  # some blocks need no mask, and most are skipped
    assert int((found.kv_num_blocks + found.full_kv_num_blocks).sum()) < found.kv_indices.shape[-1] ** 2 / 2

    query, key, value = (
        torch.randn(1, 4, len(row), 16),
        torch.randn(1, 2, len(row), 16),
        torch.randn(1, 2, len(row), 16),
    )
    by_blocks = flex_attention(query, key, value, block_mask=found, scale=0.3, enable_gqa=True)
    dense, _ = attend(torch.nn.Module(), query, key, value, None, packed=row, scaling=0.3)
    torch.testing.assert_close(by_blocks.transpose(1, 2), dense, rtol=1e-4, atol=1e-5)


def test_passes_keep_groups_together_and_within_the_budget():
    prompts = [row // 4 for row in range(40)]
    lengths, answers = [100] * 40, [10 + row for row in range(40)]
    passes = split_groups(prompts, lengths, answers, most=600)
    assert sorted(row for rows in passes for row in rows) == list(range(40))
    sizes = [100 * len({prompts[row] for row in rows}) + sum(answers[row] for row in rows) for rows in passes]
    assert max(sizes) <= 600
    assert len(passes) == -(-(10 * 100 + sum(answers)) // 600)
    assert all(len(rows) % 4 == 0 for rows in passes)


def test_a_group_that_does_not_fit_is_cut():
    assert split_groups([0] * 4, [10] * 4, [20] * 4, most=50) == [[0, 2], [1, 3]]
    assert split_groups([0] * 2, [10] * 2, [90] * 2, most=50) == [[0], [1]]  # longer than the budget, but all there is


def test_a_rank_makes_as_many_passes_as_the_others():
    assert sorted(map(len, split_groups([0, 0, 0, 1], [9] * 4, [1] * 4, most=1000, passes=4))) == [1, 1, 1, 1]


# Log-probs and entropies


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_and_gradients_in_blocks_are_those_of_logits(monkeypatch, temperature, columns):
    monkeypatch.setattr("segzero.training.answer_head.LOGITS", 5 * 50)  # blocks of 5 of 23 tokens
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    labels, up = torch.randint(0, 50, (23, columns)), torch.randn(1 + columns, 23, dtype=torch.float64)
    labels[0] = labels[0, 0]  # one word in every column
    found, wanted = [], []
    for result, blocks in ((found, True), (wanted, False)):
        h, w = hidden.float().requires_grad_(), weight.float().requires_grad_()
        if blocks:
            log_probs, entropy = TokenScores.apply(h, w, labels, temperature)
        else:
            every = (h @ w.T / temperature).log_softmax(-1)
            log_probs, entropy = every.gather(1, labels), -(every.exp() * every).sum(-1)
        ((log_probs * up[1:].T).sum() + (entropy * up[0]).sum()).backward()
        result += [log_probs, entropy, h.grad, w.grad]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    log_probs, _ = TokenScores.apply(hidden, weight, torch.tensor([[0], [1], [2]]), 1.0)
    log_probs.sum().backward()
    assert hidden.grad is not None and weight.grad is None


# Whole engines: verl's rows of their own against packed rows


@pytest.fixture(scope="module")
def dialogue_samples(tmp_path_factory):
    """The three rounds of a dialogue, each with a longer history."""
    from segzero.tiny.dialogues import make_dialogues

    folder, made = tmp_path_factory.mktemp("dialogue"), []
    for sample in make_dialogues(1, 5):
        path = folder / f"{len(made)}.png"
        path.write_bytes(sample.image)
        made.append(replace(sample, image=str(path)))
    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    engines.join_processes(tmp_path_factory.mktemp("alone"))
    with pytest.MonkeyPatch.context() as patches:
        engines.keep_forwards(patches)
        yield
    torch.distributed.destroy_process_group()


def assert_close(found, wanted, what):
    """Check that tensors by name differ by no more than rounding, relative to all of them."""
    assert found.keys() == wanted.keys()
    whole = torch.cat([value.flatten() for value in wanted.values()])
    differing = torch.cat([(found[name] - value).flatten() for name, value in wanted.items()])
    assert whole.norm() > 0 and differing.norm() <= TOLERANCE * whole.norm(), f"{what}: {differing.norm()}"


def assert_same(found, wanted):
    assert found.loss == pytest.approx(wanted.loss, rel=TOLERANCE)
    assert_close(found.gradients, wanted.gradients, "gradients")
    for name in ("log_probs", "entropy"):
        assert_close({name: found.values[name]}, {name: wanted.values[name]}, name)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_shared_prompts_give_the_values_of_separate_rows(family, variant, checkpoints, samples, alone, tmp_path):
    jobs = [engines.Job(checkpoints[family], tmp_path, samples, LENGTHS, VARIANTS[variant], on) for on in (True, False)]
    assert_same(*(engines.compute(job) for job in jobs))


def test_dialogues_of_different_length_share_their_prompts(checkpoints, dialogue_samples, alone, tmp_path):
    jobs = [engines.Job(checkpoints["qwen2_5_vl"], tmp_path, dialogue_samples, LENGTHS, [], on) for on in (True, False)]
    assert_same(*(engines.compute(job) for job in jobs))


def test_three_steps_end_with_the_same_weights(policy, samples, alone, tmp_path):
    optimizer = [f"actor_rollout_ref.actor.optim.{key}" for key in OPTIMIZER]
    jobs = [engines.Job(policy, tmp_path, samples, LENGTHS, optimizer, on) for on in (True, False)]
    assert_close(*(engines.train(job, 3) for job in jobs), "movements")


@pytest.mark.slow
def test_two_ranks_compute_the_gradients_of_one(checkpoints, samples, alone, tmp_path):
    lengths = [*LENGTHS, [3, 3, 40]]  # two groups of different size for each rank
    variants = [VARIANTS[name] for name in ("plain", "lora", "several-passes")]
    jobs = [
        engines.Job(checkpoints["qwen2_5_vl"], tmp_path, samples, lengths, overrides, True) for overrides in variants
    ]
    for job, found in zip(jobs, engines.compute_on_ranks(jobs, 2, tmp_path), strict=True):
        assert_same(found, engines.compute(job))


def test_a_head_with_a_bias_is_refused():
    with pytest.raises(UserError, match="needs a linear head without bias or adapter"):
        AnswerHead(SimpleNamespace(get_output_embeddings=lambda: torch.nn.Linear(2, 2)))


def test_an_adapter_on_the_head_is_refused(policy, samples, tmp_path):
    modules = "actor_rollout_ref.model.target_modules=[q_proj,lm_head]"
    with pytest.raises(UserError, match="needs a linear head without bias or adapter"):
        engines.compute(engines.Job(policy, tmp_path, samples, LENGTHS, [*engines.LORA, modules], True))


def test_a_sliding_window_is_refused(checkpoints):
    from transformers import AutoModelForImageTextToText

    net = AutoModelForImageTextToText.from_pretrained(checkpoints["qwen2_5_vl"])
    net.get_decoder().config.use_sliding_window = True
    with pytest.raises(UserError, match=r"segzero.shared_prompt=true .* sliding window; set it to false"):
        use_packed_rows(net)
