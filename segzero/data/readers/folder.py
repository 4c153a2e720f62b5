"""Own data: a folder with images/, masks/ and one table of prompts, prompts.csv or prompts.jsonl.

    image,prompt,mask                                {"image": "cat.jpg", "prompt": "the cat"}
    cat.jpg,the cat,                                 {"image": "cat.jpg", "prompt": "both", "mask": ["a.png", "b.png"]}
    cat.jpg,both animals,cat.png|dog.png             {"image": "cat.jpg", "prompt": "the bird", "mask": []}
    cat.jpg,the bird,none

`mask` is one file for each object, in masks/; without it, the file called like the image. `none` (in JSON lines,
an empty list) says that nothing matches. Further columns, all optional: id, category, concept, split.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import mask_object
from segzero.data.readers.fields import Record, csv_rows, get, get_id, json_lines, parse_json, question
from segzero.data.readers.pictures import existing_folder, image_size, inside, read_mask
from segzero.errors import UserError
from segzero.frames import Size
from segzero.sample import Object, Sample

TABLES = ("prompts.csv", "prompts.jsonl")
NOTHING = "none"  # in the table's mask column


def read_folder(source: str | Path, split: str = "") -> Iterator[Record]:
    """A Sample for each line of the table; with `split`, for those of that split."""
    folder = existing_folder(source, "own data")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        raise UserError(
            f"{folder} must hold one of {' and '.join(TABLES)}; it holds {len(tables)} of them; see `segzero docs data`"
        )
    existing_folder(folder / "images", "own data")
    [table] = tables
    lines: Iterator[tuple[str, Any]] = csv_rows(table) if table.suffix == ".csv" else json_lines(table)
    for number, (where, line) in enumerate(lines):
        yield Record(where, partial(_samples, line, folder, number, split))


def _samples(line: bytes | dict[str, str], folder: Path, number: int, wanted: str) -> list[Sample]:
    row = parse_json(line) if isinstance(line, bytes) else line
    split = get(row, "split", str, default="")
    if wanted not in ("", split):
        return []
    name = get(row, "image", str)
    image = inside(folder / "images", name)
    width, height = size = image_size(image)
    return [
        Sample(
            get_id(row, "id", default=str(number)),
            str(image),
            question(get(row, "prompt", str)),
            width,
            height,
            tuple(chain.from_iterable(_objects(folder / "masks", mask, size) for mask in _masks(row, name))),
            category=get(row, "category", str, default=""),
            concept=get(row, "concept", str, default=""),
            split=split,
            source=folder.absolute().name,
        )
    ]


def _masks(row: dict[str, Any], image: str) -> list[str]:
    """The names of the mask files of a row."""
    said = get(row, "mask", str, list, default=Path(image).with_suffix(".png").as_posix())
    names = [name.strip() for name in said.split("|")] if isinstance(said, str) else said
    if not all(isinstance(name, str) for name in names):
        raise UserError("'mask' must be a file name or a list of them")
    return [] if names == [NOTHING] else names


def _objects(masks: Path, name: str, size: Size) -> tuple[Object, ...]:
    objects = mask_object(read_mask(inside(masks, name), size))
    if not objects:
        raise UserError(f"the mask {name} is all black; if nothing matches, write {NOTHING} (in JSON lines: [])")
    return objects
