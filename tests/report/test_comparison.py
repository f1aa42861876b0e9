import json
import math
import subprocess
import sys

import pytest

from nrm_keras.errors import UserError
from nrm_keras.report import compare_parts, comparison, layer_differences, statistics
from tests.report.conftest import ENVIRONMENT, RECIPE, SUMMARY
from tests.report.watched import change, records, write

BATCH = RECIPE.replace("type: adaptive ", "type: batch    ").replace("  alternative: layer", "  # none: layer")


def compare(*paths):
    return comparison.read(paths)


def said(found, **options) -> dict[str, str]:
    """The sentences of each part."""
    return {part.name: " ".join(part.sentences) for part in compare_parts.parts(found, **options)}


def table(found, name, **options):
    (part,) = [part for part in compare_parts.parts(found, **options) if part.name == name]
    return part.table


def seeds(tmp_path, name, recipe, noise=0.1, base=0, shift=0.0):
    found = []
    for seed in range(3):
        one = [
            {**r, **({"variance": r["variance"] + shift} if r.get("layer") == "stem" and "variance" in r else {})}
            for r in records(base + seed, noise)
        ]
        found.append(write(tmp_path / f"{name}{seed}", one, seed=seed, recipe=recipe))
    return found


def test_recipes_differ_in_values_not_in_where_they_come_from(tmp_path):
    other = BATCH.replace("# default", "# command line").replace("balance: 8.0", "balance: 8")
    found = compare(write(tmp_path / "a"), write(tmp_path / "b", recipe=other), write(tmp_path / "c", seed=2))
    assert comparison.recipe_differences(found) == [
        ("norm.type", ["adaptive", "batch", "adaptive"]),
        ("norm.alternative", ["layer", "(absent)", "layer"]),
        ("norm.balance", ["8.0", "8", "8.0"]),
        ("train.seed", ["0", "0", "2"]),
    ]
    assert [compare_parts.names(group) for group in found.groups] == ["A, C", "B"]
    assert "A, C are one recipe with different seeds." in said(found)["results"]


def test_environments_differ_in_versions_machine_and_code_only(tmp_path):
    other = json.loads(json.dumps(ENVIRONMENT))
    other |= {"recorded": "2027-01-01", "data": {"origin": "/home/me/x.npz", "fingerprint": "b"}}
    other["versions"]["keras"] = "3.16.0"
    other["git"] |= {"commit": "abc", "dirty": False, "diff": ""}
    other["variables"] = {"KERAS_HOME": "/home/me"}
    same = {**ENVIRONMENT, "data": {"origin": "C:\\x.npz", "fingerprint": "a"}}
    found = compare(
        write(tmp_path / "a", environment=json.dumps(same)), write(tmp_path / "b", environment=json.dumps(other))
    )
    assert comparison.environment_differences(found) == [
        ("versions keras", ["3.15.1", "3.16.0"]),
        ("variables TF_CPP_MIN_LOG_LEVEL", ["2", ""]),
        ("git commit", ["4f1c2b7e9d", "abc"]),
        ("git dirty", ["yes", "no"]),
        ("data fingerprint", ["a", "b"]),
    ]


def test_results_say_what_each_run_reached(tmp_path):
    regression = {**SUMMARY, "task": "regression", "metrics": {"validation": {"loss": 0.5}}, "monitor": "val_loss"}
    smoke = {**SUMMARY, "smoke": True, "seconds": None, "metrics": {}}
    found = compare(
        write(tmp_path / "a"),
        write(tmp_path / "b", summary=None),
        write(tmp_path / "c", summary=json.dumps(regression)),
        write(tmp_path / "d", summary=json.dumps(smoke)),
        write(tmp_path / "e", summary="{"),
    )
    rows = [row[1:-1] for row in table(found, "results").rows]
    assert rows == [
        ["0", "finished", "test accuracy 97.8 % (95.7 to 98.9)", "15", "31 s"],
        ["0", "unfinished", "", "15 so far", ""],
        ["0", "finished", "validation loss 0.5", "15", "31 s"],
        ["0", "finished, smoke test", "none that is finite", "15", ""],
        ["0", "unreadable summary", "", "15 so far", ""],
    ]


