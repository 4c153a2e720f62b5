"""Answers streamed while they are generated, by every backend."""

from dataclasses import replace
from itertools import pairwise

import pytest

from segzero.errors import TimedOut, Unavailable, UserError
from segzero.policy import Sampling, load_policy
from tests.helpers.policy_server import ScriptedPolicyServer, unused_address

WORDS = ["<think>", "the ", "mug", "</think>", "<answer>", "[]", "</answer>"]


def growing(words) -> list[str]:
    return ["".join(words[: n + 1]) for n in range(len(words))]


@pytest.fixture
def server():
    with ScriptedPolicyServer(WORDS).running() as running:
        yield running


@pytest.fixture
def connect(server):
    return lambda **options: load_policy(server.url, frame="stretch(840)", prompt="multi", **options)


def test_a_server_streams_word_by_word(server, connect, ask):
    policy, texts = connect(), []
    plain = ask(policy)
    followed = replace(plain, on_text=texts.append)
    replies = policy.generate([plain, followed])
    assert replies[0] == replies[1] and replies[1].text == "".join(WORDS) and replies[1].tokens == len(WORDS)
    assert texts == growing(WORDS)
    streamed = next(body for body in server.requests if body.get("stream"))
    assert streamed["stream_options"] == {"include_usage": True} and len(server.requests) == 2


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_begun_anew(server, connect, ask):
    server.broken_streams = 1
    policy, texts = connect(), []
    [reply] = policy.generate([replace(ask(policy), on_text=texts.append)])
    assert reply.text == "".join(WORDS) and texts == [*growing(WORDS[: len(WORDS) // 2]), *growing(WORDS)]
    server.broken_streams = 2
    with pytest.raises(Unavailable, match="broke off"):
        connect(retries=1).generate([replace(ask(policy), on_text=texts.append)])


@pytest.mark.slow
def test_a_stream_without_end_is_given_up(server, connect, ask):
    server.pause = 0.2
    policy = connect(timeout=0.5, retries=0)
    with pytest.raises(TimedOut, match=r"within 0\.5 s"):
        policy.generate([replace(ask(policy), on_text=lambda text: None)])


def test_a_stream_that_counts_nothing_is_refused(server, connect, ask):
    server.usage = False
    policy = connect()
    with pytest.raises(UserError, match="streams no usage"):
        policy.generate([replace(ask(policy), on_text=lambda text: None)])


def test_a_server_that_is_gone_is_distinguished_from_a_mistake(server, connect, ask):
    policy = connect()
    policy.server.url = unused_address()
    for request in (ask(policy), replace(ask(policy), on_text=lambda text: None)):
        with pytest.raises(Unavailable, match="no server at"):
            policy.generate([request])


@pytest.mark.slow
def test_a_batch_streams_each_row(pipeline, held_out_requests):
    policy, some = pipeline.policy, held_out_requests[:5]
    texts: list[list[str]] = [[] for _ in some]
    asked = [replace(request, on_text=texts[n].append) if n % 2 == 0 else request for n, request in enumerate(some)]
    replies = policy.generate(asked)
    assert replies == policy.generate(some)
    for n, reply in enumerate(replies):
        if n % 2:
            assert texts[n] == []
            continue
        assert texts[n][-1] == reply.text and len(texts[n]) > 10
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts[n]))


@pytest.mark.slow
def test_a_cut_answer_streams_to_its_end(pipeline, held_out_requests):
    texts: list[str] = []
    [reply] = pipeline.policy.generate([replace(held_out_requests[0], on_text=texts.append)], Sampling(max_tokens=7))
    assert reply.truncated and texts[-1] == reply.text
