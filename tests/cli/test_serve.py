"""Checks of `segzero serve` before it loads a model, and its options at work; errors of the client."""

import json
import socket
import subprocess
import sys

import pytest
from PIL import Image

from segzero.cli.serve import serve
from segzero.errors import UserError
from segzero.serving.client import Client
from segzero.serving.limits import Tokens, read_tokens
from segzero.serving.server import bind, is_loopback


def test_a_port_in_use_is_reported_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another --host or --port"):
            serve(port=taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot serve at no"):
        bind("no.such.host.invalid", 8000)


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text("# of the demo\nfirst\n\n  second  \n")
    known = read_tokens(file)
    assert (
        known.owner("Bearer first")
        and known.owner("bearer second")
        and known.owner("Bearer first") != known.owner("Bearer second")
    )
    assert known.owner("Bearer # of the demo") is None and known.owner("first") is None and known.owner("") is None
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no token"):
        read_tokens(file)
    with pytest.raises(UserError, match="cannot read"):
        read_tokens(tmp_path / "none")
    monkeypatch.setenv("SEGZERO_TOKENS", "a, b")
    assert read_tokens(None).owner("Bearer b")
    monkeypatch.setenv("SEGZERO_TOKENS", "#sharp,plain")
    assert read_tokens(None).owner("Bearer #sharp") and len(read_tokens(None)) == 2
    monkeypatch.delenv("SEGZERO_TOKENS")
    assert not read_tokens(None) and Tokens().owner("") == ""


@pytest.mark.parametrize("value", ["", " , ", "\n", ",,"])
def test_a_token_variable_without_a_token_is_refused(monkeypatch, value):
    monkeypatch.setenv("SEGZERO_TOKENS", value)
    with pytest.raises(UserError, match="SEGZERO_TOKENS is set and holds no token"):
        read_tokens(None)


@pytest.mark.parametrize(
    ("host", "is_so"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True)]
)
def test_loopback_is_this_machine_alone(host, is_so):
    assert is_loopback(host) is is_so


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", ""])
def test_an_open_server_needs_tokens_or_the_open_flag(monkeypatch, tmp_path, host):
    """With tokens or --open the command gets further, to a port that is taken."""
    monkeypatch.delenv("SEGZERO_TOKENS", raising=False)
    (tmp_path / "tokens").write_text("secret")
    with pytest.raises(UserError, match=r"add --tokens FILE .* or --open"):
        serve(host=host)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for allowed in ({"everybody": True}, {"tokens": tmp_path / "tokens"}):
            with pytest.raises(UserError, match="cannot serve at"):
                serve(host="0.0.0.0" if host != "192.0.2.7" else host, port=port, **allowed)


def test_the_client_needs_no_model_and_no_server_library():
    code = "import json, sys, segzero.serving.client; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "fastapi", "pydantic", "uvicorn", "httpx"} & set(json.loads(loaded))


@pytest.mark.slow
def test_options_reach_the_server(start_server, tmp_path):
    from segzero import shipped

    Image.new("RGB", (30, 20), "teal").save(tmp_path / "sky.png")
    arguments = ["--policy", str(shipped.policy_path())] * 2 + ["--segmenter", str(shipped.segmenter_path())] * 2
    arguments += ["--examples", str(tmp_path), "--flags", str(tmp_path / "flags"), "--no-ui", "--max-question", "99"]
    running = start_server(*arguments)
    assert running.process.poll() is None, running.log.read_text()
    client = Client(running.url)
    models = client.models()
    first, second = (each["name"] for each in models["policies"])
    assert second == f"{first} (2)" and len(models["segmenters"]) == 2 and models["flags"]
    assert models["limits"]["question"] == 99
    [example] = client.send("GET", "/v1/examples")
    assert example["name"] == "sky"
    with client.dialogue(tmp_path / "sky.png", policy=second) as dialogue:
        dialogue.draw([(3, 3)])
        dialogue.flag(1, "bad")
        with pytest.raises(UserError, match="fetches nothing"):
            client.send("POST", "/v1/segment", {"image": "https://example.com/cat.png", "question": "the cat"})
    assert len((tmp_path / "flags" / "flags.jsonl").read_text().splitlines()) == 1
    with pytest.raises(UserError, match="404"):
        client.send("GET", "/ui/")


@pytest.mark.parametrize(
    ("option", "problem"),
    [({"examples": "none"}, "no such folder of examples"), ({"flags": "file/below"}, "cannot keep flags in")],
)
def test_folders_that_cannot_be_used_are_refused_before_models_are_loaded(tmp_path, option, problem):
    (tmp_path / "file").touch()
    [(name, place)] = option.items()
    with pytest.raises(UserError, match=problem):
        serve(port=1, **{name: tmp_path / place})


def test_errors_of_the_client_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no server"):
        Client("localhost:8000")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{free.getsockname()[1]}", timeout=5)
    with pytest.raises(UserError, match="start a server: segzero serve"):
        client.segment(b"image", "the shape")
    with pytest.raises(UserError, match="cannot open"):
        client.segment(tmp_path / "none.png", "the shape")
