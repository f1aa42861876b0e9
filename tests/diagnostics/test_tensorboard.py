"""What TensorBoard itself reads of a watched training."""

import json

import keras
import numpy as np
import pytest

from nrm_keras.callbacks import InternalStatistics

accumulator = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
tensor_util = pytest.importorskip("tensorboard.util.tensor_util")


def test_tensorboard_reads_the_numbers_of_the_records_and_the_histograms(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    path = tmp_path / "statistics.jsonl"
    watch = InternalStatistics(every=2, path=path, tensorboard=tmp_path / "events", say=lambda line: None)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=[watch])

    read = accumulator.EventAccumulator(str(tmp_path / "events"), tensor_size_guidance={"scalars": 0, "histograms": 0})
    read.Reload()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = [(r["step"], r["variance"]) for r in records if r["kind"] == "activation" and r["layer"] == "hidden"]
    assert len(wanted) == 8
    values = tensor_util.make_ndarray
    found = [(e.step, float(values(e.tensor_proto))) for e in read.Tensors("activation/hidden/variance")]
    assert [step for step, _ in found] == [step for step, _ in wanted]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in wanted], rtol=1e-5)
    buckets = values(read.Tensors("activation/hidden")[-1].tensor_proto)  # rows of (left edge, right edge, count)
    assert buckets[:, 2].sum() == 64 and buckets[0, 0] == 0 and np.all(np.diff(buckets[:, 1]) > 0)
    assert {f"weight/{model.get_layer('hidden').bias.path}", "activation/hidden"} <= set(read.Tags()["tensors"])
