"""No candidate escapes: the parser refuses every attempt, and the sandbox holds without the parser."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time

import pytest

from rewards import Case
from rewards.search.candidate import Candidate, CandidateRefused, parse_candidate
from rewards.search.language import MAX_TERMS, MAX_VALUE
from rewards.search.sandbox import CandidateFailure, Sandbox, SandboxLimits
from tests.helpers import breakouts
from tests.helpers.escapes import ESCAPES

CASE = Case.of_objects("<think>a mug</think><answer>[]</answer>", [])
SECRETS = ("told_by_a_file", "told_by_the_environment")
STARTING = 20  # seconds that a new process may take on a busy machine
# What a candidate's module finds in a plain Python, without the sandbox.
PLAIN = """
import builtins, ctypes, io, os, posix, sys
def iou(a, b): pass
names = {"__builtins__": {"abs": abs}, "iou": iou}
exec(SOURCE, names)
names["reward"](None, ())
"""


@pytest.mark.parametrize("family", ESCAPES)
def test_the_parser_refuses(family):
    for source in ESCAPES[family]:
        began = time.monotonic()
        with pytest.raises(CandidateRefused) as refused:
            parse_candidate(source)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
        assert time.monotonic() - began < 2


def test_there_are_many_attempts():
    attempts = [source for family in ESCAPES.values() for source in family]
    assert len(attempts) == len(set(attempts)) > 500


@pytest.fixture(scope="module")
def filtered():
    """Skip where the kernel takes no filter of system calls: the parser alone then stands before these."""
    with Sandbox(parse_candidate("def reward(answer, truth):\n    return {'a': 1.0}")) as sandbox:
        assert sandbox.score([CASE]) == [{"a": 1.0}]
    if sandbox.missing:
        pytest.skip("; ".join(sandbox.missing))


class World:
    """Whatever a candidate could harm: a file that is not there, a secret, a port, the parent."""

    def __init__(self, folder, monkeypatch):
        self.harm, self.secret, self.signals = folder / "harm", folder / "secret", []
        self.secret.write_text(SECRETS[0])
        monkeypatch.setenv("SEGZERO_SECRET", SECRETS[1])
        self.handler = signal.signal(signal.SIGUSR1, lambda *_: self.signals.append(1))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0)
        self.file = self.secret.open()
        os.set_inheritable(self.file.fileno(), True)

    def source(self, text):
        """A source with the places that it is to harm."""
        port = self.server.getsockname()[1]
        for word, place in {"HARM": str(self.harm), "SECRET": str(self.secret), "PORT": port}.items():
            text = text.replace(word, repr(place))
        return text

    def harmed(self, said):
        """Say what was harmed; None: nothing."""
        if os.path.lexists(self.harm):
            return "something was made"
        if self.signals:
            return "the parent got a signal"
        if any(secret in said for secret in SECRETS):
            return "a secret was told"
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return None
        return "a connection was made"

    def close(self):
        """Undo all of it."""
        signal.signal(signal.SIGUSR1, self.handler)
        self.server.close()
        self.file.close()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A world of its own for each attempt."""
    world = World(tmp_path, monkeypatch)
    yield world
    world.close()


def in_sandbox(source, seconds=5.0):
    """What comes of a source that no parser has seen: the result, and the sandbox."""
    with Sandbox(Candidate(source), SandboxLimits(seconds=seconds)) as sandbox:
        began = time.monotonic()
        [result] = sandbox.score([CASE])
        took = time.monotonic() - began
    assert took < seconds + STARTING
    check(result)
    return result


def check(result):
    """Whatever happened, what comes back is bounded."""
    if isinstance(result, CandidateFailure):
        assert len(str(result)) < 500 and str(result).isprintable()
    else:
        assert 1 <= len(result) <= MAX_TERMS
        assert all(type(name) is str and name.isidentifier() and len(name) <= 40 for name in result)
        assert all(type(value) is float and abs(value) <= MAX_VALUE for value in result.values())


@pytest.mark.parametrize("payload", breakouts.PAYLOADS)
def test_the_kernel_ends_a_worker_that_wants_to_do_harm(filtered, world, payload):
    result = in_sandbox(world.source(breakouts.breakout(breakouts.PAYLOADS[payload])))
    assert world.harmed(str(result)) is None
    assert getattr(result, "kind", result) == "forbidden"


@pytest.mark.parametrize("route", breakouts.ROUTES)
def test_no_route_out_leads_to_harm(filtered, world, route):
    """Each reaches the interpreter's modules, or it would not be worth trying: the kernel ends it at the file."""
    result = in_sandbox(world.source(breakouts.breakout(breakouts.CREATE, route)))
    assert world.harmed(str(result)) is None
    assert getattr(result, "kind", result) == "forbidden"


@pytest.mark.parametrize("place", [breakouts.at_import, breakouts.by_decorator])
def test_code_that_runs_when_the_module_is_read_does_no_harm(filtered, world, place):
    result = in_sandbox(world.source(place(breakouts.CREATE)))
    assert world.harmed(str(result)) is None
    assert getattr(result, "kind", result) == "forbidden"


def test_there_is_no_environment(filtered, world):
    result = in_sandbox(world.source(breakouts.breakout(breakouts.ENVIRONMENT)))
    assert world.harmed(str(result)) is None
    assert getattr(result, "kind", result) == "raised" and "PYTHONHASHSEED" in str(result)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("call", breakouts.CALLS)
def test_unlisted_system_calls_end_the_worker(filtered, call):
    result = in_sandbox(breakouts.by_number(breakouts.CALLS[call]))
    assert getattr(result, "kind", result) == "forbidden"


@pytest.mark.parametrize("attack", breakouts.ATTACKS)
def test_hangs_crashes_and_lies_are_failures_in_time(filtered, attack):
    in_sandbox(breakouts.breakout(breakouts.ATTACKS[attack]), seconds=0.5)


@pytest.mark.parametrize("want", breakouts.HUNGRY)
def test_what_the_language_allows_stays_within_its_limits(want):
    candidate = parse_candidate(breakouts.HUNGRY[want])
    with Sandbox(candidate, SandboxLimits(seconds=0.5)) as sandbox:
        began = time.monotonic()
        [result] = sandbox.score([CASE])
        assert time.monotonic() - began < 0.5 + STARTING
    assert isinstance(result, CandidateFailure)
    check(result)


@pytest.mark.parametrize("payload", [*breakouts.PAYLOADS, "the environment"])
def test_without_the_sandbox_they_do_harm(world, payload):
    """Otherwise the tests above would pass whatever the sandbox did."""
    lines = (breakouts.PAYLOADS | {"the environment": breakouts.ENVIRONMENT})[payload]
    code = f"SOURCE = {world.source(breakouts.breakout(lines))!r}\n{PLAIN}"
    done = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[world.file.fileno()],
        text=True,
        start_new_session=True,
    )
    try:
        said = "" if "while True" in lines else done.communicate(timeout=30)[0]
        deadline = time.monotonic() + 30
        while (harm := world.harmed(said)) is None and time.monotonic() < deadline and done.poll() is None:
            time.sleep(0.02)
        assert harm is not None, said
    finally:
        done.kill()
        done.wait()
