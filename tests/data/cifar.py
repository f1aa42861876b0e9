"""Tiny archives in CIFAR's exact binary formats."""

import io
import tarfile
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_archive(folder: Path, per_file: int = 20) -> Path:
    """`cifar-10-binary.tar.gz` with five training files and a test file of random pictures, each class alike in colour."""
    rng = np.random.default_rng(0)
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, "batches.meta.txt", "\n".join(CLASSES).encode() + b"\n")
        for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
            labels = rng.permutation(np.arange(per_file) % 10).astype("uint8")
            # one byte of label, then 1,024 bytes of red, of green and of blue
            pictures = rng.integers(0, 100, (per_file, 3072), dtype="uint8") + labels[:, None] * 15
            _add(archive, name, np.concatenate([labels[:, None], pictures.astype("uint8")], axis=1).tobytes())
    return path


def write_archive_100(folder: Path, train: int = 300, test: int = 100) -> tuple[Path, dict[str, np.ndarray]]:
    """`cifar-100-binary.tar.gz` of random pictures, and the bytes of `train.bin` and `test.bin` as rows."""
    rng = np.random.default_rng(0)
    path, rows = folder / "cifar-100-binary.tar.gz", {}
    with tarfile.open(path, "w:gz") as archive:
        _add(
            archive, "coarse_label_names.txt", "".join(f"coarse {i}\n" for i in range(20)).encode(), "cifar-100-binary"
        )
        _add(archive, "fine_label_names.txt", "".join(f"fine {i}\n" for i in range(100)).encode(), "cifar-100-binary")
        for name, count in (("train", train), ("test", test)):
            fine = np.arange(count) % 100
            pictures = rng.integers(0, 256, (count, 3072))
            # a byte of the coarse label, one of the fine label, then red, green and blue
            rows[name] = np.concatenate([fine[:, None] // 5, fine[:, None], pictures], axis=1).astype("uint8")
            _add(archive, f"{name}.bin", rows[name].tobytes(), "cifar-100-binary")
    return path, rows


def _add(archive: tarfile.TarFile, name: str, content: bytes, folder: str = "cifar-10-batches-bin") -> None:
    info = tarfile.TarInfo(f"{folder}/{name}")
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
