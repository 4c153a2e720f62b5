"""The documentation in the terminal, and the pages that error messages name."""

import re

import pytest

from segzero.shipped import docs_dir
from tests.helpers.structure import ROOT, modules


def test_pages_are_listed_and_printed(run_segzero):
    code, listed, _ = run_segzero("docs")
    assert code == 0 and "segzero docs training" in listed
    assert run_segzero("docs", "training")[1] == (docs_dir() / "training.md").read_text()


def test_an_unknown_page_is_one_line(run_segzero):
    code, _, said = run_segzero("docs", "trainig")
    assert code == 2 and "did you mean 'training'" in said and said.count("\n") == 1


def test_messages_name_pages_that_there_are():
    named = [
        (module.name, page)
        for module in modules().values()
        for page in re.findall(r"`segzero docs (\w+)`", module.path.read_text())
    ]
    assert len(named) > 10
    assert [each for each in named if not (docs_dir() / f"{each[1]}.md").is_file()] == []


def test_messages_name_no_files_that_a_wheel_lacks():
    naming = [module.name for module in modules().values() if re.search(r"docs/\w+\.md", module.path.read_text())]
    assert naming == []


@pytest.mark.parametrize("name", ["docs", "configs"])
def test_a_clone_shows_its_own(name):
    assert (ROOT / name).is_dir() and docs_dir() == ROOT / "docs"
