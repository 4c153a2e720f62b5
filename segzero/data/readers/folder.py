"""Reader of own data: a folder with images/, masks/ and one table of prompts, prompts.csv or prompts.jsonl.

    image,prompt,mask                                {"image": "cat.jpg", "prompt": "the cat"}
    cat.jpg,the cat,                                 {"image": "cat.jpg", "prompt": "both", "mask": ["a.png", "b.png"]}
    cat.jpg,both animals,cat.png|dog.png             {"image": "cat.jpg", "prompt": "the bird", "mask": []}
    cat.jpg,the bird,none

`mask` names one file per object, in masks/; without it, the file that is named like the image. `none` (in JSON lines,
an empty list) means that nothing matches. Further columns, all optional: id, category, concept, split.
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
NO_MASK = "none"  # in the mask column: nothing matches


def read_folder(source: str | Path, split: str = "") -> Iterator[Record]:
    """Read a Sample of each line of the table, or of those with a given `split`."""
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
    cell = get(row, "mask", str, list, default=Path(image).with_suffix(".png").as_posix())
    names = [name.strip() for name in cell.split("|")] if isinstance(cell, str) else cell
    if not all(isinstance(name, str) for name in names):
        raise UserError("'mask' must be a file name or a list of them")
    return [] if names == [NO_MASK] else names


def _objects(masks: Path, name: str, size: Size) -> tuple[Object, ...]:
    objects = mask_object(read_mask(inside(masks, name), size))
    if not objects:
        raise UserError(f"the mask {name} is all black; if nothing matches, write {NO_MASK} (in JSON lines: [])")
    return objects
