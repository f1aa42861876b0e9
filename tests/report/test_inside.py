"""The page's sections, from what a real training wrote."""

import json

import keras
import numpy as np
import pytest

from nrm_keras.callbacks import InternalStatistics
from nrm_keras.layers import AdaptiveNormalization
from nrm_keras.report import alerts, findings, inside, page, plots, statistics
from tests.report.markup import Page

EVIL = "<img src=x onerror=hacked()>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Statistics of a model with adaptive layers, and a dead layer."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("watched")
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, use_bias=False, name="first")(inputs)
    x = keras.layers.Activation("tanh", name="tanh")(AdaptiveNormalization(epsilon=1e-6, name="norm_1")(x))
    dead = keras.layers.Dense(8, bias_initializer=keras.initializers.Constant(-50.0), name="dense_2")(x)
    x = keras.layers.Concatenate()([x, keras.layers.ReLU(name="relu")(dead)])
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-3), loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)
    path = folder / "statistics.jsonl"
    watch = InternalStatistics(every=1, path=path, drift_every=4, deep_every=8, say=lambda line: None)
    model.fit(x, y, batch_size=16, epochs=6, verbose=0, shuffle=False, callbacks=[watch])
    (folder / "recipe.yaml").write_text("title: Watched\n")
    return folder


def by_name(folder):
    return {section.name: section for section in inside.sections(statistics.read(folder, []))}


def test_every_section_is_there_and_its_charts_hold_the_records(folder):
    sections = by_name(folder)
    assert list(sections) == [
        *("drift", "bands", "units", "gradients", "gates", "gap", "rates", "curvature", "landscape"),
    ]
    records = [json.loads(line) for line in (folder / "statistics.jsonl").read_text().splitlines()]
    last = {r["layer"]: r for r in records if r["kind"] == "activation"}
    bands = sections["bands"].charts[0].choices
    assert list(bands) == list(last)
    low, high, middle = bands["tanh"]["data"]
    assert (low["y"][-1], middle["y"][-1], high["y"][-1]) == pytest.approx(
        [last["tanh"][name] for name in ("p15", "p50", "p85")], rel=1e-3
    )
    gradients = sections["gradients"].charts[0].choices["gradient of the activations"]["data"][0]
    row = list(gradients["y"]).index("logits")
    assert 10 ** gradients["z"][row][-1] == pytest.approx(last["logits"]["gradient_rms"], rel=2e-3)


def test_the_drift_map_has_layers_from_input_to_output(folder):
    chart = by_name(folder)["drift"].charts[0]
    assert list(chart.choices) == ["the start", "the last epoch"]
    names = list(chart.figure["data"][0]["y"])
    assert names[0] == "first" and names[-1] == "logits" and names.index("norm_1") < names.index("relu")
    assert chart.figure["layout"]["yaxis"]["autorange"] == "reversed"
    assert all(row[0] == 0 for row in chart.figure["data"][0]["z"])  # the start against itself


def test_the_gates_are_drawn_beside_the_prior_of_the_batch_size(folder):
    figure = by_name(folder)["gates"].charts[0].figure
    gate, prior = figure["data"]
    assert (gate["name"], prior["name"]) == ("norm_1", "prior of the batch size")
    assert prior["y"][-1] == pytest.approx(15 / (15 + 7), abs=1e-3)  # 16 examples and balance 8
    assert gate["y"][-1] != prior["y"][-1]


def test_a_dead_layer_is_shown_as_dead_and_found_with_evidence(folder):
    units = by_name(folder)["units"].charts[0]
    assert units.sentence.startswith("relu has most: 100 %")
    read = statistics.read(folder, [])
    cards = findings.cards(page.read_run(folder).findings, read)
    (card,) = [card for card in cards if card.finding.rule == "dead_units"]
    assert card.finding.layer == "relu" and set(card.chart.figure["data"][0]["y"]) == {1.0}
    lines = card.chart.figure["layout"]["shapes"]
    assert {line["x0"] for line in lines} >= {card.finding.step} and {line["y0"] for line in lines} >= {0.5}


def test_the_page_shows_them_and_runs_nothing_of_a_layers_name(folder, tmp_path):
    for file in folder.iterdir():
        text = file.read_text("utf-8").replace('"first"', json.dumps(EVIL))  # TensorFlow takes no such name; others may
        (tmp_path / file.name).write_text(text, "utf-8")
    shown = Page(page.write(tmp_path).read_text("utf-8"))
    headings = shown.texts("h2")
    assert headings[0] == "Findings" and "Gates" in headings and "Cost of watching" in headings
    assert not shown.all("img")
    assert EVIL in shown.texts("option")
    for script in shown.all("script", type="application/json"):
        assert "<img" not in script.text


def test_sections_without_data_are_left_out(tmp_path):
    (tmp_path / "recipe.yaml").write_text("title: Little\n")
    (tmp_path / "statistics.jsonl").write_text('{"step": 1, "epoch": 0, "kind": "step", "loss": 1.0}\n')
    assert inside.sections(statistics.read(tmp_path, [])) == []
    shown = page.write(tmp_path).read_text("utf-8").split("</style>")[1][:5000]
    assert "Drift" not in shown and "inside the model so far." in shown  # it has no summary yet


