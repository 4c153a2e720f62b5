"""`segzero chat`: typed lines become printed lines and files."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from segzero.cli.main import main
from segzero.cli.repl import ChatSession

ROOT = Path(__file__).parents[2]


@pytest.fixture
def talk(dialogue, tmp_path):
    """Type lines into a session -> the printed lines, prompts among them; the pictures go to tmp_path."""
    printed: list[str] = []
    chat = ChatSession(dialogue, tmp_path / "rounds", printed.append)

    def call(*lines: str) -> list[str]:
        printed.clear()
        rest = iter(lines)

        def read(prompt: str) -> str:
            printed.append(prompt)
            try:
                return next(rest)
            except StopIteration:
                raise EOFError from None

        chat.run(read)
        return list(printed)

    call.folder = tmp_path / "rounds"
    return call


def files(talk) -> set[str]:
    return {path.name for path in talk.folder.iterdir()}


def test_rounds_are_printed_and_drawn(talk, scene):
    printed = talk(scene[1], "/list")
    assert printed[0] == "Round 1> " and printed[-1] == "Round 2> "
    assert any(line.startswith("thinking: ") for line in printed)
    assert [line for line in printed if line.startswith("instance 1: box ")] == [printed[2]] * 2
    assert files(talk) == {"round_1_overlay.png", "round_1.json"}
    assert str(talk.folder / "round_1_overlay.png") in printed


def test_files_follow_the_dialogue(talk, scene):
    talk(scene[1])
    first = (talk.folder / "round_1_overlay.png").read_bytes()
    printed = talk("/refine 1 -3,3 10,10,60,60", "the largest shape")
    assert "instance 1: box 10,10,60,60, predicted" in "".join(printed)
    assert (talk.folder / "round_1_overlay.png").read_bytes() != first and len(files(talk)) == 4
    talk("/undo", "/undo")
    assert (talk.folder / "round_1_overlay.png").read_bytes() == first and len(files(talk)) == 2
    talk("clear history")
    assert files(talk) == set()
    talk("/undo")
    assert (talk.folder / "round_1_overlay.png").read_bytes() == first


def test_a_reference_can_be_set(talk, dialogue, scene):
    printed = talk(scene[1], scene[1], "/ref 1", "the shape left of it", "/undo", "/ref 1", "the largest shape")
    assert "Round 3 (about round 1)> " in printed and printed[-1] == "Round 4> "
    assert dialogue.registry.rounds[2].refers == (1,)


def test_a_dialogue_is_saved_in_the_named_file(talk, dialogue, scene, tmp_path):
    printed = talk(scene[1], "/save", f"/save {tmp_path / 'a b.json'}")
    assert f"saved: {talk.folder / 'dialogue.json'}" in printed
    assert (tmp_path / "a b.json").read_bytes() == (talk.folder / "dialogue.json").read_bytes()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/undo", "there is nothing to undo"),
        ("/ref", "write a number, such as /ref 2"),
        ("/ref two", "write a number"),
        ("/ref 1 2", "write a number"),
        ("/ref 1", "there is no round 1; this dialogue has no rounds yet"),
        ("/refine", "write a number, such as /refine 3 120,80"),
        ("/refine 1 3,3", "there is no instance 1"),
        ("/refine 1 3", "'3': write x,y"),
        ("/refine 1 -1,2,3,4", "write x,y"),
        ("/refine 1 a,b", "write x,y"),
        ("/undu", "unknown command '/undu'; did you mean '/undo'"),
        ("/save no\0name", "null character"),
        ("/save /", "cannot write"),
        ("left of [REF:1]", "there is no round 1"),
        (" ?! ", "the question is empty"),
        ("/list", "nothing was found yet"),
    ],
)
def test_a_mistake_is_one_line_and_the_dialogue_goes_on(talk, line, problem):
    prompt, printed, again = talk(line)
    assert problem in printed and "\n" not in printed and prompt == again == "Round 1> "


def test_help_names_every_command(talk):
    _, printed, _ = talk("/help")
    assert all(word in printed for word in ("[REF:2]", "/ref", "/refine", "/list", "/undo", "/clear", "/save", "exit"))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, scene):
    """command(typed, ARGS) runs `segzero chat scene.png ARGS` in an empty folder -> exit code, output, error output."""
    monkeypatch.chdir(tmp_path)
    scene[0].save("scene.png")

    def call(typed: str, *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segzero", "chat", *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_the_command_goes_on_with_a_saved_dialogue(command, scene):
    backend = ("--policy-backend", "transformers")
    code, out, _ = command(f"{scene[1]}\n/save\nquit\n", "scene.png", *backend)
    assert code == 0 and "comes with SegZero" in out and "instance 1: box" in out
    resumed = ("scene.png", "--resume", "dialogue/dialogue.json", "--memory", "marks", *backend)
    code, out, _ = command("the shape left of [REF:1]", *resumed)
    assert code == 0 and "Round 2> " in out
    assert json.loads(Path("dialogue/round_2.json").read_text())["question"] == "the shape left of [REF:1]"
    assert Image.open("dialogue/round_2_overlay.png").size == Image.open("dialogue/round_1_overlay.png").size


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("absent.png",), "no such image: absent.png"),
        (("scene.png", "--memory", "mark"), "did you mean 'marks'"),
        (("scene.png", "--max-pixels", "9"), "scene.png"),
        (("scene.png", "--policy", "no/such/folder"), "no/such/folder"),
        (("scene.png", "--resume", "absent.json", "--policy-backend", "transformers"), "absent.json"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(command, args, problem):
    code, _, err = command("", *args)
    assert code == 2 and err.startswith("segzero: ") and err.count("\n") == 1 and problem in err


def test_the_script_takes_seg_zeros_flags(tmp_path):
    script = [sys.executable, ROOT / "inference_scripts" / "chat.py", "--image_path", "absent.png"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "chat.py: no such image: absent.png; check the path\n")
