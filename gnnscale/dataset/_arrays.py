"""Named arrays out of npz files, with damage told in one message."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gnnscale.core.errors import DataError


def arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, all of them if ``names`` is None; nothing pickled is read.

    Raises: DataError if the file is damaged or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files if names is None else names
            missing = [n for n in names if n not in file]
            if missing:
                raise DataError(
                    f"{path}: lacks the array '{missing[0]}'; it has {', '.join(file.files)}"
                )
            return {n: file[n] for n in names}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, NotImplementedError, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise DataError(f"{path}: damaged or not an npz file ({error})") from error


def matrix(path: Path, a: dict[str, np.ndarray], prefix: str) -> sp.csr_matrix:
    """The compressed rows kept as ``<prefix>data, indices, indptr, shape``, checked."""
    try:
        parts = tuple(a[f"{prefix}{n}"] for n in ("data", "indices", "indptr"))
        made = sp.csr_matrix(parts, shape=tuple(a[f"{prefix}shape"]))
        made.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: '{prefix}*' are no compressed rows ({error})") from error
    return made


def published(path: Path, name: str, found: object, wanted: object, what: str) -> None:
    """Raise DataError unless a file holds as much as the published one."""
    if found != wanted:
        raise DataError(f"{path}: not the published {name}: {what} are {found}, expected {wanted}")
