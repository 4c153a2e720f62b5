"""The page's files, its mounting and its command, without a browser."""

import inspect
import re
import subprocess
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from segzero.cli.demo_ui import demo_ui
from segzero.cli.serve import serve
from segzero.serving.ui import STATIC, add_ui

FILES = sorted(STATIC.iterdir())


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in():
    app = FastAPI()
    add_ui(app)
    client = TestClient(app)
    assert client.get("/", follow_redirects=False).headers["location"] == "ui/"
    for file in [STATIC, *FILES]:
        answer = client.get(f"/ui/{'' if file == STATIC else file.name}")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
    assert client.get("/ui/none.js").status_code == 404
    assert client.get("/ui/../__init__.py").status_code == 404


def test_nothing_comes_from_elsewhere_and_no_text_becomes_html():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, file  # names, not addresses
        sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|\son\w+="
        assert not re.search(sinks, text), file


def test_whatever_a_script_looks_for_is_on_the_page():
    page = (STATIC / "index.html").read_text()
    ids = re.findall(r'\bid="([\w-]+)"', page)
    assert len(ids) == len(set(ids))
    for file in STATIC.glob("*.js"):
        text = file.read_text()
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= set(ids), file
        assert {f"icon-{name}" for name in re.findall(r'icon\("(\w+)"\)', text)} <= set(ids), file
        for name in re.findall(r'from "\./(\w+\.js)"', text):
            assert (STATIC / name).is_file(), (file, name)


def test_demo_ui_takes_what_serve_takes():
    own, served = inspect.signature(demo_ui).parameters, inspect.signature(serve).parameters
    assert set(own) == {*served, "browser"} - {"ui"}
    assert own["port"].default == 7860
    assert all(own[name].default == served[name].default for name in own if name not in ("port", "browser"))


def test_the_launcher_is_a_script_that_bash_can_read():
    script = Path(__file__).parents[2] / "inference_scripts" / "launch_demo.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert 'segzero demo-ui "$@"' in script.read_text()
