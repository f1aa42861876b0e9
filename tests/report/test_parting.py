import math
import statistics

import pytest
from scipy.stats import t

from nrm_keras.report import parting
from tests.report.watched import STEPS, change, records, write


def part(tmp_path, reference, others):
    notices = []
    paths = [
        [write(tmp_path / f"{name}{index}", one) for index, one in enumerate(runs)]
        for name, runs in (("reference", reference), ("other", others))
    ]
    return parting.first(*paths, notices), notices


def number(found, step, layer, column):
    (value,) = [r[column] for r in found if r["step"] == step and r.get("layer") == layer and column in r]
    return value


def test_equal_runs_never_part(tmp_path):
    course, notices = part(tmp_path, [records()], [records()])
    assert course == parting.Course(None, (len(STEPS), STEPS[0], STEPS[-1]), True) and notices == []


@pytest.mark.parametrize(
    ("step", "layer", "column"),
    [(1, "logits", "mean"), (16, "stem_norm", "variance"), (36, "logits/kernel", "update_norm"), (11, None, "loss")],
)
def test_a_changed_number_is_where_they_part(tmp_path, step, layer, column):
    first = records()
    value = number(first, step, layer, column)
    course, _ = part(tmp_path, [first], [change(first, step, layer, column, 1.01 * value)])
    found = course.parting
    assert (found.step, found.layer or None, found.column) == (step, layer, column)
    assert (found.reference, found.others) == ((value,), (1.01 * value,))
    # 3 layers with mean, variance, dead and gradient, 3 weights with 3 numbers, 3 of the step
    assert (found.outside, found.compared) == (1, 3 * 4 + 3 * 3 + 3)


def test_what_is_below_the_tolerance_is_no_parting(tmp_path):
    first = records()
    second = change(first, 16, "stem", "variance", number(first, 16, "stem", "variance") * 1.0005)
    # a mean of 0 up to rounding, behind a normalizer
    first, second = (change(one, 21, "stem", "mean", mean) for one, mean in ((first, 1e-9), (second, -3e-6)))
    assert part(tmp_path, [first], [second])[0].parting is None


def test_of_many_changes_the_first_in_the_order_of_computation_counts(tmp_path):
    first = second = records()
    for step, layer, column in (
        (26, "stem/kernel", "norm"),
        (21, None, "loss"),
        (21, "logits", "mean"),
        (21, "stem", "gradient_rms"),
    ):
        second = change(second, step, layer, column, 5.0)
    found = part(tmp_path, [first], [second])[0].parting
    assert (found.step, found.layer, found.column, found.outside) == (21, "logits", "mean", 3)


def test_against_seeds_noise_does_not_count_and_ten_deviations_do(tmp_path):
    seeds = [records(seed) for seed in range(3)]
    other = records(3)
    for record in other:  # every number at the seeds' mean, plus one deviation
        for column in record:
            values = [number(one, record["step"], record.get("layer"), column) for one in seeds]
            if isinstance(values[0], float):
                record[column] = statistics.fmean(values) + statistics.stdev(values)
    assert part(tmp_path / "one", seeds, [other])[0].parting is None
    values = [number(one, 31, "stem_norm", "variance") for one in seeds]
    far = change(other, 31, "stem_norm", "variance", statistics.fmean(values) - 10 * statistics.stdev(values))
    found = part(tmp_path / "ten", seeds, [far])[0].parting
    assert (found.step, found.layer, found.column, found.outside) == (31, "stem_norm", "variance", 1)
    # of two seeds of the other recipe one only is far: no parting
    assert part(tmp_path / "half", seeds, [far, other])[0].parting is None


def test_the_share_outside_by_chance_is_students_and_what_seeds_show(tmp_path):
    for seeds in (3, 5):
        expected = 2 * t.sf(parting.WIDTH / math.sqrt(1 + 1 / seeds), seeds - 1)
        assert parting.chance(seeds, 1) == pytest.approx(expected, abs=0.005)
    assert parting.chance(3, 3) < parting.chance(3, 1) / 3
    runs = [records(seed, steps=range(200)) for seed in range(4)]
    course, _ = part(tmp_path, runs[:3], runs[3:])
    assert course.parting.step < 5
    shown = [parting.statistics.read(tmp_path / f"reference{index}", []) for index in range(3)]
    found = parting.shares(shown, [parting.statistics.read(tmp_path / "other0", [])])
    # of 24 numbers 5 have no noise, and are equal
    assert statistics.fmean(found.values) == pytest.approx(parting.chance(3, 1) * 19 / 24, abs=0.02)


def test_a_number_that_is_not_finite_any_more_is_a_parting_and_a_missing_share_is_not(tmp_path):
    first = records()
    found = part(tmp_path / "a", [first], [change(first, 6, None, "loss", None)])[0].parting
    assert (found.step, found.column) == (6, "loss") and math.isnan(found.others[0])
    assert part(tmp_path / "b", [first], [change(first, 6, "stem", "dead", None)])[0].parting is None
    broken = change(first, 6, None, "loss", None)
    assert part(tmp_path / "c", [broken], [broken[:-1]])[0].parting is None


def test_only_steps_that_all_have_are_compared_and_none_is_thinned_out(tmp_path):
    many = records(steps=range(1, 3001), layers=[*"abcdefg"])
    second = [r for r in change(many, 2998, "c", "mean", 7.0) if r["step"] % 2 == 0]
    course, _ = part(tmp_path, [many], [second])
    assert (course.parting.step, course.parting.layer, course.steps) == (2998, "c", (1499, 2, 2998))
    # the reader of the page has left that step out
    shown = parting.statistics.read(tmp_path / "reference0", [])
    assert 2998 not in {record["step"] for record in shown.of("weight")}


def test_nothing_in_common(tmp_path):
    steps, _ = part(tmp_path / "steps", [records(steps=[1, 3])], [records(steps=[2, 4])])
    assert (steps.parting, steps.steps) == (None, None)
    first, second = ([r for r in records(layers=[name]) if r["kind"] != "step"] for name in "ab")
    layers, _ = part(tmp_path / "layers", [first], [second])
    assert layers.parting is None and layers.steps[0] == len(STEPS) and not layers.compared


def test_damaged_lines_are_left_out(tmp_path):
    first = records()
    torn = write(tmp_path / "torn", first)
    text = (torn / "statistics.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    damaged = [
        *lines[:5],
        "{\n",
        '{"step": 1, "epoch": 0, "kind": "activation", x\n',
        *lines[5:],
        lines[0],
        lines[1][:20],
    ]
    (torn / "statistics.jsonl").write_text("".join(damaged))
    notices = []
    course = parting.first([write(tmp_path / "sound", first)], [torn], notices)
    assert course.parting is None and course.steps[0] == len(STEPS)
    assert "1 line of an earlier step" in notices[0]
