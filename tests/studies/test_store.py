"""A study's directory, with cells whose results are known because they are written here."""

import csv
import json
import math

import pytest

from nrm_keras.errors import UserError
from nrm_keras.runs import directory
from nrm_keras.studies import loading, planning
from nrm_keras.studies.outcome import Outcome
from nrm_keras.studies.store import NOT_JUDGED, Store


def end(store, cell, accuracy=None, status="finished", error=""):
    """Leaves behind what a worker does."""
    run = store.folder(cell) / "run/recipe/20260102-030405-abcdef"
    run.mkdir(parents=True)
    measured = {} if accuracy is None else {"test": {"accuracy": accuracy}}
    directory.write_json(run / "summary.json", {"metrics": measured, "status": status})
    (run / "metrics.csv").write_text("epoch,loss,accuracy,val_loss,val_accuracy\n1,1.0,0.5,1.0,0.5\n")
    relative = str(run.relative_to(store.path))
    Outcome(cell, status, relative, {}, 2.0, 2.0, 1, 1, "local", error).write(store.folder(cell))


@pytest.fixture
def make(write, tmp_path):
    def make(changes=None, smoke=False):
        return Store.create(tmp_path / "studies/tiny", "tiny", loading.load(write(changes)).study, smoke)

    return make


def test_errors_of_all_cells_are_judged_and_written(make):
    store = make({"claims": {"alike": {"smallest_effect": 0.05}}})
    for seed, (batch, none) in enumerate([(0.80, 0.81), (0.82, 0.82), (0.81, 0.80)]):
        end(store, f"norm=batch/seed-{seed}", batch)
        end(store, f"norm=none/seed-{seed}", none)
    store = Store(store.path)
    [judged] = store.write()
    assert judged.verdict == "supported"
    assert judged.difference == pytest.approx(0, abs=1e-12)
    table = list(csv.DictReader((store.path / "results.csv").open()))
    assert [(row["norm"], row["seed"]) for row in table[:4]] == [
        ("batch", "0"),
        ("batch", "1"),
        ("batch", "2"),
        ("none", "0"),
    ]
    assert [float(row["error"]) for row in table[:3]] == pytest.approx([0.2, 0.18, 0.19])
    summary = json.loads((store.path / "study.json").read_text())
    assert summary["claims"]["alike"]["verdict"] == "supported"
    assert summary["claims"]["alike"]["pairs"][0] == pytest.approx([0, 0.2, 0.19])
    assert summary["cells"] == {"all": 6, "finished": 6}


def test_a_claim_without_all_its_cells_is_not_judged_and_says_which_are_missing(make):
    store = make()
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}", 0.8)
    end(store, "norm=none/seed-0", 0.8)
    end(store, "norm=none/seed-1", status="failed", error="it broke")
    store = Store(store.path)
    [judged] = store.judged()
    assert judged.verdict == NOT_JUDGED
    assert "2 of 6 values are missing: norm=none/seed-1 failed; norm=none/seed-2 is not trained" in judged.reason
    assert math.isnan(judged.difference) and judged.interval is None
    store.write()
    assert json.loads((store.path / "study.json").read_text())["claims"]["alike"]["difference"] is None


def test_a_diverged_cell_is_no_missing_one(make):
    store = make()
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}", 0.8)
        end(store, f"norm=none/seed-{seed}", None if seed == 1 else 0.8, "diverged" if seed == 1 else "finished")
    store = Store(store.path)
    assert math.isnan(store.value("error", "norm=none/seed-1"))
    [judged] = store.judged()
    assert judged.verdict == "no clear difference"
    assert judged.reason.endswith("not finite with seed 1. Diverged, without a number: norm=none/seed-1.")


def test_a_diverged_cell_with_a_number_counts_and_is_named(make):
    store = make()
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}", 0.1, "diverged" if seed == 2 else "finished")
        end(store, f"norm=none/seed-{seed}", 0.1 + seed / 100)
    [judged] = Store(store.path).judged()
    assert judged.n == 3
    assert judged.reason.endswith("Diverged, and counted with the weights that it kept: norm=batch/seed-2.")


