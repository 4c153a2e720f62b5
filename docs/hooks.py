"""Hooks of MkDocs: the site also holds pages that stand elsewhere in the repository, where GitHub looks for them.

Links are written as paths in the repository, so that they work on GitHub too; here they become links of the site.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/segzero.ipynb": "notebook.md",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of other folders."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=read_notebook(text) if source.endswith(".ipynb") else text))
    return files


def read_notebook(text: str) -> str:
    """Turn a notebook, with the text and the pictures that it shows, into Markdown."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```\n{''.join(output['text']).rstrip()}\n```")
            elif picture := output.get("data", {}).get("image/jpeg"):
                parts.append(f"![What the cell above shows](data:image/jpeg;base64,{''.join(picture).strip()})")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn paths in the repository into paths in the site."""
    sources = {target: source for source, target in PAGES.items()}
    folder = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def in_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["path"]))
        return PAGES.get(path, path.removeprefix("docs/"))

    return LINK.sub(in_site, markdown)
