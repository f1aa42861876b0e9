"""Rows of CSV and JSONL files, with the line of each, for errors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from nrm_keras.errors import UserError


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: a readable file of texts is needed. Received: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}:{line}: texts are UTF-8. Received: the byte 0x{content[error.start]:02x}, which is none there. Convert"
            f" the file, such as with iconv -f WINDOWS-1252 -t UTF-8 {path.name}."
        ) from error


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
    """Line and fields of each row of a CSV file with a header."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(_decoded(path), newline=""), strict=True)
    line = 1
    try:
        _require_columns(reader.fieldnames or (), columns, path, line)
        line = reader.line_num + 1
        for row in reader:
            _require_columns([name for name, value in row.items() if value is not None], columns, path, line)
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f'{path}:{line}: rows are comma-separated, quoted by ". Received: {error}. Correct it.'
        ) from error


def json_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
    """Line and fields of each row of a file of JSON lines."""
    for line, content in enumerate(_decoded(path).split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise UserError(
                f"{path}:{line}: each line is one JSON object. Received: {content[:60].strip()!r} ({error}). Correct it."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path}:{line}: each line is one JSON object. Received: a {type(row).__name__}. Correct it."
            )
        _require_columns(row, columns, path, line)
        yield line, row


def _require_columns(present: Iterable[str], columns: tuple[str, ...], path: Path, line: int) -> None:
    if missing := [name for name in columns if name not in present]:
        raise UserError(
            f"{path}:{line}: every row has {' and '.join(columns)}. Received: {', '.join(map(str, present)) or 'none'};"
            f" no {', '.join(missing)}. Name them with data.text and data.label, or add them."
        )
