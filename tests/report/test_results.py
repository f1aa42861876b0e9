import json
import shutil

import pytest
from markdown_it import MarkdownIt

from nrm_keras.errors import UserError
from nrm_keras.recipe.loading import load
from nrm_keras.report import results
from tests.report.conftest import ENVIRONMENT, SUMMARY


@pytest.fixture
def make(tmp_path):
    """Makes a run directory below `runs`."""
    count = 0

    def make(*overrides, name="images/digits_adaptive", test=0.9, seed=0, environment=(), **summary):
        nonlocal count
        count += 1
        loaded = load(name, [*overrides, f"train.seed={seed}"])
        path = tmp_path / "runs" / loaded.name / f"20260101-00{count:04}-abcdef"
        path.mkdir(parents=True)
        metrics = {"validation": {"accuracy": 0.1}, "test": {"accuracy": test, "loss": 0.5}}
        content = {**SUMMARY, "recipe": loaded.name, "seed": seed, "metrics": metrics, **summary}
        (path / "recipe.yaml").write_text(loaded.to_yaml(origin=True))
        (path / "summary.json").write_text(json.dumps(content))
        (path / "environment.json").write_text(json.dumps({**ENVIRONMENT, **dict(environment)}))
        return path

    return make


def written(tmp_path, *roots):
    """The file's text and its table as another program reads it: a dict for each row."""
    results.write([tmp_path / root for root in roots or ["runs"]], tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text("utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    cells = [token for token in tokens if token.type == "inline" and token.level == 4]
    shown = ["".join(part.content for part in cell.children) for cell in cells]
    assert not any(part.type == "html_inline" for cell in cells for part in cell.children)
    columns = len(results.COLUMNS)
    rows = [shown[start : start + columns] for start in range(columns, len(shown), columns)]
    return text, [dict(zip(shown[:columns], row, strict=True)) for row in rows]


def test_a_recipe_with_three_seeds_is_one_row(make, tmp_path):
    for seed, accuracy in ((2, 0.95), (0, 0.94), (1, 0.96)):
        make(test=accuracy, seed=seed, seconds=10.0 + seed)
    _, (row,) = written(tmp_path)
    assert row == {
        "recipe": "images/digits_adaptive",
        "data": "digits",
        "norm": "adaptive",
        "seeds": "0, 1, 2",
        "metric": "test accuracy",
        "mean ± deviation": "0.95 ± 0.01",
        "baseline": "",
        "epochs": "15",
        "time a run": "11 s",
        "machine": "AMD EPYC, 2 cores, NVIDIA L4",
        "commit": "4f1c2b7e9d with uncommitted changes",
        "TensorFlow": "2.21.0",
        "Keras": "3.15.1",
    }


def test_changes_make_a_row_of_their_own_however_they_were_made(make, tmp_path):
    make()
    make("train.epochs=3", "norm.type=batch")
    make("train={epochs: 3}", "norm={type: batch}", seed=1)
    make(name="images/digits_adaptive@batch")
    _, rows = written(tmp_path)
    assert [(row["recipe"], row["norm"], row["seeds"]) for row in rows] == [
        ("images/digits_adaptive", "adaptive", "0"),
        ("images/digits_adaptive norm.type=batch train.epochs=3", "batch", "0, 1"),
        ("images/digits_adaptive@batch", "batch", "0"),
    ]


def test_other_data_is_another_row(make, tmp_path):
    make(environment={"data": {"origin": "here", "fingerprint": "a"}})
    make(environment={"data": {"origin": "here", "fingerprint": "b"}}, seed=1)
    assert [row["seeds"] for row in written(tmp_path)[1]] == ["0", "1"]


def test_the_last_run_of_a_seed_counts(make, tmp_path):
    make(test=0.1)
    make(test=0.9)
    text, (row,) = written(tmp_path)
    assert row["mean ± deviation"] == "0.9"
    assert "Left out: 1 run of a seed that was run again later." in text


def test_what_is_no_result_is_left_out_and_counted(make, tmp_path):
    make()
    make(seed=1, smoke=True)
    for file, content in (("summary.json", "{"), ("recipe.yaml", "data: ["), ("environment.json", "[]")):
        (make(seed=2) / file).write_text(content)
    for _ in range(2):
        (make(seed=3) / "summary.json").unlink()
    text, (row,) = written(tmp_path)
    assert row["seeds"] == "0"
    assert "Left out: 2 unfinished runs, 3 damaged runs, 1 smoke test." in text


def test_runs_on_several_machines_and_commits_say_so(make, tmp_path):
    clean = {"git": {"commit": "0123456789abcdef", "branch": "main", "dirty": False}}
    make(environment=clean)
    make(seed=1, environment={"git": {}, "machine": {}, "tensorflow": {}, "versions": {"keras": "3.16.0"}})
    make(seed=2)
    _, (row,) = written(tmp_path)
    assert row["commit"] == "0123456789; 4f1c2b7e9d with uncommitted changes"
    assert (row["Keras"], row["TensorFlow"]) == ("3.15.1; 3.16.0", "2.21.0")


def test_a_diverged_seed_is_not_averaged_away(make, tmp_path):
    make(test=0.9)
    make(test=None, seed=1)
    assert written(tmp_path)[1][0]["mean ± deviation"] == "not finite"


def test_names_are_text_whatever_they_hold(make, tmp_path):
    name = "a|b <script>alert(1)</script> _x_ **y** [z](http://z.example) `c` & \\ &lt; ~~d~~ ![i](j) w_w"
    make(recipe=name)
    assert written(tmp_path)[1][0]["recipe"] == name
    make("title='two\\nlines'", recipe="two\nlines", seed=1)
    assert len(written(tmp_path)[1]) == 2


def test_the_folders_above_data_are_not_told(make, tmp_path):
    make("data={source: npz, path: /home/somebody/secret/mine.npz}")
    text, (row,) = written(tmp_path)
    assert "data.path=mine.npz" in row["recipe"] and "somebody" not in text


def test_where_runs_lie_and_in_which_order_they_are_found_changes_nothing(make, tmp_path):
    first, *_ = [make(seed=seed, test=0.9 + seed / 100) for seed in range(3)]
    make("train.epochs=3")
    before = written(tmp_path)[0]
    assert written(tmp_path)[0] == before
    (tmp_path / "elsewhere").mkdir()
    shutil.move(first, tmp_path / "elsewhere" / first.name)
    table = lambda text: [line for line in text.splitlines() if line.startswith("|")]
    for roots in (["elsewhere", "runs"], ["runs", "elsewhere"], ["runs", "elsewhere", "runs"]):
        assert table(written(tmp_path, *roots)[0]) == table(before)


def test_without_runs_it_says_so(tmp_path):
    (tmp_path / "runs").mkdir()
    text, rows = written(tmp_path)
    assert rows == [] and "There is no finished run." in text
    with pytest.raises(UserError, match="nowhere: no such directory"):
        results.write([tmp_path / "nowhere"], tmp_path / "RESULTS.md")
    with pytest.raises(
        UserError, match="written to a file, .* Received: Is a directory. Choose another with --out FILE"
    ):
        results.write([tmp_path / "runs"], tmp_path / "runs")


def test_a_baseline_stands_beside_and_a_caveat_below(make, tmp_path):
    caveat = "One subject proves nothing clinical."
    for seed, accuracy in ((0, 0.7), (1, 0.8)):
        make(seed=seed, caveat=caveat, baseline={"name": "a linear model", "metrics": {"accuracy": accuracy}})
    make("data.batch_size=8")
    text, (row, plain) = written(tmp_path)
    assert plain["baseline"] == "" and row["baseline"] == "a linear model: accuracy 0.75"
    assert text.count(caveat) == 1 and f"- {row['recipe']}: {caveat}" in text


def test_a_cross_validation_by_seeds_is_one_row_and_a_chosen_fold_its_own(make, tmp_path):
    for seed, accuracy in ((0, 0.7), (1, 0.8), (2, 0.9)):
        data = {"data": {"fingerprint": f"fold {seed}"}}
        make(name="genomics/pbmc68k", test=accuracy, seed=seed, environment=data, caveat="Few cells.")
        make(
            "data.fold=1", name="genomics/pbmc68k", test=0.5, seed=seed, environment={"data": {"fingerprint": "fold 1"}}
        )
    text, (row, chosen) = written(tmp_path)
    assert (row["seeds"], row["mean ± deviation"]) == ("0, 1, 2", "0.8 ± 0.1")
    assert (chosen["recipe"], chosen["mean ± deviation"]) == ("genomics/pbmc68k data.fold=1", "0.5 ± 0")
    assert "- genomics/pbmc68k: Few cells." in text
