"""A user's tables, CSV or Parquet, whose defects are told by file, column and row."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnnscale.core.errors import DataError, closest

FORMATS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
WORDS = ("id", "src", "dst", "split")
"""Columns that stay text, as do those of labels; the others are numbers where they can be."""
MOST = 5
"""Defects of one column that are told at once."""


def find(folder: Path, stem: str) -> Path | None:
    """The one file of a folder that is the table ``stem``. Raises DataError if there are two."""
    found = [folder / f"{stem}{form}" for form in FORMATS if (folder / f"{stem}{form}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder}: both {names} are there; keep one of them")
    return found[0] if found else None


class Table:
    """The columns of one file, text unless Parquet says otherwise.

    Rows are counted as an editor shows them: the header of a CSV file is row 1; Parquet has no
    header, its first row is row 1.

    Raises: DataError if the file can't be read, is empty, or has ragged or equal-named columns.
    """

    def __init__(self, path: Path):
        self.path = path
        self.first = 1 if path.suffix == ".parquet" else 2
        self.frame = self._parquet() if self.first == 1 else self._csv()
        names = [str(name).strip() for name in self.frame.columns]
        twice = {n for n in names if names.count(n) > 1}
        if twice or "" in names:
            what = f"the column '{min(twice)}' occurs twice" if twice else "a column has no name"
            raise DataError(f"{path}: row 1: {what}; give every column a name of its own")
        self.frame.columns = names

    def _csv(self) -> Any:
        import pandas as pd

        text, comma = self._text(), "\t" if ".tsv" in self.path.name else ","
        header, counts = _fields(text, comma)
        if len(counts) < 2:
            raise DataError(f"{self.path}: empty; a header and at least one row expected")
        ragged = [row for row, count in enumerate(counts, 1) if count != counts[0]]
        if ragged:
            row = ragged[0]
            raise DataError(
                f"{self.path}: row {_few(ragged)}: {counts[row - 1]} fields where the header has "
                f"{counts[0]}"
            )
        words = [k for k, name in enumerate(header) if name.strip() in WORDS or "label" in name]
        try:
            return pd.read_csv(
                io.StringIO(text), sep=comma, header=None, skiprows=1, names=range(len(header)),
                dtype=dict.fromkeys(words, str), keep_default_na=False, skip_blank_lines=False,
                index_col=False, low_memory=False,
            ).set_axis(header, axis=1)  # fmt: skip
        except (ValueError, OverflowError) as error:
            said = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
            raise DataError(f"{self.path}: can't be read as a table: {said}") from error

    def _text(self) -> str:
        """What a CSV file says, without blank lines at its end."""
        try:
            raw = self.path.read_bytes()
            raw = gzip.decompress(raw) if self.path.suffix == ".gz" else raw
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: can't be read: {error}") from error
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            row = raw.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.path}: row {row} is not UTF-8 (byte {error.start}); save the table as UTF-8"
            ) from error
        if "\0" in text:
            row = text.count("\n", 0, text.index("\0")) + 1
            raise DataError(f"{self.path}: row {row} holds a zero byte; a text table is expected")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return re.sub(r"(?:\n[ \t,]*)+\Z", "", text) + "\n"

    def _parquet(self) -> Any:
        try:
            import pandas as pd

            frame = pd.read_parquet(self.path)
        except ImportError:
            raise DataError(
                f"{self.path}: Parquet needs pyarrow; type pip install pyarrow, or save it as CSV"
            ) from None
        except (ValueError, OSError, KeyError, TypeError, NotImplementedError) as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(f"{self.path}: can't be read as Parquet: {said}") from error
        if not len(frame):
            raise DataError(f"{self.path}: empty; at least one row expected")
        return frame.reset_index(drop=True)

    def need(self, *names: str) -> None:
        """Raise DataError unless the columns are there."""
        for name in names:
            if name not in self.frame.columns:
                near = closest(name, self.frame.columns)
                raise DataError(
                    f"{self.path}: column '{name}' is missing{near}; it has "
                    f"{', '.join(map(str, self.frame.columns[:20]))}"
                )

    def fail(self, column: str, wrong: np.ndarray, what: str) -> None:
        """Raise DataError with the first rows where ``wrong`` [rows] is set, if any is."""
        at = np.flatnonzero(wrong)
        if not len(at):
            return
        values = self.frame[column].iloc[at[:MOST]]
        told = [f"row {r + self.first}: '{_short(v)}'" for r, v in zip(at, values, strict=False)]
        more = f" and {len(at) - MOST} more rows" if len(at) > MOST else ""
        raise DataError(f"{self.path}: column {column}, {'; '.join(told)}{more}: {what}")

    def text(self, column: str) -> np.ndarray:
        """A column as text without surrounding blanks, "" where there is nothing. [rows] str."""
        values = self.frame[column]
        if values.dtype.kind in "iub":
            return values.to_numpy().astype(str)
        if values.dtype.kind == "f":  # whole numbers that Parquet keeps beside gaps
            plain = values.dropna()
            if (plain == np.floor(plain)).all():
                values = values.astype("Int64")
        return values.astype("string").fillna("").str.strip().to_numpy(str)

    def ids(self, column: str) -> np.ndarray:
        """A column of node ids. Raises DataError where one is missing."""
        found = self.text(column)
        self.fail(column, found == "", "a node id is expected")
        return found

    def numbers(self, column: str, least: float | None = None, advice: str = "") -> np.ndarray:
        """A column of finite numbers, [rows] float64, at least ``least``."""
        import pandas as pd

        values = self.frame[column]
        if values.dtype.kind not in "iufb":
            values = pd.to_numeric(pd.Series(self.text(column)), errors="coerce")
        found = values.to_numpy(np.float64, na_value=np.nan)
        what = (
            "a number is expected" if least is None else f"a number of {least:g} or more expected"
        )
        wrong = ~np.isfinite(found)
        self.fail(column, wrong if least is None else wrong | (found < least), what + advice)
        return found


def index_of(table: Table, column: str, ids: np.ndarray, known: Any, where: str) -> np.ndarray:
    """Positions of ``ids`` in the index ``known``. Raises DataError for one that is not there."""
    at = known.get_indexer(ids)
    table.fail(column, at < 0, f"{where} has no such node")
    return at


def _fields(text: str, comma: str) -> tuple[list[str], list[int]]:
    """(header, number of fields per row) of a table."""
    if '"' in text:
        try:
            rows = list(csv.reader(io.StringIO(text), delimiter=comma, strict=False))
        except csv.Error as error:
            raise DataError(f"a row can't be read as CSV: {error}") from error
        return rows[0], [len(row) for row in rows]
    lines = text.split("\n")[:-1]
    return lines[0].split(comma), [line.count(comma) + 1 for line in lines]


def _short(value: object) -> str:
    return str(value)[:40]


def _few(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:MOST])) + (" and more" if len(rows) > MOST else "")
