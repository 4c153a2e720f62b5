"""The documentation against the code: commands, options, keys, names and error lines that pages mention exist."""

import ast
import builtins
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
from omegaconf import OmegaConf

from segzero.cli.main import app
from tests.helpers.structure import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("docs/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
KEY_ROOTS = ("actor_rollout_ref", "algorithm", "data", "ray_kwargs", "reward", "segzero", "trainer")
# Words that stand in a page for a name of the reader's own.
PLACEHOLDERS = {"NAME", "N", "TERM", "CODE", "key"}


def spans(page: Path) -> list[str]:
    """Inline code of a page, on one line."""
    return [span.replace("\n", " ") for span in SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))]


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of a page in one of the languages."""
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Every `segzero ...` command of a page, in words, without `segzero`."""
    lines = spans(page)
    for block in blocks(page, "", "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        try:
            words = shlex.split(line.replace("...", " "), comments=True)
        except ValueError:  # text that is no command: an odd quote
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:1] == ["segzero"] and len(words) > 1:
            yield words[1:]


def unknown_part(words: list[str]) -> str | None:
    """The first word of a command line that the command line interface does not know."""
    command = typer.main.get_command(app)
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if re.match(r"--?[a-z]", word):
            name = word.partition("=")[0]
            known = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
            if name not in known and name != "--help":
                return word
            if name in known and not getattr(known[name], "is_flag", False) and "=" not in word:
                queue = queue[1:]
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


@lru_cache
def config() -> object:
    """A run's configuration with every key."""
    from segzero.training.config import compose

    return compose("train", ["reward=candidate", "reward.path=winner.py"])  # the reward with the most keys


def is_key(name: str) -> bool:
    """Whether a dotted name is a key of a run's configuration, or a section."""
    parts, node = name.split("."), config()
    for part in parts:
        if not OmegaConf.is_dict(node) or part not in node:
            return False
        node = node._get_node(part)
    return True


