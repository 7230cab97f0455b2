"""File systems of the tests' own, which need root: small, read-only, and gone for a while."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run(*command: object) -> None:
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(str(one) for one in command)}: {done.stderr.strip()}")


def unavailable(why: str) -> None:
    """Skips with the reason; as root in CI it fails instead: a tier that is never run is none."""
    if os.geteuid() == 0 and os.environ.get("CI", "") not in ("", "0", "false"):
        pytest.fail(f"root in CI must be able to mount: {why}")
    pytest.skip(f"{why}: this needs root, and a kernel that lets it mount")


def mount(path: Path, *words: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        unavailable("not root")
    try:
        run("mount", *words, path)
    except OSError as error:
        unavailable(str(error))


def unmount(path: Path) -> None:
    run("umount", path)


@contextmanager
def tmpfs(path: Path, size: str = "8m") -> Iterator[Path]:
    """A file system in memory that is full after `size`."""
    mount(path, "-t", "tmpfs", "-o", f"size={size}", "mqlog-test")
    try:
        yield path
    finally:
        run("umount", "-l", path)


class Image:
    """An ext4 file system in a file, to be mounted and unmounted as often as a test likes."""

    def __init__(self, where: Path, size: int = 32 << 20) -> None:
        self.file = where / "image"
        self.path = where / "mounted"
        with self.file.open("wb") as file:
            file.truncate(size)
        if os.geteuid() != 0:
            unavailable("not root")
        try:
            run("mkfs.ext4", "-q", "-F", "-m", "0", self.file)
        except OSError as error:
            unavailable(str(error))

    def mount(self) -> None:
        mount(self.path, "-o", "loop", self.file)

    def unmount(self) -> None:
        unmount(self.path)

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def __enter__(self) -> "Image":
        self.mount()
        return self

    def __exit__(self, *exc: object) -> None:
        if os.path.ismount(self.path):
            run("umount", "-l", self.path)
