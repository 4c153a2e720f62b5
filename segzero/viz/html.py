"""Parts of HTML pages: each page is one file, with its pictures inside and nothing to fetch.

>>> table(("figure", "value"), [("gIoU", "<0.5>")])
'<table><tr><th>figure<th>value<tr><td>gIoU<td>&lt;0.5&gt;</table>'
"""

from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from segzero.images import data_url
from segzero.io import png_bytes

PANEL_WIDTH = 700  # pixels, in a page


def page(title: str, body: str) -> str:
    """Write a whole page; the title is plain text, the body HTML."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{text(title)}</title>
<style>{STYLE}</style>
{body}
</html>
"""


def text(value: str) -> str:
    """Escape plain text for HTML. A lone surrogate, which a file can't hold, becomes an escape."""
    return escape(value.encode("utf-8", "backslashreplace").decode())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table of plain texts; an empty head is left out."""
    top = "<tr>" + "".join(f"<th>{text(cell)}" for cell in head) if head else ""
    lines = ("<tr>" + "".join(f"<td>{text(cell)}" for cell in row) for row in rows)
    return f"<table>{top}{''.join(lines)}</table>"


def picture(image: Image.Image, width: int = PANEL_WIDTH) -> str:
    """Embed an image in the page, that many pixels wide."""
    small = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    return f'<img alt="" src="{data_url(png_bytes(small))}">'


def side_by_side(parts: Iterable[str]) -> str:
    """Put drawings or pictures in a row, as many as fit beside each other."""
    return f'<div class="row">{"".join(f"<figure>{part}</figure>" for part in parts)}</div>'


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  color: #171b21; background: #f5f6f8 }
h1 { font-weight: 650 } small { font-weight: 400; color: #6b7280 }
.row { display: flex; flex-wrap: wrap; gap: 16px } .row > * { flex: 1 1 420px; min-width: 0; margin: 0 }
img, svg { width: 100%; height: auto; border-radius: 10px; display: block }
table { border-collapse: collapse; background: #fff; border-radius: 10px; margin: 1rem 0; display: block;
  width: fit-content; max-width: 100%; overflow-x: auto }
td, th { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid #e3e7ec; vertical-align: top }
pre { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { color: #e8eaed; background: #14171c } table { background: #1d2127 }
  td, th { border-color: #333941 } }
"""