def test_seeds_that_choose_are_needed_of_the_candidates_only(make):
    grid = {"norm": {"layer": {"norm": {"type": "layer"}}}}
    claim = {"to": {"norm": ["none", "layer"]}, "choose": "lowest", "choose_on": [0], "smallest_effect": 0.05}
    store = make({"grid": grid, "claims": {"alike": claim}})
    for seed in (1, 2):
        end(store, f"norm=batch/seed-{seed}", 0.8)
    for seed in (0, 1, 2):
        end(store, f"norm=none/seed-{seed}", 0.8)
    for seed in (0, 1):
        end(store, f"norm=layer/seed-{seed}", 0.7)
    [judged] = Store(store.path).judged()
    assert judged.verdict == NOT_JUDGED and "1 of 8 values are missing: norm=layer/seed-2" in judged.reason
    end(store, "norm=layer/seed-2", 0.7, "diverged")  # which wasn't chosen
    [judged] = Store(store.path).judged()
    assert judged.chosen == "none" and judged.seeds == (1, 2) and "iverged" not in judged.reason
    for seeds in ((1, 2), (0,)):
        some = store.study.model_copy(update={"seeds": seeds})
        [judged] = Store.create(store.path, "tiny", some).judged()
        assert judged.verdict == NOT_JUDGED and "Seeds 0 choose" in judged.reason


def test_a_cell_that_lacks_the_measurement_says_what_is_there(make):
    store = make({"measurements": {"error": {"metric": "test.accuracy"}}})
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}")
        end(store, f"norm=none/seed-{seed}", 0.8)
    store = Store(store.path)
    [judged] = store.judged()
    assert judged.verdict == NOT_JUDGED and "norm=batch/seed-0 has no error" in judged.reason
    assert store.problems


def test_a_smoke_run_gives_no_verdict(make):
    store = make(smoke=True)
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}", 0.8)
        end(store, f"norm=none/seed-{seed}", 0.8)
    [judged] = Store(store.path).judged()
    assert judged.verdict == NOT_JUDGED


def test_fewer_seeds_leave_the_others_cells_where_they_are(make, tmp_path):
    store = make()
    for seed in range(3):
        end(store, f"norm=batch/seed-{seed}", 0.8)
    fewer = Store.create(store.path, "tiny", loading.load(tmp_path / "tiny.yaml").with_seeds((0, 1)).study)
    assert list(fewer.results()) == ["norm=batch/seed-0", "norm=batch/seed-1"]
    again = Store.create(store.path, "tiny", loading.load(tmp_path / "tiny.yaml").study)
    assert len(again.results()) == 3


def test_cells_are_done_whatever_seeds_were_asked_for_before(make, write):
    store = make()
    end(store, "norm=batch/seed-0", 0.8)
    Store.create(store.path, "tiny", store.study.model_copy(update={"seeds": (9,)}))
    assert planning.plan("tiny.yaml", workers=1).done == {"norm=batch/seed-0"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"name": 3, "smoke": "yes"}'])
def test_a_damaged_summary_is_written_again(make, content):
    store = make()
    (store.path / "study.json").write_text(content)
    store = Store(store.path)
    assert not store.smoke and store.judged()
    store.write()
    assert json.loads((store.path / "study.json").read_text())["cells"] == {"all": 6}


def test_a_damaged_study_in_a_directory_says_what_to_remove(make):
    path = make().path / "study.yaml"
    path.write_text("title: [")
    with pytest.raises(UserError, match="when it is removed: .*tiny/study.yaml"):
        planning.plan("tiny.yaml", workers=1)


def test_another_directory(tmp_path):
    with pytest.raises(UserError, match=r"a study's directory has study\.yaml"):
        Store(tmp_path)
