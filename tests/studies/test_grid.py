"""Cells: their names, recipes and overrides."""

import pytest

from nrm_keras.recipe.loading import load as load_recipe
from nrm_keras.studies import grid, loading


def test_every_combination_with_every_seed(write):
    sizes = {"2": {"data": {"batch_size": 2}}, "50": {}}
    loaded = loading.load(write({"grid": {"batch_size": sizes}}))
    names = [cell.name for cell in loaded.cells()]
    assert len(set(names)) == len(names) == 2 * 2 * 3
    assert names[0] == "norm=batch,batch_size=2/seed-0" and names[1] == "norm=batch,batch_size=2/seed-1"
    assert [(place.name, place.levels, place.seed) for place in grid.places(loaded.study)] == [
        (cell.name, cell.levels, cell.seed) for cell in loaded.cells()
    ]


def test_what_a_worker_trains_is_what_was_checked(write, tmp_path):
    """The recipe and overrides, as `nrm_keras.run` takes them from any directory, give the checked recipe."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/part.yaml").write_text("extends: images/digits_adaptive\n")
    levels = {
        "own": {"recipe": "own/part.yaml", "train": {"init_from": "weights.keras"}},
        "own_variant": {"recipe": "own/part.yaml@group"},
        "weighted": {"train": {"class_weights": {"a.b": 2.0}, "metrics": ["accuracy"]}},
        "lists": {
            "callbacks": [{"type": "terminate_on_nan"}],
            "diagnostics": None,
            "schedule": {"type": "step", "epochs": [1]},
        },
    }
    loaded = loading.load(
        write({"grid": {"kind": levels}, "overrides": {"model": {"type": "mlp"}, "train": {"epochs": 2}}})
    )
    for cell in loaded.cells():
        recipe = load_recipe(cell.recipe, cell.overrides).recipe
        assert recipe == cell.loaded.recipe
        assert recipe.train.seed == cell.seed
    started = [cell.loaded.recipe.train.init_from for cell in loaded.cells() if cell.levels["kind"] == "own"]
    assert set(started) == {str(tmp_path / "weights.keras")}


def test_paths_do_not_depend_on_the_working_directory(write, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text("extends: images/digits_adaptive\nmodel: {type: mlp}\n")
    name = tmp_path / write({"recipe": "own.yaml"})
    here = loading.load(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = loading.load(name)
    assert there.study == here.study
    assert there.cells()[0].recipe == str(tmp_path / "own.yaml")


def test_a_level_replaces_a_section_of_another_type(write):
    loaded = loading.load(
        write(
            {
                "overrides": {"norm": {"type": "batch", "momentum": 0.5}},
                "grid": {"norm": {"none": {"norm": {"type": "none"}}}},
            }
        )
    )
    by_level = {cell.levels["norm"]: cell.loaded.recipe.norm for cell in loaded.cells()}
    assert by_level["batch"].momentum == 0.5
    assert not hasattr(by_level["none"], "momentum")


def test_a_study_without_a_grid_has_a_cell_a_seed(write, tmp_path):
    import yaml

    study = yaml.safe_load((tmp_path / write()).read_text())
    study["grid"] = {}
    study["claims"]["alike"] |= {"compare": {}, "to": 0.5}
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump(study))
    assert [cell.name for cell in loading.load("flat.yaml").cells()] == ["seed-0", "seed-1", "seed-2"]


@pytest.mark.parametrize("selection", [{}, {"norm": "batch"}, {"norm": "none"}])
def test_selections_match_their_levels(write, selection):
    combinations = loading.load(write()).combinations
    assert [one.levels["norm"] for one in combinations if one.matches(selection)] == (
        [selection["norm"]] if selection else ["batch", "none"]
    )
