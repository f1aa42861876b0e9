"""What is installed: the wheel has everything, and works away from the source."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package installed from a wheel into a folder of its own, without its dependencies, which are here."""
    folder = tmp_path_factory.mktemp("wheel")
    # a copy, so that building leaves nothing in the source
    source = folder / "source"
    for folder_name in ("nrm_keras", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder_name, source / folder_name, symlinks=True, ignore=ignored)
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    built = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source))
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def files(root, suffix):
    return {str(path.relative_to(root)) for path in root.rglob(f"*{suffix}")}


def test_the_wheel_holds_every_module_recipe_and_template(installed):
    assert not (installed / "tests").exists() and not (installed / "recipes").exists()
    assert files(installed / "nrm_keras", ".py") == files(ROOT / "nrm_keras", ".py")
    assert files(installed / "nrm_keras" / "recipes", ".yaml") == files(ROOT / "recipes", ".yaml")
    assert files(installed / "nrm_keras" / "report", ".html") == files(ROOT / "nrm_keras" / "report", ".html")
    assert (installed / "nrm_keras" / "py.typed").exists()


def test_the_wheel_runs_from_another_directory(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "TF_CPP_MIN_LOG_LEVEL": "3"}
    where = python("-P", "-c", "import nrm_keras; print(nrm_keras.__file__)", cwd=tmp_path, env=environment)
    assert where.stdout.startswith(str(installed)), "the test must not see the source"
    listed = python("-m", "nrm_keras", "ls", cwd=tmp_path, env=environment)
    assert "images/digits_adaptive" in listed.stdout
    ran = python("-m", "nrm_keras", "run", "images/digits_adaptive@mlp", "--smoke", cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "runs" / "images").glob("digits_adaptive@mlp/*/report.html"))


def test_importing_the_package_imports_no_tensorflow():
    code = "import sys, nrm_keras; print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)), nrm_keras.__version__)"
    assert python("-c", code, cwd=ROOT).stdout.startswith("[] ")


def test_public_names_are_there():
    import nrm_keras

    for name in nrm_keras.__all__:
        assert getattr(nrm_keras, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lairs'"):
        nrm_keras.lairs  # noqa: B018
