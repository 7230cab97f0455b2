"""File systems of the tests' own, which need root: small, read-only, gone for a while, cut off."""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
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


def fill(disk: Path) -> Path:
    """A ballast file that leaves not a single block."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            try:
                while True:
                    file.write(b"b" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    assert os.statvfs(disk).f_bavail == 0
    return ballast


PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs"}
LEAST = {"ext4": 1 << 20, "xfs": 300 << 20}

FS_IOC_SHUTDOWN = 0x8004587D
FLUSHED, LOG_FLUSHED, NOTHING_FLUSHED = 0, 1, 2  # what still reaches the disk when it is cut


def have(program: str) -> None:
    """Installs a program where that can be done; else skips, or fails: see `unavailable`."""
    if os.geteuid() != 0:
        unavailable("not root")
    if shutil.which(program) is None and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-qq", "-y", PACKAGES[program]]):
            subprocess.run(["apt-get", *words], env=environment, capture_output=True, check=False)
    if shutil.which(program) is None:
        unavailable(f"no {program}")


class Image:
    """A file system in a file, to be mounted, unmounted and cut off as often as a test likes."""

    def __init__(self, where: Path, size: int = 32 << 20, kind: str = "ext4") -> None:
        self.file = where / "image"
        self.path = where / "mounted"
        have(f"mkfs.{kind}")
        with self.file.open("wb") as file:
            file.truncate(max(size, LEAST[kind]))
        options = {"ext4": ["-F", "-m", "0"], "xfs": ["-f"]}[kind]
        try:
            run(f"mkfs.{kind}", "-q", *options, self.file)
        except OSError as error:
            unavailable(str(error))

    def mount(self) -> None:
        mount(self.path, "-o", "loop", self.file)

    def unmount(self) -> None:
        unmount(self.path)

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def cut(self, flush: int = NOTHING_FLUSHED) -> None:
        """The power goes: nothing reaches the disk any more but what `flush` says.

        What runs there gets EIO, or SIGBUS, and is to be killed before `after_the_cut`.
        """
        root = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(root, FS_IOC_SHUTDOWN, struct.pack("I", flush))
        finally:
            os.close(root)

    def after_the_cut(self) -> None:
        """Mounts it again. The kernel may still be taking the killed processes apart."""
        for _ in range(200):
            try:
                self.unmount()
                break
            except OSError as error:
                if "busy" not in str(error):
                    raise
                time.sleep(0.01)
        else:
            raise OSError(errno.EBUSY, "somebody still uses the file system that was cut off")
        self.mount()

    def __enter__(self) -> "Image":
        self.mount()
        return self

    def __exit__(self, *exc: object) -> None:
        if os.path.ismount(self.path):
            run("umount", "-l", self.path)
