"""Columns out of the CSV files of public datasets, with defects told by file, column and row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnnscale.core.errors import DataError


def table(path: Path, columns: Sequence[str]) -> Any:
    """A data frame of the columns named, as the file has them.

    Raises: DataError if the file is no CSV or lacks one of them.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError, EOFError, UnicodeError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: damaged or no table ({said})") from error
    for name in columns:
        if name not in frame.columns:
            raise DataError(f"{path}: lacks the column '{name}'; it has {', '.join(frame.columns)}")
    return frame[list(columns)]


def integers(path: Path, frame: Any, column: str, below: int | None = None) -> np.ndarray:
    """A column of whole numbers from 0 to ``below`` - 1, [rows] int64.

    Raises: DataError with the first row that is none (the header is row 1).
    """
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(np.float64)
    wrong = ~(values >= 0) | (values != np.floor(values))
    if below is not None:
        wrong |= values >= below
    if wrong.any():
        at = int(wrong.argmax())
        valid = "0 or more" if below is None else f"0 to {below - 1}"
        raise DataError(
            f"{path}: column {column}, row {at + 2}: '{frame[column].iloc[at]}' is no node id; "
            f"valid: {valid}"
        )
    return values.astype(np.int64)
