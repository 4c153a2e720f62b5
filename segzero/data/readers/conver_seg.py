"""Reader of ConverSeg: its training lines, its evaluation JSON, and its hub data set.

dataset.jsonl   {"image": "images/1.jpg", "mask_merged": "masks/1.png", "prompt": "the left-most person"} per line
items.json      {"dataset": ..., "count": 1, "items": [{"id", "image", "mask", "prompt", "concept"}]}
hub             columns id, image, mask, prompt, concept; splits sam_seeded and human_annotated
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from segzero.data.readers.annotations import mask_object
from segzero.data.readers.fields import Record, get, get_id, json_lines, parse_json, question, read_json
from segzero.data.readers.hub_rows import HubRow, image_file, image_of, rows
from segzero.data.readers.pictures import existing_folder, image_size, inside, read_mask
from segzero.errors import UserError
from segzero.sample import Sample

NO_PROMPT = "segment"  # question of the published loader for a line without a prompt
COLUMNS = ("image", "mask", "prompt")
HUB_NAMES = ("aadarsh99/ConverSeg", "aadarsh99/ConvSeg")  # the same data set; both are in use


def read_converseg(source: Any, split: str = "", images: str | Path = "") -> Iterator[Record]:
    """Read a Sample of each line, item or row. A mask without pixels means that nothing matches.

    `split` chooses rows of the hub's data set; lines and items have none. `images` is the folder that paths in lines
    and items are relative to and must stay in, by default the file's own.
    """
    file = _list_file(Path(source)) if isinstance(source, str | Path) else None
    if file is None:
        yield from _hub(source, split)
        return
    if split:
        raise UserError(f"{file} has no splits; leave split={split} out")
    root = existing_folder(images or file.parent, "ConverSeg images")
    if file.suffix == ".jsonl":
        for number, (where, line) in enumerate(json_lines(file)):
            yield Record(where, partial(_line_samples, line, root, number))
        return
    content = read_json(file)
    try:
        items, name = get(content, "items", list), get(content, "dataset", str, default="")
    except UserError as error:
        raise UserError(f"{file}: {error}; see `segzero docs data` for ConverSeg's items.json") from error
    for number, item in enumerate(items):
        yield Record(f"{file}, item {number}", partial(_samples, item, "mask", root, name, number))


def _hub(source: Any, split: str) -> Iterator[Record]:
    if source in HUB_NAMES:
        source = _available_name(str(source), split)
    for where, part, number, row in rows(source, split, COLUMNS, ("id", "concept")):
        yield Record(where, partial(_row_samples, row, source, part, number))


def _available_name(name: str, split: str) -> str:
    """The spelling of the hub name that is on the hub or in its cache, preferably the given one."""
    other = HUB_NAMES[1 - HUB_NAMES.index(name)]
    try:
        next(rows(name, split, COLUMNS), None)
    except UserError as error:
        try:
            next(rows(other, split, COLUMNS), None)
        except UserError:
            raise error from None
        return other
    return name


def _list_file(path: Path) -> Path | None:
    """The .jsonl or .json file at a path or in a folder, if there is one."""
    if path.is_file():
        return path if path.suffix in (".jsonl", ".json") else None
    files = [path / name for name in ("dataset.jsonl", "items.json") if (path / name).is_file()]
    if len(files) > 1:
        raise UserError(f"{path} holds dataset.jsonl and items.json; name the one to read")
    return files[0] if files else None


def _line_samples(line: bytes, root: Path, number: int) -> list[Sample]:
    return _samples(parse_json(line), "mask_merged", root, "", number)


def _samples(item: Any, mask_name: str, root: Path, split: str, number: int) -> list[Sample]:
    image = inside(root, get(item, "image", str))
    mask = inside(root, get(item, mask_name, str))
    return [_sample(item, image, mask, split, number, binary=mask_name == "mask_merged")]


def _row_samples(row: HubRow, source: Any, split: str, number: int) -> list[Sample]:
    image, mask = image_of(row, source), image_file(row.get("mask"), source, "mask")
    name = f"{split or 'row'}-{get_id(row, 'id', default=str(number))}"  # both splits may count from 1
    item = {"id": name, "prompt": row["prompt"], "concept": row.get("concept")}
    return [_sample(item, image, mask, split, number)]


def _sample(
    item: Any, image: Path | bytes, mask: Path | bytes, split: str, number: int, binary: bool = False
) -> Sample:
    width, height = size = image_size(image)
    prompt = get(item, "prompt", str, default="")
    return Sample(
        get_id(item, "id", default=str(number)),
        image if isinstance(image, bytes) else str(image),
        question(prompt) if prompt.strip() else NO_PROMPT,
        width,
        height,
        mask_object(read_mask(mask, size, binary)),
        concept=get(item, "concept", str, default=""),
        split=split,
        source="converseg",
    )
