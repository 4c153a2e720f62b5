"""Parquet files of samples, written whole and read with bounds.

>>> list(from_parquet(to_parquet([sample], "cats.parquet"))) == [sample]        # doctest: +SKIP
True
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzero.data import safe_parquet
from segzero.errors import UserError, one_line
from segzero.extras import needs
from segzero.masks import check_rle
from segzero.sample import Object, Sample

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

OPTIONAL = ("current_mask",)  # columns that files of earlier versions lack
ROW_GROUP = 100  # samples written and read at a time; the images may be in them


def to_parquet(samples: Iterable[Sample], path: str | Path) -> Path:
    """Write samples to a .parquet file, or as samples.parquet into a folder; images stay paths or bytes.

    The file appears whole or not at all. It contains the `datasets` features too, so that this library, and the hub's
    viewer, show the images.
    """
    pa, pq = _arrow()
    path = Path(path)
    target = path if path.suffix == ".parquet" else path / "samples.parquet"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    schema = _schema()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(unfinished, schema) as writer:
            for rows in _batches(_to_row(sample) for sample in samples):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
        unfinished.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"cannot write {target}: a sample holds a value of the wrong type: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return target


def from_parquet(path: str | Path) -> Iterator[Sample]:
    """Read the samples of the files that `parquet_files` finds; unknown columns are ignored."""
    pa, _ = _arrow()
    files = parquet_files(path)
    schema = _schema()
    for file in files:  # before the first sample is used
        _cast(pa.Table.from_batches([], safe_parquet.schema_of(file, schema.names)), schema, file)
    return (sample for file in files for sample in _read_file(file, schema))


def parquet_files(path: str | Path) -> list[Path]:
    """List a .parquet file, those of a folder, or those that match `mine/train*.parquet`, sorted by name."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "*.parquet"
    files = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if not files:
        raise UserError(f"no {path.name} in {path.parent}; `segzero data prepare` makes them of other formats")
    return files


def _read_file(file: Path, schema: "pyarrow.Schema") -> Iterator[Sample]:
    number = 0
    for table in safe_parquet.tables(file, schema.names, ROW_GROUP, _allowed):
        table = _cast(table, schema, file)
        if sum(map(safe_parquet.values_in, table.column("objects").chunks)) > safe_parquet.FREE:
            raise UserError(f"{file}: the objects of rows {number} to {number + len(table) - 1} hold too many numbers")
        try:
            rows = table.to_pylist()
        except (ValueError, OverflowError) as error:
            raise UserError(f"cannot read {file} after row {number}: {one_line(error, 200)}") from error
        for row in rows:
            yield _from_row(row, f"{file}, row {number}")
            number += 1


def _allowed(reader: "pyarrow.parquet.ParquetFile", group: int, rows: int) -> int:
    """Values of lists allowed in a group of rows; other writers put up to a million rows into one."""
    return rows << 6


def _arrow() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet, which the base package does not need."""
    with needs("infer"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def _schema() -> "pyarrow.Schema":
    """Columns of every file of samples, with the types of the `datasets` library, for images too."""
    with needs("infer"):
        from datasets import Features, Image, List, Value

    rle = {"size": List(Value("int32")), "counts": Value("string")}
    numbers = List(Value("float64"))
    features = {
        "id": Value("string"),
        "image": Image(),
        "question": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "objects": List({"box": numbers, "points": List(numbers), "rle": rle}),
        "ignore": rle,
        "category": Value("string"),
        "concept": Value("string"),
        "split": Value("string"),
        "source": Value("string"),
        "turns": Value("string"),  # JSON, as their shape depends on the source
        "meta": Value("string"),
        "current_mask": rle,
    }
    return Features(features).arrow_schema


def _cast(table: "pyarrow.Table", schema: "pyarrow.Schema", file: Path) -> "pyarrow.Table":
    """Cast columns to our types: other writers use other widths of strings and integers."""
    pa, _ = _arrow()
    missing = [name for name in schema.names if name not in table.column_names and name not in OPTIONAL]
    if missing:
        raise UserError(f"{file} holds no samples: it lacks the column {missing[0]!r}; see segzero.sample")
    try:
        for name in OPTIONAL:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{file} holds no samples: a column has the wrong type: {one_line(error, 200)}") from error


def _to_row(sample: Sample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in ("id", "question", "width", "height")}
    row |= {name: getattr(sample, name) for name in ("category", "concept", "split", "source")}
    is_bytes = isinstance(sample.image, bytes)
    row["image"] = {"bytes": sample.image if is_bytes else None, "path": None if is_bytes else str(sample.image)}
    row["objects"] = [
        {"box": list(o.box), "points": [list(p) for p in o.points], "rle": None if o.rle is None else check_rle(o.rle)}
        for o in sample.objects
    ]
    row["ignore"] = None if sample.ignore is None else check_rle(sample.ignore)
    row["current_mask"] = None if sample.current_mask is None else check_rle(sample.current_mask)
    try:
        row["turns"], row["meta"] = json.dumps(sample.turns), json.dumps(sample.meta)
    except (TypeError, ValueError) as error:
        raise UserError(f"sample {sample.id!r}: turns and meta must be what JSON can hold: {error}") from error
    return row


def _from_row(row: dict[str, Any], where: str) -> Sample:
    """Make the sample of a row as pyarrow gives it; errors begin with `where`."""
    try:
        turns, row["meta"] = json.loads(row["turns"]), json.loads(row["meta"])
    except (TypeError, ValueError, RecursionError):
        turns = None
    if not isinstance(turns, list) or not isinstance(row["meta"], dict):
        raise UserError(f"{where}: turns must be a JSON list, meta a JSON object")
    row["turns"] = tuple(turns)
    row["objects"] = tuple(_to_object(o, where) for o in row["objects"] or ())
    image = row["image"] or {}
    row["image"] = image.get("bytes") or image.get("path")
    empty = [name for name, value in row.items() if value is None and name not in ("ignore", "current_mask")]
    if empty:
        raise UserError(f"{where}: {empty[0]} has no value")
    return Sample(**row)


def _to_object(value: dict[str, Any] | None, where: str) -> Object:
    value = value or {}
    box, points = value.get("box"), [tuple(point or ()) for point in value.get("points") or ()]
    if box is None or len(box) != 4 or any(len(point) != 2 for point in points) or None in [*box, *sum(points, ())]:
        raise UserError(f"{where}: an object needs a box of four numbers, and points of two")
    x0, y0, x1, y1 = box
    return Object((x0, y0, x1, y1), tuple((x, y) for x, y in points), value.get("rle"))


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    rows = iter(rows)
    while batch := list(islice(rows, ROW_GROUP)):
        yield batch
