"""What a worker tells of a cell."""

import json
import math

from nrm_keras.studies.outcome import Outcome


def outcome(**changes) -> Outcome:
    fields = {"run": "cells/a/run/x", "probes": {}, "seconds": 1.5, "processor_seconds": 1.0, "threads": 1}
    return Outcome(**{"cell": "a", "status": "finished", **fields, "process": 7, "executor": "local"} | changes)


def test_a_result_is_read_as_it_was_written(tmp_path):
    written = outcome(probes={"spectrum": {"largest": 2.5, "smallest": math.inf}})
    written.write(tmp_path)
    json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda name: 1 / 0)  # JSON has no infinity
    read = Outcome.read(tmp_path)
    assert read.probes["spectrum"]["largest"] == 2.5 and math.isnan(read.probes["spectrum"]["smallest"])
    assert read == outcome(probes=read.probes)


def test_what_is_no_result_is_none(tmp_path):
    assert Outcome.read(tmp_path) is None
    for text in ("", "[]", "{}", '{"probes": []}', '{"probes": {}, "cell": "a", "colour": 1}'):
        (tmp_path / "result.json").write_text(text)
        assert Outcome.read(tmp_path) is None, text
