"""The shipped recipes: where they are, what they are called, how a name, NAME@variant or path becomes a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nrm_keras.errors import PROGRAM
from nrm_keras.recipe.nodes import Source
from nrm_keras.recipe.parsing import parse, read
from nrm_keras.recipe.problems import RecipeError, did_you_mean, nearest

SUFFIXES = (".yaml", ".yml")
PARTS = "base/"  # what other recipes extend; not runs
STUDIES = "studies/"  # grids of runs


@dataclass(frozen=True)
class Found:
    """A recipe's file.

    Args:
        path: absolute.
        name: `images/digits_adaptive` for a shipped recipe, the file's name without suffix for others.
        variants: those asked for with `@`, in order.
        shipped: whether it is one of the package's own.
    """

    path: str
    name: str
    variants: tuple[str, ...]
    shipped: bool

    @property
    def source(self) -> Source:
        return Source(label(self.path), os.path.dirname(self.path), self.shipped)


def root() -> Path:
    """The folder of the shipped recipes: inside the installed package, else beside it as in a clone."""
    package = Path(__file__).resolve().parent.parent
    candidates = (package / "recipes", package.parent / "recipes")
    for folder in candidates:
        if (folder / "base").is_dir():
            return folder.resolve()  # in a clone the first one is a link to the second
    tried = " and ".join(map(str, candidates))
    raise RecipeError(
        f"the shipped recipes belong to the package. Received: neither {tried} is there. Install it again."
    )


def names() -> list[str]:
    """The shipped recipes that can be run, in order."""
    return [name for name in _all_names() if not name.startswith((PARTS, STUDIES))]


def study_names() -> list[str]:
    """The shipped studies, in order, such as `studies/batch_size`."""
    return [name for name in _all_names() if name.startswith(STUDIES)]


def is_study(name: str) -> bool:
    """Whether a shipped study is called so, with or without `studies/` in front, and no recipe or file is."""
    return STUDIES + name.removeprefix(STUDIES) in study_names() and shipped(name.removeprefix(STUDIES)) is None


def find(text: str) -> Found:
    """The file that NAME, NAME@variant or a path (which ends with .yaml, or exists) stands for.

    Raises:
        RecipeError: there is none; the message names the nearest.
    """
    if "\0" in text:
        raise RecipeError("a path has no NUL character. Received one. Check the path.")
    base, variants = _split(text)
    if base.endswith(SUFFIXES) or os.path.isfile(base):
        return of_path(base, variants)
    found = shipped(base, variants)
    if found is None and os.path.exists(base):
        return of_path(base, variants)  # a directory or pipe: reading it says what is wrong
    if found is None and STUDIES + base in study_names():
        found = shipped(STUDIES + base)
    if found is None:
        raise RecipeError(f"no recipe is called '{base}'.{_suggestion(base)}")
    if found.name.startswith(PARTS):
        raise RecipeError(
            f"{base}: a part that recipes extend, not a run. Use it as 'extends: {base}'.{_suggestion(base)}"
        )
    if found.name.startswith(STUDIES):
        raise RecipeError(f"{base}: a study, not one run. Run it: {PROGRAM} study {base.removeprefix(STUDIES)}")
    return found


def find_study(text: str) -> Found:
    """The file that a study's name, with or without `studies/` in front, or a path stands for.

    Raises:
        RecipeError: there is none; the message names the nearest.
    """
    if text.endswith(SUFFIXES) or os.path.isfile(text):
        return of_path(text)
    name = STUDIES + text.removeprefix(STUDIES)
    if name not in study_names():
        known = [name.removeprefix(STUDIES) for name in study_names()]
        if shipped(text):
            raise RecipeError(f"{text}: a recipe, not a study. Run it: {PROGRAM} run {text}")
        hint = did_you_mean(text.removeprefix(STUDIES), known)
        raise RecipeError(
            f"no study is called '{text}'.{hint} A path ends with .yaml; '{PROGRAM} study' lists studies."
        )
    return Found(str(root() / f"{name}.yaml"), name, (), shipped=True)


def of_path(path: str, variants: tuple[str, ...] = ()) -> Found:
    """The recipe in a file; a shipped one when the file is the package's own."""
    absolute = os.path.abspath(os.path.expanduser(path))
    inside = os.path.relpath(os.path.realpath(absolute), os.path.realpath(root()))
    if not inside.startswith(os.pardir) and not os.path.isabs(inside):
        return Found(absolute, Path(inside).with_suffix("").as_posix(), variants, shipped=True)
    return Found(absolute, Path(absolute).stem, variants, shipped=False)


def shipped(name: str, variants: tuple[str, ...] = ()) -> Found | None:
    """The shipped recipe (or part) of that name, or None."""
    if name not in _all_names():
        return None
    return Found(str(root() / f"{name}.yaml"), name, variants, shipped=True)


def suggestion(name: str) -> str:
    """For an unknown shipped name in `extends`: the nearest one."""
    return _suggestion(name, parts=True)


def copy(name: str, dest: str) -> Path:
    """Copies a shipped recipe or study, to a file or into a directory; never overwrites.

    A relative `extends` becomes the shipped name, so that the copy works anywhere.
    """
    if "@" in name:
        base, _, variant = name.partition("@")
        raise RecipeError(
            f"cp copies a recipe with all its variants. Received: {name}. Copy '{base}', then run COPY@{variant}."
        )
    found = find_study(name) if is_study(name) else find(name)
    if not found.shipped:
        raise RecipeError(f"cp copies shipped recipes. Received: {name}. Copy your own file with the shell's cp.")
    target = Path(os.path.expanduser(dest))
    if target.is_dir() or dest.endswith(os.sep):
        target = target / os.path.basename(found.path)
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(_portable(found))
    except FileExistsError:
        raise RecipeError(
            f"{target}: cp never overwrites. Received: a path that exists. Name another, or remove it."
        ) from None
    except OSError as error:
        raise RecipeError(
            f"{target}: the copy cannot be written: {error.strerror}. Name a file in a folder that exists."
        ) from None
    return target


def label(path: str) -> str:
    """How messages call a file: relative to the shell's directory where it is below it; a shipped one from `recipes/` on."""
    relative = os.path.relpath(path)
    if not relative.startswith(os.pardir):
        return relative
    absolute = Path(path)
    return (Path("recipes") / absolute.relative_to(root())).as_posix() if absolute.is_relative_to(root()) else path


def _all_names() -> list[str]:
    folder = root()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and variants; an `@` in a folder's name, or in the name of a file that exists, starts no variant."""
    if os.path.exists(text):
        return text, ()
    folder, slash, last = text.rpartition("/")
    base, *variants = last.split("@")
    return folder + slash + base, tuple(variants)


def _suggestion(text: str, parts: bool = False) -> str:
    known = _all_names() if parts else names()
    short = {name.rpartition("/")[2]: name for name in known}
    match = nearest(text, known, cutoff=0.5) or short.get(nearest(text.rpartition("/")[2], short) or "")
    hint = f" Did you mean '{match}'?" if match else ""
    return f"{hint} A path ends with .yaml; 'python -m nrm_keras ls' lists the shipped recipes."


def _portable(found: Found) -> str:
    text = read(found.path, found.source.label)
    extends = parse(text, found.source, []).child("extends")
    if extends is None or not str(extends.value).endswith(SUFFIXES):
        return text
    parent = of_path(os.path.join(found.source.folder, extends.value))
    first, last = extends.span
    return text[:first] + parent.name + text[last:]
