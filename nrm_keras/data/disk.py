"""Arrays that are larger than memory."""

from __future__ import annotations

import mmap
import tempfile
from typing import Self

import numpy as np

from nrm_keras.errors import UserError


class DiskRows:
    """Rows written to a temporary file one after another, and then read as an array without being in memory.

    The file has no name from the start, so nothing is left behind, however the process ends. It is where `TMPDIR` says.

    Args:
        shape: of a row.
        dtype: of its values.

    Example:
        >>> with DiskRows((2,), "uint8") as rows:
        ...     rows.append(np.zeros((3, 2), "uint8"))
        ...     array = rows.array()
        >>> array.shape
        (3, 2)
    """

    def __init__(self, shape: tuple[int, ...], dtype: str):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by array or __exit__
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def append(self, rows: np.ndarray) -> None:
        """Writes rows, an array `(count, *shape)`.

        Raises:
            UserError: the disk is full.
        """
        if rows.shape[1:] != self.shape:
            raise ValueError(f"Rows have the shape {self.shape}. Received: {rows.shape[1:]}.")
        try:
            self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: prepared examples are written there. Received: {error.strerror} after"
                f" {len(self)} examples of {self.shape}. Free some space, or set TMPDIR to a folder that has it."
            ) from error
        self._count += len(rows)

    def array(self) -> np.ndarray:
        """The rows `(count, *shape)`, read-only; what one takes of them is read from the file. No rows can follow."""
        try:
            self._file.flush()
        except OSError as error:
            raise UserError(f"{tempfile.gettempdir()}: {error.strerror}. Free some space, or set TMPDIR.") from error
        with self._file:  # the array keeps it on disk
            if not self._count:
                return np.empty((0, *self.shape), self.dtype)
            return np.memmap(self._file, self.dtype, "r", shape=(self._count, *self.shape))


def release(array: np.ndarray) -> None:
    """Lets go of what of a `numpy.memmap` is in memory: it is read again when it is needed. Other arrays stay as they are.

    The system would let go of it too, but only when memory is short, and counts it as the process's until then.
    """
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)
