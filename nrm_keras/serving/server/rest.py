"""The bodies of TensorFlow Serving's REST predict API: JSON to arrays, arrays to JSON.

Row format: `{"instances": [row, ...]}` is answered by `{"predictions": [row, ...]}`. A row is the value of the only input, or an object
with a value for each input. Columnar format: `{"inputs": ...}` is answered by `{"outputs": ...}`, a whole tensor or an object with one
for each name. A string that is not text is written `{"b64": "..."}`.

Stricter than TensorFlow Serving: numbers that are not finite are refused, and so are names that it would ignore.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain

import numpy as np
import orjson

from nrm_keras.serving.server.refusal import Refusal
from nrm_keras.serving.server.served_model import Signature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
FORMATS = ("instances", "inputs")
KEYS = ("signature_name", *FORMATS)
PIECE = (
    2**14
)  # values of an answer that are written at a time, in about a millisecond: orjson lets nobody else run meanwhile


@dataclass(frozen=True)
class Request:
    """A predict request that the model can answer."""

    signature: Signature
    arrays: Mapping[str, np.ndarray]
    row_format: bool


def parse(body: bytes | bytearray, signatures: Mapping[str, Signature], max_rows: int) -> Request:
    """The request that a body holds.

    Raises:
        Refusal: 400 where it is none that this model can answer.
    """
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"The body is JSON, without NaN and Infinity. Received: {bytes(body[:40])!r}: {error}.") from None
    if not isinstance(read, dict) or len(read.keys() & FORMATS) != 1 or not read.keys() <= set(KEYS):
        received = f"an object with {sorted(read)}" if isinstance(read, dict) else f"{_kind(read)}"
        raise bad(
            f"The body is an object with 'instances' or 'inputs', and perhaps 'signature_name'. Received: {received:.200}."
        )
    name = read.get("signature_name") or DEFAULT_SIGNATURE
    signature = signatures.get(name) if isinstance(name, str) else None
    if signature is None:
        raise bad(f"'signature_name' is one of {sorted(signatures)}. Received: {name!r:.80}.")
    row_format = "instances" in read
    if row_format:
        _check_rows(read["instances"], max_rows)
    values = _columns_of_rows(read["instances"], signature) if row_format else _columns(read["inputs"], signature)
    arrays = {key: array(key, values[key], spec, max_rows) for key, spec in signature.inputs.items()}
    if signature.by_row and len(set(counts := [len(value) for value in arrays.values()])) > 1:
        raise bad(f"All inputs have as many rows. Received: {dict(zip(arrays, counts, strict=True))}.")
    if row_format and not signature.by_row:
        raise bad(
            f"Signature {name!r} answers the request as a whole, not row by row. Received: 'instances'. Send 'inputs'."
        )
    return Request(signature, arrays, row_format)


def render(request: Request, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The body that answers a request.

    Raises:
        Refusal: 422 where the model's answer is not finite, which JSON can't say.
    """
    for key, value in outputs.items():
        if value.dtype.kind not in "OSUb" and not np.isfinite(value).all():
            rows = sorted(set(np.argwhere(~np.isfinite(value))[:, 0].tolist())) if value.ndim else []
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"An answer is finite numbers. The model's {key!r} is not, for this input{f' at rows {rows[:10]}' if rows else ''}. "
                "Send values like those it was trained on.",
            )
    columns = {key: _writable(key, value) for key, value in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not request.row_format:
        answer = {"outputs": columns if only is None else only}
    elif only is not None:
        answer = {"predictions": only}
    else:
        answer = {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    return b"".join(_pieces(answer)) if is_large(outputs) else _dumps(answer)


def is_large(outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether others should be answered while this is written."""
    return sum(value.size for value in outputs.values()) > PIECE


def _pieces(value) -> Iterator[bytes]:
    """JSON in pieces, each of which is written quickly."""
    opening, closing = b"[", b"]"
    if isinstance(value, np.ndarray) and value.size > PIECE:
        rows = PIECE * len(value) // value.size
        blocks = (value[start : start + rows] for start in range(0, len(value), max(rows, 1)))
        inside = ([_dumps(block)[1:-1]] for block in blocks) if rows else map(_pieces, value)
    elif isinstance(value, list) and value:
        inside = map(_pieces, value)
    elif isinstance(value, dict) and value:
        opening, closing = b"{", b"}"
        inside = (chain([_dumps(key), b":"], _pieces(part)) for key, part in value.items())
    else:
        yield _dumps(value)
        return
    for pieces in inside:
        yield opening
        yield from pieces
        opening = b","
    yield closing


def _dumps(value) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def bad(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, f"{message} GET .../metadata tells the model's inputs.")


def _columns_of_rows(instances, signature: Signature) -> dict:
    if not isinstance(instances, list) or not instances:
        raise bad(f"'instances' is a list of at least one row. Received: {_kind(instances)}.")
    names = signature.inputs.keys()
    named = [_is_named(instance, names) for instance in instances]
    if not any(named) and len(names) == 1:
        return {next(iter(names)): instances}
    for number, instance in enumerate(instances):
        if not named[number] or instance.keys() != names:
            received = f"the keys {sorted(instance)}" if named[number] else _kind(instance)
            raise bad(
                f"Each row is an object with the keys {sorted(names)}. Received at row {number}: {received:.200}."
            )
    return {name: [instance[name] for instance in instances] for name in names}


def _columns(inputs, signature: Signature) -> dict:
    names = signature.inputs.keys()
    if not _is_named(inputs, names):
        if len(names) > 1:
            raise bad(f"'inputs' is an object with the keys {sorted(names)}. Received: {_kind(inputs)}.")
        return {next(iter(names)): inputs}
    if inputs.keys() != names:
        raise bad(f"'inputs' is an object with the keys {sorted(names)}. Received: the keys {sorted(inputs)}."[:400])
    return inputs


def _is_named(value, names) -> bool:
    """Whether it is an object of inputs by name, not a binary string."""
    return isinstance(value, dict) and (value.keys() != {"b64"} or "b64" in names)


def array(name: str, value, spec: TensorSpec, max_rows: int) -> np.ndarray:
    """A nested list as the array that an input needs."""
    expected = f"Input {name!r} is {spec}."
    if spec.by_row:
        _check_rows(value, max_rows)
    shape, leaves, kinds = _flattened(value, expected, 32 if spec.shape is None else len(spec.shape))
    fits = spec.shape is None or (
        len(shape) == len(spec.shape)
        and all(rule in (None, size) for rule, size in zip(spec.shape, shape, strict=True))
    )
    if not fits or 0 in shape:
        raise bad(f"{expected} Received: shape {tuple(shape)}.")
    return _converted(leaves, kinds, spec.dtype, expected).reshape(shape)


def _flattened(value, expected: str, rank: int) -> tuple[list[int], list, set[type]]:
    """The shape, the leaves in one list, and their types. Level by level, as a loop: a deep nest must not exhaust the stack."""
    shape, level = [], [value]
    while (kinds := set(map(type, level))) == {list}:
        sizes = set(map(len, level))
        if len(sizes) > 1 or len(shape) == rank:
            received = "lists of different lengths" if len(sizes) > 1 else f"lists nested more than {rank} deep"
            raise bad(f"{expected} Received: {received}.")
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
    if list in kinds:
        raise bad(f"{expected} Received: lists beside values.")
    return shape, level, kinds


def _check_rows(rows, max_rows: int) -> None:
    """Before anything is made of them."""
    if isinstance(rows, list) and len(rows) > max_rows:
        raise bad(
            f"A request has at most {max_rows} rows. Received: {len(rows)}. Send several, or start the server with --max-rows."
        )


_KINDS = {"f": {int, float}, "V": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
_SAID = {
    "f": "numbers",
    "V": "numbers",
    "i": "whole numbers",
    "u": "whole numbers",
    "b": "true or false",
    "O": "strings",
}


def _converted(leaves: list, kinds: set[type], dtype: np.dtype, expected: str) -> np.ndarray:
    if dtype == object:
        return np.array([_string(leaf, expected) for leaf in leaves], object)
    if not kinds <= _KINDS[dtype.kind]:
        said = " and ".join(sorted(_kind(kind()) for kind in kinds))
        raise bad(f"{expected} Its values are {_SAID[dtype.kind]}. Received: {said}.")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = min(leaves), max(leaves)
        if low < limits.min or high > limits.max:
            raise bad(
                f"{expected} Its values are from {limits.min} to {limits.max}. Received: {low if low < limits.min else high}."
            )
    with np.errstate(over="ignore"):
        converted = np.array(leaves, np.float64 if dtype.kind in "fV" else dtype).astype(dtype)
    if dtype.kind in "fV" and not np.isfinite(converted.astype(np.float64)).all():
        raise bad(f"{expected} Its values are finite. Received: a number that is too large for it.")
    return converted


def _string(leaf, expected: str) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, dict) and leaf.keys() == {"b64"} and isinstance(leaf["b64"], str):
        try:
            return base64.b64decode(leaf["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad(
                f'{expected} A binary one is {{"b64": BASE64}}. Received: {leaf["b64"]!r:.60}: {error}.'
            ) from None
    raise bad(f'{expected} Its values are strings or {{"b64": BASE64}}. Received: {_kind(leaf)}.')


def _writable(name: str, value: np.ndarray):
    """What orjson writes as numbers, or lists of text; binary where the name or the bytes say so."""
    if value.dtype != object:
        value = value if value.dtype.kind in "iufb" else value.astype(np.float32)
        return np.ascontiguousarray(value) if value.ndim else value[()]
    texts = [_text(item, name.endswith("_bytes")) for item in value.ravel()]
    nested = np.empty(len(texts), object)
    nested[:] = texts
    return nested.reshape(value.shape).tolist()


def _text(item: bytes, binary: bool):
    if not binary:
        try:
            return item.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(item).decode()}


def _kind(value) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number with a decimal point" if isinstance(value, float) else "a number")