def test_seeds_of_one_recipe_are_the_band_wherever_they_stand(tmp_path):
    single = write(tmp_path / "single", records(7, noise=0.1), seed=5, recipe=BATCH)
    found = compare(single, *seeds(tmp_path, "a", RECIPE, noise=0.001))
    (going,) = found.goings
    assert compare_parts.names(going.reference) == "B, C, D" and going.has_band
    assert going.course.parting.step == 1
    words = said(found)["parting"]
    assert "over B, C, D (seeds 0, 1, 2)" in words and "A leaves the band of B, C, D at step 1 in stem/kernel" in words
    assert "where nothing but the seed differs it is about 2" in words


def test_a_shift_beyond_the_seeds_is_found_in_its_layer(tmp_path):
    runs = [*seeds(tmp_path, "a", RECIPE, 0.01), *seeds(tmp_path, "b", BATCH, 0.01, shift=0.5)]
    (going,) = compare(*runs).goings
    found = going.course.parting
    assert (found.step, found.layer, found.column, found.outside) == (1, "stem", "variance", 1)
    rows = layer_differences.rows(compare(*runs))
    assert (rows[0].layer, rows[0].quantity.name) == ("stem", "activation standard deviation")


def test_a_seed_that_was_trained_twice_makes_no_band(tmp_path):
    found = compare(
        *(write(tmp_path / f"{i}", records(i)) for i in range(3)), write(tmp_path / "b", records(9), recipe=BATCH)
    )
    assert [going.has_band for going in found.goings] == [False] * 3
    words = said(found)
    assert "No band of seed noise is known" in words["parting"]
    assert words["parting"].count("Their recipes differ in the seed at most.") == 2
    assert "A, B, C have the same recipe and seed." in words["results"]


def test_layers_are_sorted_by_how_many_times_they_differ(tmp_path):
    first = second = records(steps=[1, 6])
    for layer, column, value in (
        ("stem", "mean", [1.0, 3.0]),
        ("stem", "variance", [4.0, 4.0]),
        ("logits", "variance", [1.0, 100.0]),
        ("logits/kernel", "update_ratio", [0.01, 0.04]),
        ("stem_norm", "dead", [0.0, 0.5]),
    ):
        first, second = (change(one, 6, layer, column, v) for one, v in zip((first, second), value, strict=True))
    # a later step that only one has does not count
    second = [*second, *records(seed=5, steps=[7])]
    found = layer_differences.rows(compare(write(tmp_path / "a", first), write(tmp_path / "b", second)))
    top = [(row.layer, row.quantity.name, row.words) for row in found[:4]]
    assert top == [
        ("stem_norm", "dead share", "50 points"),
        ("logits", "activation standard deviation", "10 times"),
        ("logits/kernel", "update ratio", "4 times"),
        ("stem", "activation mean", "1 sd"),
    ]
    sizes = [math.log(0.51 / 0.01), math.log(10), math.log(4), math.log(2)]
    assert [row.size for row in found[:5]] == pytest.approx([*sizes, 0])


def test_paired_differences_pair_by_seed(tmp_path):
    def run(name, seed, accuracy, recipe):
        metrics = {"test": {"accuracy": accuracy}}
        return write(tmp_path / name, seed=seed, recipe=recipe, summary=json.dumps({**SUMMARY, "metrics": metrics}))

    # in another order, and one without a partner
    runs = [
        run("a0", 0, 0.90, RECIPE),
        run("a1", 1, 0.80, RECIPE),
        run("a2", 2, 0.70, RECIPE),
        run("a3", 3, 0.1, RECIPE),
    ]
    runs += [run("b2", 2, 0.69, BATCH), run("b0", 0, 0.88, BATCH), run("b1", 1, 0.77, BATCH)]
    found = compare(*runs)
    (row,) = table(found, "paired", paired=True).rows
    # differences 0.02, 0.03, 0.01: mean 0.02, sd 0.01, t quantile with 2 degrees of freedom 4.3027
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert row == ["accuracy", "0.8", "0.78", "0.02", row[4]]
    low, high = map(float, row[4].split(" to "))
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=2e-6)
    assert "left out: D." in said(found, paired=True)["paired"]


