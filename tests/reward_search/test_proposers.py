"""Proposers: the same seed proposes the same, and a language model is asked once and shown what came of its work."""

import json

import pytest

from rewards.search.expressions import PRESET_GENOMES, Genome, GenomeTerm, genome_of, render
from segzero.errors import UserError
from segzero.policy.chat_server import ChatServer
from segzero.reward_search.assessment import assess
from segzero.reward_search.llm import LanguageModel, usage
from segzero.reward_search.proposers import BASE, LlmProposer, OfflineProposer
from segzero.reward_search.records import SearchCandidate
from tests.helpers.policy_server import ScriptedPolicyServer
from tests.helpers.recorded_answers import recorded_groups
from tests.helpers.reward_writer import BROKEN, RewardWriter

WEAK = Genome.of(GenomeTerm("pair_overlap", weight=2.0), GenomeTerm("readable"))  # the gates refuse it


@pytest.fixture(scope="module")
def groups():
    return recorded_groups(4)


@pytest.fixture(scope="module")
def base(groups):
    return assess(SearchCandidate(BASE, 0, (), "base", render(WEAK)), groups)


def test_the_offline_proposer_varies_a_base_that_the_gates_refuse(base):
    assert base.refused and base.fit is not None
    proposals = OfflineProposer(0).propose(1, 30, [base])
    assert {one.origin for one in proposals} == {"new", "mutation"}
    assert all(one.parents == ((BASE,) if one.origin == "mutation" else ()) for one in proposals)
    genomes = [genome_of(one.source) for one in proposals]
    assert None not in genomes and len(set(genomes)) == 30 and WEAK not in genomes
    assert [one.source for one in OfflineProposer(0).propose(1, 30, [base])] == [one.source for one in proposals]
    assert OfflineProposer(1).propose(1, 30, [base]) != proposals


def test_later_iterations_descend_from_the_best(base, groups):
    good = assess(SearchCandidate("01-01", 1, (), "new", render(PRESET_GENOMES["mask"])), groups)
    poor = SearchCandidate("01-02", 1, (), "new", render(PRESET_GENOMES["seg_zero"]), problem="quality", refused=True)
    proposals = OfflineProposer(0).propose(2, 40, [base, good, poor])
    parents = [one.parents for one in proposals if one.parents]
    assert {id for each in parents for id in each} == {"01-01", BASE}
    assert sum("01-01" in each for each in parents) > 2 * sum(each == (BASE,) for each in parents)
    assert any(one.origin == "crossover" for one in proposals)


def test_a_base_in_another_hand_is_started_from_afresh():
    strange = SearchCandidate(BASE, 0, (), "base", BROKEN)
    assert {one.origin for one in OfflineProposer(0).propose(1, 10, [strange])} == {"new"}


def test_a_model_is_asked_once_and_again_only_in_other_words(base, tmp_path):
    with ScriptedPolicyServer(RewardWriter(str(tmp_path / "marker"))).running() as server:
        model = LanguageModel(ChatServer(server.url), "scripted", tmp_path)
        proposals = LlmProposer(model, "Find it.").propose(1, 3, [base])
        assert len(server.requests) == 3
        assert LlmProposer(model, "Find it.").propose(1, 3, [base]) == proposals
        assert len(server.requests) == 3
        LlmProposer(model, "Find another.").propose(1, 1, [base])
        assert len(server.requests) == 4
    assert [one.origin for one in proposals] == ["first"] * 3
    assert {body["seed"] for body in server.requests} == {0, 1, 2}
    kept = json.loads((tmp_path / "llm" / "01-02.json").read_text())
    assert (
        kept["messages"] == next(b for b in server.requests if b["seed"] == 1)["messages"]
        and BROKEN.strip() in kept["reply"]
    )
    assert usage(tmp_path).calls == 3 and usage(tmp_path).output_tokens == 3


def test_what_failed_is_mended_once(base, tmp_path):
    writer = RewardWriter(str(tmp_path / "marker"))
    failed = SearchCandidate("01-02", 1, (BASE,), "first", BROKEN, problem="line 4: division by zero")
    mended = SearchCandidate("02-02", 2, ("01-02",), "mended", BROKEN, problem="line 4: division by zero")
    with ScriptedPolicyServer(writer).running() as server:
        proposer = LlmProposer(LanguageModel(ChatServer(server.url), "scripted", tmp_path), "Find it.")
        second = proposer.propose(2, 2, [base, failed])
        third = proposer.propose(3, 2, [base, failed, mended])
    assert [one.origin for one in second] == ["first", "mended"] and second[1].parents == ("01-02",)
    assert sum("What went wrong: line 4: division by zero" in words for words in writer.asked) == 1
    assert [one.origin for one in third] == ["first", "first"]


def test_an_answer_without_choices_is_one_line(base, tmp_path):
    def no_words(body):
        raise ValueError  # the connection breaks off

    with ScriptedPolicyServer(no_words).running() as server:
        model = LanguageModel(ChatServer(server.url, retries=0), "scripted", tmp_path)
        with pytest.raises(UserError, match="1 tries"):
            LlmProposer(model, "Find it.").propose(1, 1, [base])
    assert not (tmp_path / "llm").exists()
