"""The verb, and the verbs about recipes that know studies too."""

import json

import pytest

from nrm_keras import cli
from nrm_keras.recipe import catalog


@pytest.fixture
def run(capsys, write):
    def run(*arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


def test_without_a_name_it_lists_studies_and_so_does_ls(run):
    for words in (["study"], ["ls"]):
        status, out, _ = run(*words)
        assert status == 0
        for name in catalog.study_names():
            assert f"\n{name.removeprefix('studies/')} " in out


def test_dry_run_prints_claims_grid_cost_and_what_seeds_detect(run, write, tmp_path):
    write({"seconds_per_cell": 30})
    status, out, _ = run("study", "tiny.yaml", "--dry-run", "--workers", "2")
    assert status == 0
    assert "error of {norm: batch} equal to that of {norm: none}" in out
    assert "2 x 3 seeds = 6 cells; 0 are done, 6 are left." in out
    assert "Estimated: 1 min 30 s with 2 workers (30 s a cell, as the study says)." in out
    assert "3.654 sd" in out
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "first_epok"], "Did you mean 'first_epoch'?"),
        (["study", "none.yaml"], "no such file"),
        (["study", "tiny.yaml", "--seeds", "0,0"], "one is there twice"),
        (["study", "tiny.yaml", "--seeds", "0,99999999999"], "seeds are from 0 to 2147483647. Received: 99999999999"),
        (["study", "images/digits_adaptive"], "Run it: python -m nrm_keras run images/digits_adaptive"),
        (["study", "tiny.yaml", "--cells", "nothing"], "matches none of 6"),
        (["study", "tiny.yaml", "--workers", "0"], "--workers takes a whole number"),
        (["run", "tiny.yaml"], "not one run. Run it: python -m nrm_keras study tiny.yaml"),
        (["show", "tiny.yaml", "norm.type=batch"], "changed in its file"),
        (["validate", "broken.yaml"], "broken.yaml:"),
    ],
)
def test_mistakes_end_with_status_2_and_no_traceback(run, write, words, message):
    write()
    write({"title": 3, "claims": {"alike": {"expect": "same"}}}, "broken.yaml")
    status, out, err = run(*words)
    assert status == 2
    assert message in err and "Traceback" not in err + out


def test_cp_show_and_validate(run, tmp_path):
    status, out, _ = run("cp", "studies/first_epoch", "mine.yaml")
    assert status == 0 and "study mine.yaml" in out
    assert run("validate", "mine.yaml", "studies/first_epoch")[:2] == (
        0,
        "mine.yaml: valid, with 18 cells\nstudies/first_epoch: valid, with 18 cells\n",
    )
    status, out, _ = run("show", "first_epoch", "--origin")  # `study` wants no studies/ either
    assert "first_epoch.yaml:" in out and "# default" in out


def test_schema_of_studies(run):
    schema = json.loads(run("schema", "study")[1])
    assert {"recipe", "norm", "train"} <= set(schema["$defs"]["Level"]["properties"])
    assert {"seeds", "claims"} <= set(schema["required"])

    def references(part):
        if isinstance(part, dict):
            yield from [part["$ref"]] if "$ref" in part else []
            for entry in part.values():
                yield from references(entry)
        elif isinstance(part, list):
            for entry in part:
                yield from references(entry)

    assert {name.rpartition("/")[2] for name in references(schema)} <= set(schema["$defs"])
