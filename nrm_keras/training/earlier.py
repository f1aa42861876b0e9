"""Finds the run of a recipe that was made before, where it can be told that it is what training again would give."""

from __future__ import annotations

from pathlib import Path

from nrm_keras.data import sources
from nrm_keras.errors import UserError
from nrm_keras.recipe.loading import Loaded, load
from nrm_keras.recipe.writing import difference
from nrm_keras.runs import directory, environment

CODE = ("nrm_keras", "tensorflow", "keras", "numpy")


def find(out: Path, loaded: Loaded) -> tuple[Path | None, str]:
    """The newest run with this resolved recipe, code and data, finished ones first.

    Returns:
        The run directory or None, and where a run of the recipe is there but not taken, why.
    """
    runs = [path for path in reversed(directory.find_all(out / loaded.name)) if same_recipe(path, loaded)]
    unlike = ""
    for path in sorted(runs, key=lambda path: directory.summary(path) is None):
        reason = _what_differs(path, loaded)
        if reason is None:
            return path, ""
        unlike = unlike or f"{path} {reason}"
    return None, unlike


def same_recipe(path: Path, loaded: Loaded, smoke: bool = False) -> bool:
    """Whether a run was made from this recipe, seed included and wherever its values stood, as a smoke test or not."""
    try:
        made_as = directory.environment(path)["run"]["smoke"]
        return made_as == smoke and not difference(load(path / directory.RECIPE).recipe, loaded.recipe)
    except (UserError, KeyError, TypeError):  # damaged: certainly not to be taken for it
        return False


def _what_differs(path: Path, loaded: Loaded) -> str | None:
    recorded = directory.environment(path)
    if loaded.recipe.imports:
        return "runs code of its own (imports), which may have changed."
    if loaded.recipe.train.init_from:
        return "began with weights of another file (train.init_from), which may have changed."
    here, there = environment.versions(), recorded.get("versions") or {}
    for name in CODE:
        if here.get(name) != there.get(name):
            return f"was made with {name} {there.get(name) or 'of unknown version'}; here is {here.get(name)}."
    if _code(environment.git_state()) != _code(recorded.get("git")):
        return "was made with another state of this package's code."
    if getattr(loaded.recipe.data, "path", None) and _data(loaded) != (recorded.get("data") or {}).get("fingerprint"):
        return "saw other data, which has changed since."
    return None


def _code(git: dict | None) -> tuple:
    return tuple((git or {}).get(name) for name in ("commit", "diff", "problem"))


def _data(loaded: Loaded) -> str:
    return sources.load(loaded.recipe.data, seed=loaded.recipe.train.seed).fingerprint()
