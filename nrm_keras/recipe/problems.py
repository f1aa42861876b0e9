"""How mistakes in recipes are worded and raised: all of them at once, each with its place and a next step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nrm_keras.errors import UserError

LONGEST_SHOWN = 60


class RecipeError(UserError):
    """Everything that is wrong with a recipe, one line each.

    Args:
        problems: the lines, such as `recipes/x.yaml:4: norm.momentun: unknown key. Did you mean 'momentum'?`.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = tuple(dict.fromkeys(map(printable, [problems] if isinstance(problems, str) else problems)))
        super().__init__("\n".join(self.problems))


def by_place(problems: Iterable[str]) -> list[str]:
    """Sorted by line within each file; files in the order in which they are first mentioned."""
    files: dict[str, int] = {}

    def place(problem: str) -> tuple[int, int]:
        found = re.match(r"(.+?):(\d+): ", problem)
        file, line = (found[1], int(found[2])) if found else (problem.partition(":")[0], 0)
        return files.setdefault(file, len(files)), line

    return sorted(problems, key=place)


def printable(text: str) -> str:
    """One line without control characters, whatever a file's keys and names hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that looks most like `word`, whatever its case, or None."""
    import difflib  # only mistakes need it

    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Sequence[str], what: str = "Known") -> str:
    """The sentence that ends an error about an unknown word: the nearest known one, else all of them."""
    match = nearest(word, known)
    if match is not None:
        return f" Did you mean '{match}'?"
    return f" {what}: {', '.join(known)}." if known else ""


def shown(value) -> str:
    """A value the way a recipe would say it, cut where it is long."""
    text = _flow(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _flow(value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return repr(value)
