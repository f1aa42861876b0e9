"""Reading records for showing, against all of them as `json` reads them."""

import itertools
import json
import math

import pytest

from nrm_keras.report import alerts, statistics


def write(tmp_path, lines, name="statistics.jsonl"):
    text = [line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines]
    content = b"".join(line if isinstance(line, bytes) else f"{line}\n".encode() for line in text)
    (tmp_path / name).write_bytes(content)
    return tmp_path


def record(step, layer="dense", **more):
    return {"step": step, "epoch": 0, "kind": "activation", "layer": layer, **more}


def test_a_short_file_is_read_whole_without_its_channels(tmp_path):
    records = [record(step, layer, mean=step / 7) for step in (1, 21, 41) for layer in ("a", 'b", "channel_mean": [')]
    lines = [{**one, "channel_mean": [1.0, 2.0], "channel_variance": [0.5, None]} for one in records]
    notices = []
    read = statistics.read(write(tmp_path, lines), notices)
    assert read.of("activation") == records
    assert read.counts == {"activation": (3, 3)} and notices == []


@pytest.mark.parametrize("layers", [1, 60])
def test_long_files_keep_evenly_spaced_steps_the_last_one_and_those_of_findings(tmp_path, monkeypatch, layers):
    monkeypatch.setattr(statistics, "RECORDS", 50 * layers)
    always = {12, 4443}
    steps = range(1, 5002, 2)
    lines = [record(step, f"layer_{index}", mean=1.0) for step in steps for index in range(layers)]
    read = statistics.read(write(tmp_path, lines), [], always)
    by_layer = read.by_layer("activation", "mean")
    assert list(by_layer) == [f"layer_{index}" for index in range(layers)]
    shown = by_layer["layer_0"].steps
    assert all(series.steps == shown for series in by_layer.values())
    assert read.counts == {"activation": (2501, len(shown))}
    assert shown[0] == 1 and shown[-1] == 5001 and 4443 in shown and 12 not in shown
    assert statistics.STEPS <= len(shown) <= 130
    grid = [step for step in shown if step != 4443]
    gaps = {b - a for a, b in itertools.pairwise(grid[:-1])}
    assert len(gaps) == 1


def test_numbers_that_are_none_are_nan_and_layers_without_any_are_left_out(tmp_path):
    lines = [
        record(1, "a", dead=None, mean=1),
        record(2, "a", mean="much"),
        '{"step": 3, "epoch": 0, "kind": "activation", "layer": "a", "mean": NaN}',
        '{"step": 4, "epoch": 0, "kind": "activation", "layer": "a", "mean": -Infinity}',
        record(5, "a", mean=True),
        record(6, ["a"], mean=1.0),
    ]
    notices = []
    read = statistics.read(write(tmp_path, lines), notices)
    assert read.by_layer("activation", "dead") == {}
    series = read.by_layer("activation", "mean")["a"]
    assert series.steps == [1, 2, 3, 4, 5] and series.finite == [1.0]
    assert [math.isnan(value) for value in series.values] == [False, True, True, False, True]
    assert notices == []


def test_what_is_damaged_is_counted_and_the_rest_is_shown(tmp_path):
    lines = [
        record(1, mean=1.0),
        '{"step": 2, "epoch": 0, "kind": "activation", "layer": "dense", "me',
        b"\x00\xff\xfe binary\n",
        "7",
        "[1, 2]",
        '{"step": "three", "kind": "activation"}',
        "[" * 100_000,
        '{"step": 4, "epoch": 0, "kind": "activation", "layer": "' + "x" * 2_000_000 + '"}',
        {"kind": "activation", "step": 5, "layer": "dense", "mean": 2.0},
        {"step": 6, "epoch": 0, "kind": "of tomorrow", "layer": "dense"},
    ]
    notices = []
    read = statistics.read(write(tmp_path, lines), notices)
    series = read.by_layer("activation", "mean")["dense"]
    assert (series.steps, series.values) == ([1, 5], [1.0, 2.0])
    (notice,) = notices
    assert "statistics.jsonl" in notice and "7 damaged" in notice


def test_a_line_that_is_still_being_written_is_no_damage(tmp_path):
    lines = [record(1, mean=1.0), b'{"step": 2, "epoch": 0, "kind": "activ']
    notices = []
    assert statistics.read(write(tmp_path, lines), notices).by_layer("activation", "mean")["dense"].steps == [1]
    assert notices == []


def test_findings_come_gravest_first_and_damaged_ones_are_counted(tmp_path):
    lines = [
        {"rule": "overfitting", "step": 3},
        {"rule": "dead_units", "step": 9, "layer": "relu", "value": None, "threshold": 0.5, "others": ["b"]},
        {"rule": "of tomorrow", "step": 1},
        {"rule": "dead_units", "step": 4, "layer": "relu_0"},
        {"rule": "dead_units", "step": "soon"},
        "nothing",
    ]
    notices = []
    found = alerts.read(write(tmp_path, lines, "alerts.jsonl"), notices)
    assert [(one.rule, one.step) for one in found] == [
        ("dead_units", 4),
        ("dead_units", 9),
        ("overfitting", 3),
        ("of tomorrow", 1),
    ]
    assert found[0].title == "Dead units: relu_0"
    assert len(notices) == 1 and "2 damaged" in notices[0]


def test_a_run_without_either_has_no_notice(tmp_path):
    notices = []
    assert not statistics.read(tmp_path, notices) and alerts.read(tmp_path, notices) == [] and notices == []