def test_thinning_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "RECORDS", 60)
    monkeypatch.setattr(statistics, "STEPS", 4)
    sentence = inside.thinning(statistics.read(folder, []))
    assert "of 24 of activation" in sentence and "statistics.jsonl has all" in sentence
    monkeypatch.undo()
    assert inside.thinning(statistics.read(folder, [])) == ""


def test_the_cost_of_a_run_that_went_on_is_that_of_all_its_parts(tmp_path):
    parts = [(10, 2.0, 1.0, 60.0), (30, 3.0, 4.0, 140.0)]
    names = ("probes", "first_seconds", "later_seconds", "elapsed_seconds")
    lines = [
        json.dumps({"step": part[0], "epoch": 0, "kind": "cost", **dict(zip(names, part, strict=True)), "share": 0.05})
        for part in parts
    ]
    (tmp_path / "statistics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    sentence = inside.cost(statistics.read(tmp_path, []))
    assert sentence.startswith(
        "Watching cost 5.0 % of 3 min 20 s: 5.0 s for the first of 40 probed steps after each of 2"
    )
    (tmp_path / "statistics.jsonl").write_text(f"{lines[0]}\n")
    assert "cost 5.0 % of 1 min 0 s: 2.0 s for the first of 10 probed" in inside.cost(statistics.read(tmp_path, []))


def evidence_of(rule, records, tmp_path, layer=None, threshold=0.3):
    (tmp_path / "statistics.jsonl").write_text("".join(json.dumps({"epoch": 0, **r}) + "\n" for r in records))
    finding = alerts.Finding(rule=rule, step=2, layer=layer, threshold=threshold)
    (card,) = findings.cards([finding], statistics.read(tmp_path, []))
    return card.chart


def test_evidence_is_the_number_that_the_rule_holds_against_its_threshold(tmp_path):
    outputs = [
        {"step": s, "kind": "activation", "layer": "a", "mean": 3.0, "variance": v} for s, v in ((1, 4), (2, 16))
    ]
    chart = evidence_of("activation_scale", outputs, tmp_path, "a", 30.0)
    assert chart.title == "Standard deviation of the outputs: a" and list(chart.figure["data"][0]["y"]) == [2, 4]
    assert 30.0 in {line["y0"] for line in chart.figure["layout"]["shapes"]}
    chart = evidence_of("constant_activation", outputs, tmp_path, "a", 1e-3)
    assert list(chart.figure["data"][0]["y"]) == [pytest.approx(13**0.5, rel=1e-3), 5]
    huge = [{**record, "mean": 1e200} for record in outputs]  # its square is beyond the floats
    chart = evidence_of("constant_activation", huge, tmp_path, "a", float("inf"))
    assert list(chart.figure["data"][0]["y"]) == [1e200, 1e200] and "threshold" not in chart.sentence


def test_shares_are_on_a_linear_axis_from_0_to_1(tmp_path):
    shares = [{"step": s, "kind": "activation", "layer": "a", "dead": value} for s, value in ((1, 0.01), (2, 0.9))]
    axis = evidence_of("dead_units", shares, tmp_path, "a", 0.5).figure["layout"]["yaxis"]
    assert axis.get("type") != "log" and tuple(axis["range"]) == (0, 1.02)


def test_evidence_of_updates_is_the_median_of_the_matrices(tmp_path):
    """Gammas and biases, which the rule leaves out, were in the median."""
    ratios = {f"dense_{i}/kernel": float(i) for i in range(1, 11)} | {f"dense_{i}/bias": 0.0 for i in range(1, 11)}
    updates = [{"step": 2, "kind": "weight", "layer": name, "update_ratio": value} for name, value in ratios.items()]
    chart = evidence_of("updates_too_large", updates, tmp_path)
    assert chart.title == "Update over weight, median of 10 weights" and list(chart.figure["data"][0]["y"]) == [5.5]


@pytest.mark.parametrize(("values", "ticks"), [([1e-3, 1e17], 8), ([1.0, 2e4], 5), ([1e-8, 1.0], 8)])
def test_a_logarithmic_axis_has_room_for_its_ticks(values, ticks):
    """Each of 20 powers of ten had a label, one on top of the other."""
    step = plots.log_axis(values)["dtick"]
    assert isinstance(step, int) and np.log10(values[1] / values[0]) / step < ticks


def test_cells_beyond_the_last_colour_are_told_where_there_are_some():
    few = statistics.Series([1, 2], [1.0, 1.0])
    same = {f"layer_{index}": few for index in range(20)}
    far = same | {"far": statistics.Series([1, 2], [1.0, 1000.0])}
    assert not plots.has_outliers(plots.layer_map(same, "shift"))
    assert plots.has_outliers(plots.layer_map(far, "shift"))
