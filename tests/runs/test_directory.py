"""Run directories while others are made beside them."""

import threading

from nrm_keras.runs import directory


def test_runs_are_found_while_others_are_made(tmp_path):
    """Regression: a search that met a folder just before it got its final name failed."""

    def make():
        for _ in range(300):
            directory.create(tmp_path, "mine", {directory.RECIPE: "title: mine"})

    maker = threading.Thread(target=make)
    maker.start()
    seen = [0]
    while maker.is_alive():
        seen.append(len(directory.find_all(tmp_path)))
    maker.join()
    assert seen == sorted(seen) and len(seen) > 10
    assert len(directory.find_all(tmp_path)) == 300


def test_no_runs_in_hidden_folders_or_inside_of_runs(tmp_path):
    run = directory.create(tmp_path, "mine", {directory.RECIPE: "title: mine"})
    for folder in (run / "copy", tmp_path / ".hidden"):
        folder.mkdir()
        (folder / directory.RECIPE).write_text("title: mine")
    assert directory.find_all(tmp_path) == [run]
    assert directory.find_all(tmp_path / "nowhere") == []
