"""The page's static files, how they are served, and the demo command, without a browser."""

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
SCRIPTS = {file.name: file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".js"}
PAGES = {file.name: file.read_text(encoding="utf-8") for file in FILES if file.suffix == ".html"}

# Ways to run a text as code or to insert it as HTML.
UNSAFE = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|\son\w+="


def imported_names(script: str) -> dict[str, set[str]]:
    """Return what a script imports: file name -> names, empty for a namespace import or an import without names."""
    imports = re.findall(r'^import (?:\{([^}]*)\} from |\* as \w+ from )?"\./(\w+\.js)";$', script, re.MULTILINE)
    return {file: set(re.findall(r"\w+", names)) for names, file in imports}


def exported_names(script: str) -> set[str]:
    return set(re.findall(r"^export (?:const|class|(?:async )?function) (\w+)", script, re.MULTILINE))


def test_every_file_is_served_with_a_strict_security_policy():
    app = FastAPI()
    add_ui(app)
    client = TestClient(app)
    assert client.get("/", follow_redirects=False).headers["location"] == "ui/"
    for path in ["", *(file.name for file in FILES)]:
        response = client.get(f"/ui/{path}")
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
    assert client.get("/ui/none.js").status_code == 404
    assert client.get("/ui/../__init__.py").status_code == 404


def test_nothing_is_loaded_from_other_servers_and_no_text_becomes_html():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, file  # names of XML namespaces
        assert not re.search(UNSAFE, text), file


def loaded_scripts(page: str) -> set[str]:
    """Names of the scripts that a page loads, those that they import included."""
    [entry] = re.findall(r'<script type="module" src="([\w.]+)">', PAGES[page])
    loaded, waiting = set(), {entry}
    while waiting:
        loaded |= waiting
        waiting = {file for name in waiting for file in imported_names(SCRIPTS[name])} - loaded
    return loaded


def test_every_element_that_a_script_looks_up_is_in_its_page():
    for page, text in PAGES.items():
        ids = re.findall(r'\bid="([\w-]+)"', text)
        assert len(ids) == len(set(ids)), page
        for name in loaded_scripts(page):
            script = SCRIPTS[name]
            assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= set(ids), (page, name)
            assert {f"icon-{icon}" for icon in re.findall(r'icon\("(\w+)"\)', script)} <= set(ids), (page, name)
    assert set.union(*map(loaded_scripts, PAGES)) == set(SCRIPTS)


def test_every_imported_name_is_exported_and_every_export_is_used():
    used: dict[str, set[str]] = {name: set() for name in SCRIPTS}
    for name, script in SCRIPTS.items():
        imports = imported_names(script)
        assert len(imports) == len(re.findall(r"^import\b", script, re.MULTILINE)), name
        for file, names in imports.items():
            assert names <= exported_names(SCRIPTS[file]), (name, file)
            used[file] |= names
        used["api.js"] |= set(re.findall(r"\bapi\.(\w+)", script)) - {"js"}
    assert used["api.js"] <= exported_names(SCRIPTS["api.js"])
    only_tested = {"decodeMask", "parsePartialAnswer"}  # by test_page_masks.py
    for name, script in SCRIPTS.items():
        assert exported_names(script) - used[name] <= only_tested, name


def test_every_style_sheet_is_loaded():
    sheets = {file.name for file in FILES if file.suffix == ".css"}
    loaded = re.findall(r'<link rel="stylesheet" href="([\w.]+)">', "".join(PAGES.values()))
    assert sheets == set(loaded)


def test_demo_ui_takes_the_options_of_serve():
    own, served = inspect.signature(demo_ui).parameters, inspect.signature(serve).parameters
    assert set(own) == {*served, "browser"} - {"ui"}
    assert own["port"].default == 7860
    assert all(own[name].default == served[name].default for name in own if name not in ("port", "browser"))


def test_the_launcher_is_a_valid_bash_script():
    script = Path(__file__).parents[2] / "inference_scripts" / "launch_demo.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert 'segzero demo-ui "$@"' in script.read_text()
