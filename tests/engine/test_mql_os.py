"""mql_os: does the one page that asks everything of the system keep its word on this one?"""

import errno
import mmap
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, byref, c_char_p, c_long, c_size_t, c_void_p
from pathlib import Path
from typing import ClassVar

import pytest
from support import engine

ffi, lib = engine.load()

NO_TIME = 0
FOR_EVER = -1
A_WHILE = 10_000_000_000  # a wait that a failing test would notice
PAGE = mmap.PAGESIZE
CSRC = Path(__file__).parents[2] / "csrc"


class Directory:
    """A directory through the engine's eyes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        out = ffi.new("mql_os_file *")
        assert lib.mql_os_open_root(bytes(path), out) == 0
        self.file = out[0]

    def try_open(self, name: str, flags: int = 0, mode: int = 0o600) -> tuple[int, int]:
        out = ffi.new("mql_os_file *", -1)
        return lib.mql_os_open(self.file, name.encode(), flags, mode, out), out[0]

    def open(self, name: str, flags: int | None = None, mode: int = 0o600) -> int:
        flags = lib.MQL_OS_WRITE | lib.MQL_OS_CREATE if flags is None else flags
        rc, file = self.try_open(name, flags, mode)
        assert rc == 0
        return file

    def stat(self, name: str):
        out = ffi.new("mql_os_stat *")
        assert lib.mql_os_stat_name(self.file, name.encode(), out) == 0
        return out


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    lib.mql_os_close(opened.file)


class Shared:
    """A page of memory that every process of a test sees."""

    def __init__(self, directory: Directory, length: int = PAGE) -> None:
        self.file = directory.open("shared")
        assert lib.mql_os_allocate(self.file, 0, length) == 0
        out = ffi.new("void **")
        assert lib.mql_os_map(self.file, length, True, out) == 0
        self.address = out[0]
        self.length = length

    @property
    def mutex(self):
        return ffi.cast("mql_os_mutex *", self.address)

    @property
    def word(self):
        return ffi.cast("uint32_t *", self.address)

    def close(self) -> None:
        lib.mql_os_unmap(self.address, self.length)
        lib.mql_os_close(self.file)


@pytest.fixture
def shared(directory: Directory) -> Iterator[Shared]:
    page = Shared(directory)
    yield page
    page.close()


class Child:
    """A forked process that runs a function and exits with its result, without any clean-up.

    `wait_until_ready` returns once the function called `ready`; `go` lets its `pause` return.
    """

    alive: ClassVar[list["Child"]] = []

    def __init__(self, body: Callable[["Child"], int]) -> None:
        self._ready = os.pipe()
        self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                code = body(self)
            finally:
                os._exit(code)
        self.alive.append(self)

    def ready(self) -> None:
        os.write(self._ready[1], b"r")

    def pause(self) -> None:
        os.read(self._go[0], 1)

    def wait_until_ready(self) -> None:
        assert os.read(self._ready[0], 1) == b"r"

    def go(self) -> None:
        os.write(self._go[1], b"g")

    def wait_until_asleep_in_a_futex(self) -> None:
        while "futex" not in Path(f"/proc/{self.pid}/wchan").read_text():
            pass

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def result(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.alive.remove(self)
        for fd in (*self._ready, *self._go):
            os.close(fd)
        return code


@pytest.fixture(autouse=True)
def no_child_outlives_a_failed_test() -> Iterator[None]:
    yield
    for child in list(Child.alive):
        child.kill()
        child.result()


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["MQL_OS_READ", "MQL_OS_WRITE", "MQL_OS_TRUNCATE"])
def test_a_link_is_not_followed_and_its_target_stays_as_it_was(directory: Directory, flags: str):
    (directory.path / "target").write_bytes(b"precious")
    (directory.path / "link").symlink_to("target")
    how = getattr(lib, flags) | lib.MQL_OS_WRITE | lib.MQL_OS_CREATE
    assert directory.try_open("link", how)[0] == -errno.ELOOP
    assert (directory.path / "target").read_bytes() == b"precious"
    assert directory.stat("link").kind == lib.MQL_OS_LINK


def test_a_dangling_link_creates_nothing(directory: Directory):
    (directory.path / "link").symlink_to("elsewhere")
    assert directory.try_open("link", lib.MQL_OS_WRITE | lib.MQL_OS_CREATE)[0] == -errno.ELOOP
    assert not (directory.path / "elsewhere").exists()


def test_a_link_to_a_directory_is_not_followed_either(directory: Directory):
    (directory.path / "real").mkdir()
    (directory.path / "link").symlink_to("real")
    (directory.path / "file").touch()
    out = ffi.new("mql_os_file *")
    assert lib.mql_os_open_directory(directory.file, b"link", out) == -errno.ELOOP
    assert lib.mql_os_open_directory(directory.file, b"file", out) == -errno.ENOTDIR
    assert lib.mql_os_open_directory(directory.file, b"none", out) == -errno.ENOENT
    assert lib.mql_os_open_directory(directory.file, b"real", out) == 0
    lib.mql_os_close(out[0])


@pytest.mark.parametrize("flags", ["MQL_OS_READ", "MQL_OS_WRITE"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "directory"])
def test_what_is_no_regular_file_is_refused_without_blocking(
    directory: Directory, kind: str, flags: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(directory.path)  # the path of a socket is short
    if kind == "fifo":
        os.mkfifo("odd")
    elif kind == "directory":
        os.mkdir("odd")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("odd")
    before = set(os.listdir("/proc/self/fd"))
    assert directory.try_open("odd", getattr(lib, flags))[0] == -errno.EINVAL
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_device_is_refused():
    devices = Directory(Path("/dev"))
    assert devices.try_open("null", lib.MQL_OS_WRITE)[0] == -errno.EINVAL
    lib.mql_os_close(devices.file)


def test_a_name_may_lead_through_directories(directory: Directory):
    d, out = directory.file, ffi.new("mql_os_file *")
    assert lib.mql_os_make_directory(d, b"a", 0o700) == 0
    assert lib.mql_os_make_directory(d, b"a/b", 0o700) == 0
    lib.mql_os_close(directory.open("a/b/file"))
    assert directory.stat("a/b/file").kind == lib.MQL_OS_REGULAR
    assert lib.mql_os_rename(d, b"a/b/file", b"a/moved") == 0
    assert lib.mql_os_rename_new(d, b"a/moved", b"a/b/again") == 0
    assert lib.mql_os_open_directory(d, b"a/b", out) == 0
    lib.mql_os_close(out[0])
    assert lib.mql_os_unlink(d, b"a/b/again") == 0
    assert lib.mql_os_remove_directory(d, b"a/b") == 0
    assert directory.try_open("a/none/file")[0] == -errno.ENOENT


def every_call(directory: Directory, name: bytes) -> set[int]:
    d, out = directory.file, ffi.new("mql_os_file *")
    (directory.path / "plain").touch()
    return {
        lib.mql_os_open(d, name, lib.MQL_OS_WRITE | lib.MQL_OS_CREATE, 0o600, out),
        lib.mql_os_open_directory(d, name, out),
        lib.mql_os_stat_name(d, name, ffi.new("mql_os_stat *")),
        lib.mql_os_rename(d, name, b"other"),
        lib.mql_os_rename(d, b"plain", name),
        lib.mql_os_rename_new(d, name, b"other"),
        lib.mql_os_rename_new(d, b"plain", name),
        lib.mql_os_unlink(d, name),
        lib.mql_os_make_directory(d, name, 0o700),
        lib.mql_os_remove_directory(d, name),
    }


def test_a_link_on_the_way_is_not_followed_by_any_call(directory: Directory, tmp_path: Path):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    before = set(os.listdir("/proc/self/fd"))
    assert every_call(directory, b"link/sub") == {-errno.ELOOP}
    assert every_call(directory, b"plain/sub") == {-errno.ENOTDIR}
    assert os.listdir(tmp_path / "real") == ["sub"]
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["", "..", "../x", "sub/..", "sub/../x", "/x", "sub//x", "sub/"])
def test_a_name_that_leads_out_is_refused_by_every_call(directory: Directory, name: str):
    (directory.path / "sub").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    assert every_call(directory, name.encode()) == {-errno.EINVAL}
    assert every_call(directory, b"x" * 256) == {-errno.ENAMETOOLONG}
    assert set(os.listdir("/proc/self/fd")) == before


def test_creating_gives_the_mode_and_exclusive_refuses_what_is_there(directory: Directory):
    how = lib.MQL_OS_WRITE | lib.MQL_OS_CREATE | lib.MQL_OS_EXCLUSIVE
    assert directory.try_open("file")[0] == -errno.ENOENT
    lib.mql_os_close(directory.open("file", how, 0o600))
    assert stat.S_IMODE((directory.path / "file").stat().st_mode) == 0o600
    assert directory.try_open("file", how)[0] == -errno.EEXIST


def test_truncate_empties_a_regular_file(directory: Directory):
    (directory.path / "file").write_bytes(b"old")
    file = directory.open("file", lib.MQL_OS_WRITE | lib.MQL_OS_TRUNCATE)
    assert (directory.path / "file").read_bytes() == b""
    lib.mql_os_close(file)


def test_no_descriptor_is_inherited_or_a_standard_one(directory: Directory):
    def body(_: Child) -> int:
        for fd in (0, 1, 2):
            os.close(fd)
        file = directory.open("file")
        return 0 if file > 2 and not os.get_inheritable(file) else 1

    assert Child(body).result() == 0


def test_reads_are_short_only_at_the_end_and_writes_are_whole(directory: Directory):
    file = directory.open("file")
    data = bytes(range(256)) * 1024
    assert lib.mql_os_write(file, data, len(data), 5) == 0
    buffer = ffi.new("char[]", len(data) + 100)
    assert lib.mql_os_read(file, buffer, len(data) + 100, 5) == len(data)
    assert ffi.buffer(buffer, len(data))[:] == data
    assert lib.mql_os_read(file, buffer, 10, 0) == 10
    assert ffi.buffer(buffer, 10)[:] == bytes(5) + data[:5]
    assert lib.mql_os_read(file, buffer, 10, len(data) + 5) == 0
    lib.mql_os_close(file)


def test_allocate_gives_real_blocks_of_zeros_behind_what_is_there(directory: Directory):
    file = directory.open("file")
    assert lib.mql_os_write(file, b"here", 4, 0) == 0
    assert lib.mql_os_allocate(file, 0, 64 * 1024) == 0
    status = ffi.new("mql_os_stat *")
    assert lib.mql_os_stat_file(file, status) == 0
    assert (status.size, status.kind) == (64 * 1024, lib.MQL_OS_REGULAR)
    assert status.allocated >= 64 * 1024
    assert (directory.path / "file").read_bytes() == b"here" + bytes(64 * 1024 - 4)
    assert lib.mql_os_allocate(file, 0, 0) == -errno.EINVAL
    lib.mql_os_close(file)


def test_a_file_size_limit_is_an_error_and_not_a_death(directory: Directory):
    file = directory.open("file")
    data = bytes(8192)

    def body(_: Child) -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python had it ignored
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        results = [
            lib.mql_os_allocate(file, 4096, 8192) == -errno.EFBIG,
            lib.mql_os_truncate(file, 8193) == -errno.EFBIG,
            lib.mql_os_write(file, data, 8192, 1) == -errno.EFBIG,
            lib.mql_os_allocate(file, 0, 8192) == 0,
            lib.mql_os_write(file, data, 8192, 0) == 0,
            lib.mql_os_truncate(file, 4096) == 0,
        ]
        return 0 if all(results) else 1 + results.index(False)

    assert Child(body).result() == 0
    lib.mql_os_close(file)


def test_a_file_over_the_limit_can_still_be_shortened(directory: Directory):
    file = directory.open("file")
    assert lib.mql_os_truncate(file, 100_000) == 0

    def body(_: Child) -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        return -lib.mql_os_truncate(file, 50_000)

    assert Child(body).result() == 0
    lib.mql_os_close(file)


@pytest.mark.parametrize("position", [-1, -(2**63), 2**63 - 1])
def test_places_outside_every_file_are_too_big(directory: Directory, position: int):
    file = directory.open("file")
    assert lib.mql_os_write(file, b"xy", 2, position) == -errno.EFBIG
    assert lib.mql_os_allocate(file, position, 2) == -errno.EFBIG
    lib.mql_os_close(file)


def test_stat_tells_what_the_system_tells(directory: Directory):
    path = directory.path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(0, 1_700_000_000_123_000_000))
    status, whole = directory.stat("file"), path.stat()
    assert (status.size, status.inode) == (5, whole.st_ino)
    assert status.device == os.major(whole.st_dev) << 32 | os.minor(whole.st_dev)
    assert status.modified_ms == 1_700_000_000_123
    file = directory.open("file")
    opened = ffi.new("mql_os_stat *")
    assert lib.mql_os_stat_file(file, opened) == 0
    assert (opened.device, opened.inode) == (status.device, status.inode)
    assert opened.mount == status.mount
    lib.mql_os_close(file)
    assert directory.path.is_dir()
    (directory.path / "sub").mkdir()
    assert directory.stat("sub").kind == lib.MQL_OS_DIRECTORY
    os.mkfifo(directory.path / "fifo")
    assert directory.stat("fifo").kind == lib.MQL_OS_OTHER


def test_two_mounts_have_two_ids_where_the_kernel_has_them(directory: Directory):
    version = tuple(int(n) for n in os.uname().release.split(".")[:2] if n.isdecimal())
    (directory.path / "file").touch()
    other = Directory(Path("/dev"))
    mounts = directory.stat("file").mount, other.stat("null").mount
    lib.mql_os_close(other.file)
    if version < (6, 8):
        assert mounts == (0, 0)
    else:
        assert mounts[0] != mounts[1]
        assert 0 not in mounts


def test_rename_replaces_and_rename_new_does_not(directory: Directory):
    (directory.path / "a").write_bytes(b"a")
    (directory.path / "b").write_bytes(b"b")
    assert lib.mql_os_rename_new(directory.file, b"a", b"b") == -errno.EEXIST
    assert (directory.path / "b").read_bytes() == b"b"
    assert lib.mql_os_rename(directory.file, b"a", b"b") == 0
    assert (directory.path / "b").read_bytes() == b"a"
    assert lib.mql_os_rename_new(directory.file, b"b", b"c") == 0
    assert os.listdir(directory.path) == ["c"]
    assert lib.mql_os_rename(directory.file, b"none", b"c") == -errno.ENOENT


def list_names(directory: Directory, each: Callable[[str], int]) -> int:
    callback = ffi.callback("int(void *, const char *)", lambda _, n: each(ffi.string(n).decode()))
    return lib.mql_os_list(directory.file, callback, ffi.NULL)


def test_a_listing_gives_every_name_once_and_no_dots(directory: Directory):
    names = {f"name-{i}" for i in range(300)}
    for name in names:
        (directory.path / name).touch()
    for _ in range(2):
        seen: list[str] = []
        assert list_names(directory, lambda name, seen=seen: seen.append(name) or 0) == 0
        assert sorted(seen) == sorted(names)


def test_a_listing_inside_a_listing_disturbs_neither(directory: Directory):
    for i in range(20):
        (directory.path / str(i)).touch()
    inner: list[str] = []
    outer: list[str] = []

    def each(name: str) -> int:
        outer.append(name)
        return list_names(directory, lambda name: inner.append(name) or 0)

    assert list_names(directory, each) == 0
    assert (len(outer), len(inner)) == (20, 400)


def test_a_listing_ends_with_the_first_result_that_is_not_zero(directory: Directory):
    (directory.path / "a").touch()
    (directory.path / "b").touch()
    seen: list[str] = []
    before = len(os.listdir("/proc/self/fd"))
    assert list_names(directory, lambda name: seen.append(name) or 7) == 7
    assert len(seen) == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_are_made_and_removed(directory: Directory):
    assert lib.mql_os_make_directory(directory.file, b"sub", 0o700) == 0
    assert stat.S_IMODE((directory.path / "sub").stat().st_mode) == 0o700
    assert lib.mql_os_make_directory(directory.file, b"sub", 0o700) == -errno.EEXIST
    assert lib.mql_os_sync_directory(directory.file) == 0
    assert lib.mql_os_unlink(directory.file, b"sub") == -errno.EISDIR
    assert lib.mql_os_remove_directory(directory.file, b"sub") == 0
    assert os.listdir(directory.path) == []


@pytest.mark.parametrize("tail", ["", "/", "//"])
def test_a_root_is_made_with_its_parents(tmp_path: Path, tail: str):
    root = tmp_path / "one" / "two" / "store"
    for _ in range(2):
        assert lib.mql_os_make_root(f"{root}{tail}".encode(), 0o700) == 0
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert root.parent.stat().st_mode & 0o500 == 0o500


def test_a_root_may_be_relative_and_lie_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert lib.mql_os_make_root(b"link/deep/store", 0o700) == 0
    assert lib.mql_os_make_root(b"here", 0o700) == 0
    assert (tmp_path / "real" / "deep" / "store").is_dir()
    assert (tmp_path / "here").is_dir()


def test_a_root_that_cannot_be_is_named_by_its_error(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert lib.mql_os_make_root(bytes(tmp_path / "file"), 0o700) == -errno.ENOTDIR
    assert lib.mql_os_make_root(bytes(tmp_path / "file" / "store"), 0o700) == -errno.ENOTDIR
    assert lib.mql_os_make_root(bytes(tmp_path / "dangling"), 0o700) == -errno.ENOENT
    assert lib.mql_os_make_root(b"", 0o700) == -errno.ENOENT
    assert lib.mql_os_make_root(b"x" * 5000, 0o700) == -errno.ENAMETOOLONG
    out = ffi.new("mql_os_file *")
    assert lib.mql_os_open_root(bytes(tmp_path / "none"), out) == -errno.ENOENT
    assert lib.mql_os_open_root(bytes(tmp_path / "file"), out) == -errno.ENOTDIR


def test_free_bytes_are_those_of_the_disk(directory: Directory):
    available, total = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    assert lib.mql_os_free_bytes(directory.file, available, total) == 0
    disk = os.statvfs(directory.path)
    assert total[0] == disk.f_blocks * disk.f_frsize
    assert 0 < available[0] <= total[0]


def test_an_ordinary_disk_is_trusted(directory: Directory):
    name = ffi.new("const char **")
    assert lib.mql_os_check_filesystem(directory.file, name) == 0
    assert lib.mql_os_no_copy_on_write(directory.file) == 0


def test_syncs_of_files_directories_and_any_part_of_a_mapping_succeed(
    directory: Directory, shared: Shared
):
    assert lib.mql_os_sync(shared.file) == 0
    assert lib.mql_os_sync_directory(directory.file) == 0
    assert lib.mql_os_sync_map(ffi.cast("char *", shared.address) + 100, 5) == 0
    assert lib.mql_os_sync(-1) == -errno.EBADF


# -- kernels and file systems that this machine does not have -----------------------------------

OTHER_KERNEL = """
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/vfs.h>
long fake_type;
int fake_fstatfs(int fd, struct statfs *out);
int fake_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int fake_madvise(void *address, size_t length, int advice);
int fake_fstatfs(int fd, struct statfs *out) {
    int rc = fstatfs(fd, out);
    if (fake_type != 0) out->f_type = fake_type;
    return rc;
}
int fake_renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    (void)a, (void)from, (void)b, (void)to, (void)flags;
    errno = EINVAL;
    return -1;
}
int fake_madvise(void *address, size_t length, int advice) {
    (void)address, (void)length, (void)advice;
    errno = EINVAL;
    return -1;
}
"""


@pytest.fixture(scope="module")
def other_kernel(tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    place = tmp_path_factory.mktemp("other_kernel")
    fake, library = place / "fake.c", place / "other_kernel.so"
    fake.write_text(OTHER_KERNEL)
    calls = ["fstatfs", "renameat2", "madvise"]
    compiler = shutil.which("gcc") or "cc"
    common = [compiler, "-std=c11", "-fPIC", "-I", str(CSRC)]
    renamed = [f"-D{call}=fake_{call}" for call in calls]
    source = str(CSRC / "mql_os_posix.c")
    subprocess.run([*common, *renamed, "-c", source, "-o", place / "os.o"], check=True)
    subprocess.run(
        [*common, "-shared", fake, place / "os.o", "-o", library, "-pthread"], check=True
    )
    return CDLL(str(library))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0x6969, b"NFS"),
        (0xFF534D42, b"CIFS"),
        (0xFE534D42, b"SMB"),
        (0x01021997, b"9p"),
        (0x65735546, b"FUSE"),
        (0x00C36400, b"Ceph"),
    ],
)
def test_a_file_system_with_caches_of_its_own_is_refused_by_name(
    directory: Directory, other_kernel: CDLL, kind: int, name: bytes
):
    c_long.in_dll(other_kernel, "fake_type").value = kind
    found = c_char_p()
    rc = other_kernel.mql_os_check_filesystem(directory.file, byref(found))
    assert (rc, found.value) == (-errno.ENOTSUP, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630])
def test_ext4_xfs_btrfs_tmpfs_and_overlay_are_trusted(
    directory: Directory, other_kernel: CDLL, kind: int
):
    c_long.in_dll(other_kernel, "fake_type").value = kind
    assert other_kernel.mql_os_check_filesystem(directory.file, byref(c_char_p())) == 0


@pytest.mark.slow
def test_rename_new_works_where_renaming_without_replacing_is_unknown(
    directory: Directory, other_kernel: CDLL
):
    (directory.path / "a").write_bytes(b"a")
    (directory.path / "b").write_bytes(b"b")
    assert other_kernel.mql_os_rename_new(directory.file, b"a", b"b") == -errno.EEXIST
    assert (directory.path / "b").read_bytes() == b"b"
    assert other_kernel.mql_os_rename_new(directory.file, b"a", b"c") == 0
    assert sorted(os.listdir(directory.path)) == ["b", "c"]


@pytest.mark.slow
def test_populating_on_a_kernel_that_cannot_is_no_failure(other_kernel: CDLL):
    assert other_kernel.mql_os_populate(c_void_p(PAGE), c_size_t(PAGE)) == 0


# -- mappings --------------------------------------------------------------------------------------


def test_a_mapping_is_the_file(directory: Directory, shared: Shared):
    assert lib.mql_os_write(shared.file, b"written", 7, 0) == 0
    assert ffi.buffer(shared.address, 7)[:] == b"written"
    ffi.buffer(shared.address, 7)[:] = b"through"
    assert (directory.path / "shared").read_bytes()[:7] == b"through"
    out = ffi.new("void **")
    assert lib.mql_os_map(shared.file, 0, False, out) == -errno.EINVAL


def test_a_read_only_file_is_not_mapped_for_writing(directory: Directory):
    (directory.path / "file").write_bytes(bytes(PAGE))
    file = directory.open("file", lib.MQL_OS_READ)
    out = ffi.new("void **")
    assert lib.mql_os_map(file, PAGE, True, out) == -errno.EACCES
    assert lib.mql_os_map(file, PAGE, False, out) == 0
    lib.mql_os_unmap(out[0], PAGE)
    lib.mql_os_close(file)


def test_populating_keeps_what_is_there_and_past_the_end_is_efault(directory: Directory):
    file = directory.open("file")
    assert lib.mql_os_allocate(file, 0, 2 * PAGE) == 0
    assert lib.mql_os_write(file, b"here", 4, 0) == 0
    out = ffi.new("void **")
    assert lib.mql_os_map(file, 4 * PAGE, True, out) == 0
    start = ffi.cast("char *", out[0])
    assert lib.mql_os_populate(start, 2 * PAGE) == 0
    assert lib.mql_os_populate(start + 10, 5) == 0
    assert (directory.path / "file").read_bytes()[:4] == b"here"
    assert lib.mql_os_populate(start + 2 * PAGE, PAGE) == -errno.EFAULT
    assert lib.mql_os_populate(start + 2 * PAGE - 1, 2) == -errno.EFAULT
    lib.mql_os_unmap(out[0], 4 * PAGE)
    lib.mql_os_close(file)


def in_tables(address: object) -> bool:
    """Whether this process reaches the page there without a fault."""
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(int(ffi.cast("uintptr_t", address)) // PAGE * 8)
        return int.from_bytes(pagemap.read(8), "little") >> 63 == 1


def test_unpopulating_takes_pages_out_of_the_tables_and_keeps_what_was_stored(
    directory: Directory,
):
    file = directory.open("file")
    assert lib.mql_os_allocate(file, 0, 3 * PAGE) == 0
    out = ffi.new("void **")
    assert lib.mql_os_map(file, 3 * PAGE, True, out) == 0
    start = ffi.cast("char *", out[0])
    assert lib.mql_os_populate(start, 3 * PAGE) == 0
    ffi.memmove(start + PAGE, b"stored", 6)
    lib.mql_os_unpopulate(start + PAGE, PAGE)
    assert [in_tables(start + n * PAGE) for n in range(3)] == [True, False, True]
    assert ffi.buffer(start + PAGE, 6)[:] == b"stored"
    assert lib.mql_os_sync_map(start, 3 * PAGE) == 0
    assert (directory.path / "file").read_bytes()[PAGE : PAGE + 6] == b"stored"
    lib.mql_os_unmap(out[0], 3 * PAGE)
    lib.mql_os_close(file)


def test_zeros_are_written_where_they_are_asked_for_and_nowhere_else(directory: Directory):
    file = directory.open("file")
    assert lib.mql_os_write(file, b"x" * 3 * PAGE, 3 * PAGE, 0) == 0
    assert lib.mql_os_write_zeros(file, PAGE - 7, PAGE + 10, 100) == 0
    expected = b"x" * (PAGE - 7) + bytes(PAGE + 10) + b"x" * (PAGE - 3)
    assert (directory.path / "file").read_bytes() == expected
    assert lib.mql_os_write_zeros(file, 0, 0, PAGE) == 0
    assert lib.mql_os_write_zeros(file, 0, PAGE, 0) == -errno.EINVAL
    assert lib.mql_os_write_zeros(file, 0, PAGE, 1 << 20) == -errno.EINVAL
    assert lib.mql_os_start_sync(file, 0, 3 * PAGE) == 0
    assert (directory.path / "file").read_bytes() == expected
    lib.mql_os_close(file)


# -- byte locks ------------------------------------------------------------------------------------


@pytest.fixture
def two(directory: Directory) -> Iterator[tuple[int, int]]:
    files = directory.open("lock"), directory.open("lock")
    yield files
    for file in files:
        lib.mql_os_close(file)


def test_one_description_holds_a_byte_exclusively(two: tuple[int, int]):
    mine, other = two
    assert lib.mql_os_lock(mine, 16, True) == 0
    assert lib.mql_os_lock(other, 16, True) == lib.MQL_OS_HELD
    assert lib.mql_os_lock(other, 16, False) == lib.MQL_OS_HELD
    assert lib.mql_os_lock(other, 17, True) == 0
    assert lib.mql_os_unlock(mine, 16) == 0
    assert lib.mql_os_lock(other, 16, True) == 0


def test_locks_convert_both_ways_unless_somebody_shares(two: tuple[int, int]):
    mine, other = two
    assert lib.mql_os_lock(mine, 1, True) == 0
    assert lib.mql_os_lock(mine, 1, False) == 0
    assert lib.mql_os_lock(other, 1, False) == 0
    assert lib.mql_os_lock(mine, 1, True) == lib.MQL_OS_HELD
    assert lib.mql_os_unlock(other, 1) == 0
    assert lib.mql_os_lock(mine, 1, True) == 0
    assert lib.mql_os_lock(other, 1, False) == lib.MQL_OS_HELD


def test_testing_sees_the_locks_of_others_and_not_ones_own(two: tuple[int, int]):
    mine, other = two
    assert lib.mql_os_lock(mine, 5, True) == 0
    assert lib.mql_os_lock_test(mine, 5) == 0
    assert lib.mql_os_lock_test(other, 5) == lib.MQL_OS_HELD
    assert lib.mql_os_lock_test(other, 6) == 0
    assert lib.mql_os_lock(mine, 5, False) == 0
    assert lib.mql_os_lock_test(other, 5) == lib.MQL_OS_HELD


def test_closing_the_description_drops_its_locks_but_not_those_of_another(directory: Directory):
    files = [directory.open("lock") for _ in range(3)]
    assert lib.mql_os_lock(files[0], 1, True) == 0
    lib.mql_os_close(files[1])  # the same file in the same process
    assert lib.mql_os_lock(files[2], 1, True) == lib.MQL_OS_HELD
    lib.mql_os_close(files[0])
    assert lib.mql_os_lock(files[2], 1, True) == 0
    lib.mql_os_close(files[2])


def test_a_lock_is_seen_by_another_process_and_dropped_by_a_kill(directory: Directory):
    def body(child: Child) -> int:
        assert lib.mql_os_lock(directory.open("lock"), 16, True) == 0
        child.ready()
        child.pause()
        return 1

    child = Child(body)
    child.wait_until_ready()
    file = directory.open("lock")
    assert lib.mql_os_lock(file, 16, True) == lib.MQL_OS_HELD
    assert lib.mql_os_lock_test(file, 16) == lib.MQL_OS_HELD
    child.kill()
    assert child.result() == -signal.SIGKILL
    assert lib.mql_os_lock(file, 16, True) == 0
    lib.mql_os_close(file)


def test_a_forked_child_keeps_the_lock_until_it_closes_the_descriptor(directory: Directory):
    held, other = directory.open("lock"), directory.open("lock")
    assert lib.mql_os_lock(held, 16, True) == 0

    def body(child: Child) -> int:
        child.pause()
        lib.mql_os_close(held)
        child.ready()
        child.pause()
        return 0

    child = Child(body)
    lib.mql_os_close(held)
    assert lib.mql_os_lock(other, 16, True) == lib.MQL_OS_HELD
    child.go()
    child.wait_until_ready()
    assert lib.mql_os_lock(other, 16, True) == 0
    child.go()
    assert child.result() == 0
    lib.mql_os_close(other)


# -- mutexes ---------------------------------------------------------------------------------------


@pytest.fixture
def mutex(shared: Shared):
    assert lib.mql_os_mutex_init_shared(shared.mutex) == 0
    return shared.mutex


def hold(mutex, then: Callable[[Child], int]) -> Child:
    def body(child: Child) -> int:
        assert lib.mql_os_mutex_take(mutex, FOR_EVER) == 0
        child.ready()
        child.pause()
        return then(child)

    child = Child(body)
    child.wait_until_ready()
    return child


def drop(mutex) -> int:
    lib.mql_os_mutex_drop(mutex)
    return 0


def test_a_shared_mutex_is_busy_while_another_process_is_inside(mutex):
    child = hold(mutex, lambda _: drop(mutex))
    assert lib.mql_os_mutex_try(mutex) == lib.MQL_OS_BUSY
    assert lib.mql_os_mutex_take(mutex, NO_TIME) == lib.MQL_OS_BUSY
    assert lib.mql_os_mutex_take(mutex, 1_000_000) == lib.MQL_OS_BUSY
    child.go()
    assert lib.mql_os_mutex_take(mutex, FOR_EVER) == 0
    assert child.result() == 0
    lib.mql_os_mutex_drop(mutex)


def test_dropping_a_mutex_wakes_who_waits_for_it_in_another_process(mutex):
    assert lib.mql_os_mutex_try(mutex) == 0
    child = Child(lambda _: lib.mql_os_mutex_take(mutex, A_WHILE))
    child.wait_until_asleep_in_a_futex()
    lib.mql_os_mutex_drop(mutex)
    assert child.result() == 0


def test_a_mutex_whose_owner_died_is_had_by_the_next_who_is_told(mutex):
    child = hold(mutex, lambda _: 3)
    child.go()
    assert lib.mql_os_mutex_take(mutex, A_WHILE) == lib.MQL_OS_OWNER_DIED
    assert child.result() == 3
    assert lib.mql_os_mutex_try(mutex) == lib.MQL_OS_BUSY
    lib.mql_os_mutex_consistent(mutex)
    lib.mql_os_mutex_drop(mutex)
    assert lib.mql_os_mutex_try(mutex) == 0
    lib.mql_os_mutex_drop(mutex)


def test_trying_tells_of_a_killed_owner_too(mutex):
    child = hold(mutex, lambda _: 0)
    child.kill()
    assert child.result() == -signal.SIGKILL
    assert lib.mql_os_mutex_try(mutex) == lib.MQL_OS_OWNER_DIED
    lib.mql_os_mutex_consistent(mutex)
    lib.mql_os_mutex_drop(mutex)


def test_a_death_that_nobody_repaired_is_an_error_from_then_on(mutex):
    child = hold(mutex, lambda _: 0)
    child.go()
    assert child.result() == 0
    assert lib.mql_os_mutex_try(mutex) == lib.MQL_OS_OWNER_DIED
    lib.mql_os_mutex_drop(mutex)
    assert lib.mql_os_mutex_take(mutex, FOR_EVER) == -errno.ENOTRECOVERABLE


def test_a_private_mutex_is_taken_and_dropped():
    private = ffi.new("mql_os_mutex *")
    assert lib.mql_os_mutex_init_private(private) == 0
    assert lib.mql_os_mutex_try(private) == 0
    assert lib.mql_os_mutex_take(private, 1000) == lib.MQL_OS_BUSY
    lib.mql_os_mutex_drop(private)
    assert lib.mql_os_mutex_take(private, FOR_EVER) == 0
    lib.mql_os_mutex_drop(private)


# -- waiting on a word -----------------------------------------------------------------------------


def test_a_word_that_has_changed_is_not_waited_for(shared: Shared):
    shared.word[0] = 7
    assert lib.mql_os_wait(shared.word, 6, A_WHILE) == lib.MQL_OS_WOKEN


@pytest.mark.parametrize("timeout", [-1, 0, 1, 1_000_000])
def test_a_wait_that_nobody_ends_times_out(shared: Shared, timeout: int):
    assert lib.mql_os_wait(shared.word, 0, timeout) == lib.MQL_OS_TIMED_OUT


def test_a_wake_reaches_a_waiter_in_another_process(shared: Shared):
    child = Child(lambda _: 10 + lib.mql_os_wait(shared.word, 0, A_WHILE))
    child.wait_until_asleep_in_a_futex()
    lib.mql_os_wake(shared.word, 1)
    assert child.result() == 10 + lib.MQL_OS_WOKEN


def test_a_wake_of_all_reaches_all(shared: Shared):
    children = [Child(lambda _: lib.mql_os_wait(shared.word, 0, A_WHILE)) for _ in range(3)]
    for child in children:
        child.wait_until_asleep_in_a_futex()
    lib.mql_os_wake(shared.word, 2**31 - 1)
    assert [child.result() for child in children] == [lib.MQL_OS_WOKEN] * 3


def test_a_signal_ends_a_wait(shared: Shared):
    def body(_: Child) -> int:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        return 10 + lib.mql_os_wait(shared.word, 0, A_WHILE)

    child = Child(body)
    child.wait_until_asleep_in_a_futex()
    child.kill(signal.SIGUSR1)
    assert child.result() == 10 + lib.MQL_OS_WOKEN


# -- threads ---------------------------------------------------------------------------------------


def in_thread(body: Callable[[], None]) -> None:
    callback = ffi.callback("void(void *)", lambda _: body())
    out = ffi.new("mql_os_thread **")
    assert lib.mql_os_thread_start(callback, ffi.NULL, out) == 0
    lib.mql_os_thread_join(out[0])


def test_a_thread_has_run_when_it_is_joined_and_bears_our_name():
    names: list[str] = []
    in_thread(lambda: names.append(Path("/proc/thread-self/comm").read_text()))
    assert names == ["mqlog\n"]


def test_a_thread_takes_no_signal_but_its_own_faults():
    masks: list[set[int]] = []
    mine = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    in_thread(lambda: masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
    blocked = masks[0]
    assert blocked >= {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM}
    assert not blocked & {signal.SIGSEGV, signal.SIGBUS}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mine


def test_fork_calls_what_was_asked_for_on_each_side(shared: Shared):
    def body(_: Child) -> int:
        called: list[str] = []
        callbacks = [
            ffi.callback("void(void)", lambda name=name: called.append(name))
            for name in ("before", "parent", "child")
        ]
        assert lib.mql_os_at_fork(*callbacks) == 0
        pid = os.fork()
        if pid == 0:
            os._exit(0 if called == ["before", "child"] else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status or (0 if called == ["before", "parent"] else 2)

    assert Child(body).result() == 0


# -- clocks and identity ---------------------------------------------------------------------------

MONOTONIC_COARSE = 6
REALTIME_COARSE = 5


@pytest.mark.parametrize(
    ("name", "clock", "unit"),
    [
        ("mql_os_now_ms", REALTIME_COARSE, 1_000_000),
        ("mql_os_wall_ms", time.CLOCK_REALTIME, 1_000_000),
        ("mql_os_monotonic_ns", getattr(time, "CLOCK_BOOTTIME", 7), 1),
        ("mql_os_coarse_ns", MONOTONIC_COARSE, 1),
    ],
)
def test_each_clock_is_the_one_that_the_header_names(name: str, clock: int, unit: int):
    before = time.clock_gettime_ns(clock) // unit
    now = getattr(lib, name)()
    assert before <= now <= time.clock_gettime_ns(clock) // unit


def test_the_time_of_the_last_tick_is_that_of_the_boot_clock_then() -> None:
    boot, since = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    suspended = max(time.clock_gettime_ns(boot) - time.clock_gettime_ns(since) for _ in range(100))
    seen = 0
    for _ in range(2000):
        tick = time.clock_gettime_ns(MONOTONIC_COARSE)
        then, now = lib.mql_os_tick_ns(), time.clock_gettime_ns(boot)
        assert then <= now
        if tick == time.clock_gettime_ns(MONOTONIC_COARSE):
            assert abs(then - tick - suspended) < 1_000_000
            seen += 1
    assert seen > 0


def test_all_threads_have_the_same_time_within_a_tick() -> None:
    """A thread that was told that something is due finds it with the clock of another."""

    def look(_: int) -> tuple[int, int, int]:
        before = time.clock_gettime_ns(MONOTONIC_COARSE)
        then = lib.mql_os_tick_ns()
        return before, then, time.clock_gettime_ns(MONOTONIC_COARSE)

    with ThreadPoolExecutor(4) as pool:
        looks = list(pool.map(look, range(20_000)))
    by_tick: dict[int, set[int]] = {}
    for before, then, after in looks:
        if before == after:
            by_tick.setdefault(before, set()).add(then)
    assert len(by_tick) > 1
    assert max(max(times) - min(times) for times in by_tick.values()) < 1_000_000


def test_a_sleep_goes_on_after_a_signal():
    asked = 20_000_000
    interrupted: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: interrupted.append(1))
    try:
        start = lib.mql_os_monotonic_ns()
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        lib.mql_os_sleep(asked)
        assert lib.mql_os_monotonic_ns() - start >= asked
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == [1]


def test_random_numbers_differ():
    assert len({lib.mql_os_random() for _ in range(100)}) == 100


def test_the_identity_is_that_of_boot_namespaces_and_c_library():
    one, two = ffi.new("mql_os_identity *"), ffi.new("mql_os_identity *")
    assert lib.mql_os_identify(one) == lib.mql_os_identify(two) == 0
    assert ffi.buffer(one)[:] == ffi.buffer(two)[:]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert ffi.buffer(one.boot)[:].hex() == boot
    assert one.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    assert one.time_namespace == os.stat("/proc/self/ns/time").st_ino
    assert one.c_library != 0
    assert lib.mql_os_process() == os.getpid()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a new PID namespace needs root")
def test_another_pid_namespace_is_another_identity(tmp_path: Path):
    script = """
from support import engine
ffi, lib = engine.load()
identity = ffi.new("mql_os_identity *")
assert lib.mql_os_identify(identity) == 0
print(identity.pid_namespace)
"""
    tests = Path(__file__).parents[1]
    here = ffi.new("mql_os_identity *")
    assert lib.mql_os_identify(here) == 0
    there = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(there.stdout) != here.pid_namespace


def test_memory_comes_zeroed():
    memory = lib.mql_os_allocate_memory(4096)
    assert ffi.buffer(memory, 4096)[:] == bytes(4096)
    lib.mql_os_free_memory(memory)