@lru_cache
def syntax_tree(file: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


def is_name(name: str) -> bool:
    """Whether a dotted name is a module of ours or something defined or imported there; nothing is imported for it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:cut])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return defines(syntax_tree(file), parts[cut:])
    return False


def defines(scope: ast.AST, names: list[str]) -> bool:
    """Whether a module or a class defines a name, and that the next one, and so on."""
    if not names:
        return True
    first, *rest = names
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.If) and defines(node, names):
            return True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return defines(node, rest)
        if isinstance(node, ast.ImportFrom) and first in {alias.asname or alias.name for alias in node.names}:
            return not rest or is_name(".".join([str(node.module), first, *rest]))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == first for target in targets):
                return not rest
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist_with_their_options(page):
    wrong = {" ".join(["segzero", *words]): part for words in commands(page) if (part := unknown_part(words))}
    assert not wrong


def test_the_name_check_sees_methods_imports_and_misspellings():
    assert is_name("segzero.SegZeroPipeline.from_pretrained")
    assert is_name("segzero.dialogue.Dialogue.ask")
    assert is_name("rewards.PRESETS")
    assert not is_name("segzero.pipeline.SegZeroPipeline.asks")
    assert not is_name("segzero.pipelines")


def test_the_command_check_sees_a_wrong_option_and_a_wrong_command():
    assert unknown_part(["data", "prepare", "mine", "--formt", "folder"]) == "--formt"
    assert unknown_part(["data", "prepair", "mine"]) == "prepair"
    assert unknown_part(["eval", "--benchmark", "own", "--data", "compare"]) is None
    assert unknown_part(["segment", "photo.jpg", "--point", "-30,40", "--all-masks"]) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_dotted_names_are_modules_or_keys(page):
    dotted = re.compile(rf"(?<![\w/.@-])((?:rewards|{'|'.join(KEY_ROOTS)})(?:\.\w+)+)(?![\w/-])")
    code = [*spans(page), *blocks(page, "", "bash", "python")]
    names = {name for text in code for name in dotted.findall(text)}
    files = {"segzero.json", "data.py", "data.md"}
    wrong = [
        name
        for name in sorted(names - files)
        if not PLACEHOLDERS & set(name.split(".")) and not is_name(name) and not is_key(name)
    ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_examples_compile_and_their_imports_exist(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("segzero", "rewards"):
                wrong = [name.name for name in node.names if not is_name(f"{node.module}.{name.name}")]
                assert not wrong, f"from {node.module} import {', '.join(wrong)}"


@lru_cache
def parameters() -> dict[str, set[str]]:
    """The parameters of everything that is called by a name: functions, methods, classes and their fields."""
    found: dict[str, set[str]] = {}
    for file in (*ROOT.glob("segzero/**/*.py"), *ROOT.glob("rewards/*.py")):
        for node in ast.walk(syntax_tree(file)):
            if isinstance(node, ast.ClassDef):
                fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
                made = [part for part in node.body if getattr(part, "name", "") == "__init__"]
                found.setdefault(node.name, set()).update(fields, *(arguments(part) for part in made))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, set()).update(arguments(node))
    return found


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of a function's arguments, and ** if it takes any."""
    named = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return named | ({"**"} if function.args.kwarg else set())


def calls(code: str) -> list[ast.Call]:
    """Every call in some Python; none where it is not Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_examples_name_parameters_that_exist(page):
    wrong = []
    for call in (call for code in (*blocks(page, "python"), *spans(page)) for call in calls(code)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        known = set() if name in vars(builtins) else parameters().get(name, set())
        if known and "**" not in known:
            wrong += [f"{name}({word.arg}=)" for word in call.keywords if word.arg and word.arg not in known]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_config_choices_exist(page):
    text = " ".join(word for words in commands(page) for word in words)
    chosen = re.findall(
        r"(?<!\S)(recipe|algo|model|data|reward|hardware|rollout_correction|rehearse)=(\w+)(?!\S)", text
    )
    wrong = [f"{group}={name}" for group, name in chosen if not (ROOT / f"configs/{group}/{name}.yaml").is_file()]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_make_targets_exist(page):
    code = [*spans(page), *blocks(page, "", "bash")]
    folders = "benchmarks|configs|docs|examples|inference_scripts|requirements|segzero|tests|training_scripts"
    path = re.compile(rf"(?<![\w/.-])((?:{folders})/[\w/.-]*\w)(?![\w/*{{-])")
    named = {name for text in code for name in path.findall(text) if not PLACEHOLDERS & set(re.split(r"[/._]", name))}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {target for text in code for target in re.findall(r"(?:^|\n)(?:[A-Z]+=\S+ )*make ([a-z][\w-]*)", text)}
    assert not asked - targets


def test_the_architecture_lists_the_floors_that_a_test_holds():
    section = (
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Floors")[2].partition("\n## ")[0]
    )
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    entries = {"segzero", "segzero.__main__"}  # the package itself, and the way in
    assert [set(SPAN.findall(cell)) for cell in cells] == [set(floor) - entries for floor in FLOORS]


def test_the_api_reference_names_what_exists():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: ([\w.]+)\n((?:    .*\n)*)", page, re.MULTILINE)
    assert len(entries) > 8
    names = [name for name, _ in entries]
    for module, options in entries:
        listed = re.search(r"members: \[(.*)\]", options)
        names += [f"{module}.{member}" for member in listed[1].split(", ")] if listed else []
    assert not [name for name in names if not is_name(name)]


def test_the_table_of_reward_terms_names_functions():
    rows = (ROOT / "docs/rewards.md").read_text(encoding="utf-8").partition("\n## Terms\n\n")[2].partition("\n\n")[0]
    names = re.findall(r"^\| `([\w.]+)", rows, re.MULTILINE)
    assert len(names) > 10
    assert not [name for name in names if not is_name(f"rewards.{name}")]


def value_said(code: str, node: ast.Expr) -> str | None:
    """The value that a comment behind an expression, or on the next line, gives it; None if it says something else."""
    lines = code.splitlines()
    behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()
    below = lines[node.end_lineno] if node.end_lineno < len(lines) else ""
    said = (behind or below).removeprefix("# ")
    try:
        ast.parse(said, mode="eval")
    except SyntaxError:
        return None
    return said if said[:1] in "[({'\"0123456789" or re.match(r"[A-Z]\w+\(", said) else None


@pytest.mark.parametrize(("name", "values"), [("answers", 3), ("rewards", 7), ("reward_search", 1)])
def test_light_examples_run_and_give_what_they_say(name, values):
    names: dict[str, object] = {}
    checked = 0
    for code in blocks(ROOT / f"docs/{name}.md", "python"):
        for node in ast.parse(code).body:
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), name, "exec"), names)
                continue
            value = eval(compile(ast.Expression(node.value), name, "eval"), names)
            if said := value_said(code, node):
                assert repr(value) == said
                checked += 1
    assert checked == values


@lru_cache
def messages() -> list[str]:
    """Every text of the code, with … where a value goes."""
    found = []
    for file in sorted(ROOT.glob("segzero/**/*.py")):
        for node in ast.walk(syntax_tree(file)):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    found.append((ROOT / "Makefile").read_text(encoding="utf-8"))
    return found


def test_troubleshooting_quotes_lines_that_the_code_writes():
    rows = re.findall(r"^\|(.+)\|$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [" ".join(re.split(r"(?<!\\)\|", row)[:-1]) for row in rows]  # the last column is what to do
    quoted = {span for cell in cells for span in SPAN.findall(cell) if " " in span}
    assert len(quoted) > 40
    pieces = {piece.strip() for span in quoted for piece in span.split("...") if " " in piece.strip()}
    assert not [piece for piece in sorted(pieces) if not any(piece in message for message in messages())]


class Loads(HTMLParser):
    """Collect the addresses that a page loads by itself: everything but links to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value
            for name, value in attributes
            if value and (name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link"))
        ]


@pytest.mark.slow
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path):
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(mkdocs, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in loads.addresses if re.match(r"(https?:)?//", address)], page.name
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def notebook_cells() -> list[dict]:
    """The code cells of the notebook."""
    notebook = json.loads((ROOT / "examples/segzero.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed_in(cell: dict) -> str:
    """What the notebook says that a cell printed."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


@pytest.mark.slow
def test_the_notebook_runs_and_prints_what_it_shows(capsys):
    names: dict[str, object] = {"__name__": "__main__"}
    cells = notebook_cells()
    assert len(cells) > 5
    for number, cell in enumerate(cells):
        code = compile("".join(cell["source"]), f"cell {number} of examples/segzero.ipynb", "exec")
        exec(code, names)
        assert capsys.readouterr().out == printed_in(cell), f"cell {number} prints something else: run it and save it"