def test_paired_without_pairs_is_an_error_that_helps(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", seed=1)
    with pytest.raises(UserError, match="two recipes over the same seeds. Received: 1 recipe"):
        compare_parts.parts(compare(a, b), paired=True)
    c = write(tmp_path / "c", seed=1, recipe=BATCH)
    with pytest.raises(UserError, match=r"none in common among finished runs \(A: 0; B: 1\)"):
        compare_parts.parts(compare(a, c), paired=True)


def test_the_same_run_twice_and_runs_with_nothing_in_common(tmp_path):
    a = write(tmp_path / "a", records())
    same = compare(a, a / ".." / "a")
    assert same.notices == ["B and A are the same run directory."]
    words = said(same)
    assert words["recipes"] == "No difference." and words["environments"].startswith("No difference")
    assert "B stays within 0.1 % of A at all 8 steps that all have recorded (1 to 36)." in words["parting"]
    assert words["layers"] == "At step 36, the last that all have recorded, all 15 numbers of the layers are equal."
    once = compare(write(tmp_path / "once", records(steps=[1])), a)
    assert "B stays within 0.1 % of A at the only step that all have recorded (1)." in said(once)["parting"]
    other = write(
        tmp_path / "b",
        [r for r in records(layers=["x"], steps=[2]) if r["kind"] != "step"],
        recipe="a: 1\n",
        environment=None,
    )
    words = said(compare(a, other))
    assert words["parting"].endswith("B and A have no recorded step in common.")
    assert words["layers"] == "The runs have no layer in common."
    assert words["environments"].startswith("That of B is not known.")
    none = said(compare(write(tmp_path / "c"), write(tmp_path / "d")))
    assert none["parting"].startswith("A, B have no statistics of the layers") and none["layers"].startswith(
        "It takes two"
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("recipe", ["a: [1", "[1, 2]", "", "&a [*a]", "a: &a {b: *a}", "\0", BOMB])
def test_a_recipe_that_is_none_is_a_notice(tmp_path, recipe):
    a, b = write(tmp_path / "a", records()), write(tmp_path / "b", records(1), recipe=recipe)
    found = compare(a, b)
    assert any(notice.startswith("B: ") for notice in found.notices)
    words = said(found)
    assert words["recipes"] == "That of B cannot be read. There are no two recipes to compare."
    assert "B parts from A" in words["parting"] and "differ in the seed" not in words["parting"]


@pytest.mark.parametrize(
    "files",
    [
        {"statistics": "\0\n{\n[1]\n" + '{"step": 1, "epoch": 0, "kind": "activation", "layer": 3, "mean": "x"}\n'},
        {"metrics": "epoch,loss\n1,x\nnan,1\n", "environment": "[1]", "summary": "[]"},
        {
            "statistics": json.dumps(
                {"kind": "activation", "step": 1, "layer": "stem", "variance": 1e999, "mean": True}
            )
            + "\n"
        },
        {"statistics": json.dumps({"kind": "weight", "step": 1, "layer": {"a": []}, "norm": [1]}) + "\n"},
    ],
)
def test_damaged_files_are_no_traceback(tmp_path, files):
    found = compare(write(tmp_path / "a", records()), write(tmp_path / "b", **files))
    assert set(said(found)) == {"results", "recipes", "environments", "parting", "layers"}


def test_what_is_no_run_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        compare(write(tmp_path / "a"), tmp_path)
    with pytest.raises(UserError, match="two or more"):
        compare(tmp_path / "a")


def test_letters_go_on_behind_z():
    assert [comparison.letter_of(place) for place in (0, 25, 26, 52)] == ["A", "Z", "A2", "A3"]


def test_a_comparison_is_made_without_tensorflow(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nrm_keras.report import comparison, compare_parts, compare_page;"
        "found = comparison.read([Path(path) for path in sys.argv[2:]]);"
        "compare_page.write(found, compare_parts.parts(found, paired=True), Path(sys.argv[1]));"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    runs = [write(tmp_path / "a", records()), write(tmp_path / "b", records(1), recipe=BATCH)]
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.html", *runs], check=True, timeout=60)


def test_all_numbers_of_layers_are_of_the_step_that_is_named(tmp_path, monkeypatch):
    """Weights have more records a step than activations here, so that fewer of their steps are kept."""
    monkeypatch.setattr(statistics, "RECORDS", 310)
    steps = range(1, 302)
    found = records(0, noise=0.0, steps=steps)
    long = [r for r in found if r.get("layer") not in ("stem", "stem_norm")]
    for record in long:
        if record["kind"] == "weight":
            record["update_ratio"] = float(record["step"])
    short = [r for r in long if r["step"] <= 200]
    found = compare(write(tmp_path / "a", long), write(tmp_path / "b", short))
    step = layer_differences.last_step(found)
    ratios = [row.values for row in layer_differences.rows(found) if row.quantity.column == "update_ratio"]
    assert step is not None and step <= 200 and len(ratios) == 3
    assert all(set(one.values()) == {float(step)} for one in ratios)
