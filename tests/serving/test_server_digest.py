import os
import shutil
import subprocess

import pytest

from nrm_keras.errors import UserError
from nrm_keras.serving.digest import MODEL_CARD, digest


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "B ü.bin").write_bytes(b"")
    (folder / MODEL_CARD).write_text("{}")
    (folder / "README.md").write_text("a model")
    return folder


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum here")
def test_is_what_sha256sum_gives(version):
    command = (
        "find . -type f ! -path ./README.md ! -path ./model_card.json -printf '%P\\0'"
        " | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1"
    )
    done = subprocess.run(["bash", "-c", command], cwd=version, capture_output=True, text=True, check=True)
    assert digest(version) == "sha256:" + done.stdout.strip()


@pytest.mark.parametrize("change", ["content", "name", "more", "moved", "card of a subfolder"])
def test_any_change_of_a_file_changes_it(version, change):
    before = digest(version)
    {
        "content": lambda: (version / "saved_model.pb").write_bytes(b"grapH"),
        "name": lambda: (version / "saved_model.pb").rename(version / "saved_model.pbtxt"),
        "more": lambda: (version / "assets").write_bytes(b""),
        "moved": lambda: (version / "variables" / "variables.index").rename(version / "variables.index"),
        "card of a subfolder": lambda: (version / "variables" / MODEL_CARD).write_text("{}"),
    }[change]()
    assert digest(version) != before


def test_card_readme_place_and_empty_folders_do_not_count(version, tmp_path):
    before = digest(version)
    (version / MODEL_CARD).write_text('{"digest": 1}')
    (version / "README.md").unlink()
    (version / "assets").mkdir()
    shutil.move(version, tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("what", ["link", "link to a folder", "broken link", "pipe", "newline", "no folder"])
def test_refuses_what_is_no_plain_file(version, tmp_path, what):
    (tmp_path / "outside").mkdir()
    {
        "link": lambda: (version / "x").symlink_to(version / "saved_model.pb"),
        "link to a folder": lambda: (version / "x").symlink_to(tmp_path / "outside"),
        "broken link": lambda: (version / "x").symlink_to("nowhere"),
        "pipe": lambda: os.mkfifo(version / "x"),
        "newline": lambda: (version / "a\nb").write_bytes(b""),
        "no folder": lambda: shutil.rmtree(version),
    }[what]()
    with pytest.raises(UserError, match="Received"):
        digest(version)
