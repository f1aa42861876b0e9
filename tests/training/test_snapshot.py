import ml_dtypes
import numpy as np
import pytest

from nrm_keras.errors import UserError
from nrm_keras.training import snapshot

ARRAYS = {
    "a/0": np.linspace(0, 1, 7, dtype="float32"),
    "a/1": np.array(3, "int64"),
    "b/0": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
    "b/1": np.zeros((0, 4), "float16"),
    "b/2": np.array([True, False]),
}


def say_nothing(text):
    raise AssertionError(text)


def test_round_trip_keeps_bits_dtypes_and_shapes(tmp_path):
    assert snapshot.read(tmp_path, say_nothing) is None
    snapshot.write(tmp_path / "new", {"epoch": np.int64(3), "loss": np.float32("inf")}, ARRAYS)
    meta, arrays = snapshot.read(tmp_path / "new", say_nothing)
    assert meta == {"epoch": 3, "loss": float("inf")}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def damage_truncate(content):
    return content[: len(content) // 2]


def damage_bit(content):
    # a bit of the first array's values: the zip structure stays whole, only the checksum can tell
    position = content.index(ARRAYS["a/0"].tobytes()) + 5
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", [damage_truncate, damage_bit, lambda content: b"", lambda content: b"rubbish" * 99])
def test_a_damaged_file_falls_back_and_says_so(tmp_path, damage):
    snapshot.write(tmp_path, {"step": 1}, ARRAYS)
    snapshot.write(tmp_path, {"step": 2}, ARRAYS)
    current = tmp_path / snapshot.CURRENT
    current.write_bytes(damage(current.read_bytes()))
    said = []
    assert snapshot.read(tmp_path, said.append)[0] == {"step": 1}
    assert len(said) == 1 and "state.npz" in said[0] and "state.previous.npz" in said[0]
    previous = tmp_path / snapshot.PREVIOUS
    previous.write_bytes(damage(previous.read_bytes()))
    with pytest.raises(UserError, match="Every checkpoint is damaged"):
        snapshot.read(tmp_path, said.append)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("call", [0, 1])
def test_a_crash_in_the_middle_of_writing_leaves_a_complete_file(tmp_path, monkeypatch, moment, call):
    snapshot.write(tmp_path, {"step": 1}, ARRAYS)
    snapshot.write(tmp_path, {"step": 2}, ARRAYS)
    real, calls = getattr(snapshot.os, moment), []

    def crash(*arguments):
        calls.append(arguments)
        if len(calls) > call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(snapshot.os, moment, crash)
    with pytest.raises(KeyboardInterrupt):
        snapshot.write(tmp_path, {"step": 3}, ARRAYS)
    monkeypatch.undo()
    meta, arrays = snapshot.read(tmp_path, say_nothing)
    assert meta["step"] in (2, 3)
    assert arrays["a/0"].tobytes() == ARRAYS["a/0"].tobytes()
