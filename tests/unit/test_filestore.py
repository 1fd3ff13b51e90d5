"""What the store promises, tried on a real disk with real links, threads and processes (as root, too)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.atomic import is_temp, lock, opened, sweep, write_atomic
from orchestrator.filestore import ContentRefused, FileStore, WriteResult
from orchestrator.paths import TEMP_PREFIX, UnsafePath, safe_relative

_STALE = f"{TEMP_PREFIX}0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "outputs"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything below a folder: mode, and content or where a link points."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = (
            path.read_bytes() if stat.S_ISREG(mode) else str(path.readlink()) if stat.S_ISLNK(mode) else ""
        )
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def temps(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if is_temp(path.name)]


def process(script: str, *args: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def run_all(*processes: subprocess.Popen[bytes]) -> list[bytes]:
    answers = [each.communicate(timeout=20)[0] for each in processes]
    assert [each.returncode for each in processes] == [0] * len(processes)
    return answers


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in another thread."""
    done = threading.Event()

    def again() -> None:
        while not done.is_set():
            act()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(again)
        try:
            yield
        finally:
            done.set()
        other.result()


@contextmanager
def swapping(swapper: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process loose once it is ready, and end it; it must not have ended by itself."""
    assert swapper.stdout
    swapper.stdout.readline()
    try:
        yield
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.communicate()


# -- what a write does ------------------------------------------------------------------------------------


def test_a_write_makes_folders_and_file_and_says_what_is_on_disk(store: FileStore, root: Path) -> None:
    written = store.safe_write("src/app/main.py", "print('é')\n")

    data = "print('é')\n".encode()
    assert (root / "src/app/main.py").read_bytes() == data == store.read("src/app/main.py")
    digest = hashlib.sha256(data).hexdigest()
    assert written == WriteResult("src/app/main.py", digest, len(data), wrote=True, reason="created")
    assert store.sha256("src/app/main.py") == digest


def test_the_same_write_again_touches_nothing(store: FileStore, root: Path) -> None:
    first = store.safe_write("a/b.txt", b"same", 0o755)
    before = (root / "a/b.txt").stat()

    again = store.safe_write("a/b.txt", "same", 0o755)

    assert (again.wrote, again.reason, again.sha256) == (False, "nochange", first.sha256)
    after = (root / "a/b.txt").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_ino) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_ino,
    )


@pytest.mark.parametrize(
    ("content", "mode"), [("new!", 0o644), ("old.", 0o755), ("longer than it was", 0o644), ("", 0o644)]
)
def test_another_content_or_another_mode_is_an_update(
    store: FileStore, root: Path, content: str, mode: int
) -> None:
    store.safe_write("a.txt", "old.", 0o644)

    written = store.safe_write("a.txt", content, mode)

    assert (written.wrote, written.reason) == (True, "updated")
    assert (root / "a.txt").read_text() == content
    assert stat.S_IMODE((root / "a.txt").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("asked", "given"), [(0o644, 0o644), (0o777, 0o775), (0o7755, 0o755), (0o100666, 0o664)]
)
def test_the_mode_is_exact_whatever_the_umask_without_special_bits_or_world_write(
    store: FileStore, root: Path, asked: int, given: int
) -> None:
    umask = os.umask(0o077)
    try:
        store.safe_write("run.sh", "#!/bin/sh\n", asked)
    finally:
        os.umask(umask)

    assert stat.S_IMODE((root / "run.sh").stat().st_mode) == given
    assert store.safe_write("run.sh", "#!/bin/sh\n", asked).reason == "nochange"


def test_special_bits_that_others_set_are_taken_away(store: FileStore, root: Path) -> None:
    store.safe_write("tool", "x", 0o755)
    (root / "tool").chmod(0o4755)

    assert store.safe_write("tool", "x", 0o755).reason == "updated"
    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o755


def test_nothing_but_the_files_is_left_in_the_tree(store: FileStore, root: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", "a.txt"):
        store.safe_write(name, name)

    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == {
        "a.txt",
        "b/c.txt",
        "b/d/e.txt",
    }
    assert list(root.parent.iterdir()) == [root]


def test_too_long_a_content_is_refused_before_anything_is_made(root: Path) -> None:
    store = FileStore(root, max_file_bytes=4)

    with pytest.raises(ContentRefused, match=r"'a/b\.txt' has more than 4 bytes") as refused:
        store.safe_write("a/b.txt", "ééé")

    assert not root.exists()
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    assert store.safe_write("a/b.txt", "éé").size_bytes == 4


def test_half_a_surrogate_pair_from_a_models_json_is_refused(store: FileStore, root: Path) -> None:
    with pytest.raises(ContentRefused, match="surrogate pair at character 2"):
        store.safe_write("a.txt", "ab\ud800")

    assert not root.exists()


def test_a_disk_that_cannot_take_the_file_is_an_os_error_and_the_old_file_stays(
    store: FileStore, root: Path
) -> None:
    store.safe_write("a/b.txt", "old")
    script = """
import resource, sys
from pathlib import Path
from orchestrator.filestore import FileStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    FileStore(Path(sys.argv[1])).safe_write("a/b.txt", b"x" * 100_000)
except OSError as error:
    print(type(error).__name__, end="")
"""
    assert run_all(process(script, root)) == [b"OSError"]
    assert tree(root)["a/b.txt"][1] == b"old"
    assert temps(root) == []


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", "/tmp/x", "../x", "a/../../x", "a\0b", "NUL", "a/" * 40 + "b", "x" * 255, "a\\b", "é", _STALE],
)
def test_a_refused_name_makes_nothing_and_reads_nothing(store: FileStore, root: Path, path: str) -> None:
    acts: list[Callable[[], object]] = [
        lambda: store.safe_write(path, "x"),
        lambda: store.read(path),
        lambda: store.sha256(path),
    ]
    for act in acts:
        with pytest.raises(UnsafePath):
            act()
    assert not store.verify(path, hashlib.sha256(b"x").hexdigest())
    assert not root.exists()


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/secret"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_anywhere_in_the_path_is_refused(
    store: FileStore, root: Path, outside: Path, link: str, dangling: bool
) -> None:
    here = root / link
    here.parent.mkdir(parents=True)
    target = outside / "missing" if dangling else outside / "secret" if link.endswith("secret") else outside
    here.symlink_to(target)
    before = tree(outside)

    for act in (lambda: store.safe_write("a/b/secret", "x"), lambda: store.read("a/b/secret")):
        with pytest.raises(UnsafePath, match="symbolic link"):
            act()

    assert not store.verify("a/b/secret", hashlib.sha256(b"secret").hexdigest())
    assert tree(outside) == before
    assert here.is_symlink()
    assert list(store.files()) == []


def test_a_link_to_a_folder_inside_the_root_is_refused_too(store: FileStore, root: Path) -> None:
    store.safe_write("real/a.txt", "x")
    (root / "link").symlink_to("real")

    with pytest.raises(UnsafePath, match="goes through 'link'"):
        store.safe_write("link/a.txt", "y")


def test_a_file_where_a_folder_is_needed_is_refused(store: FileStore) -> None:
    store.safe_write("a", "x")

    with pytest.raises(UnsafePath, match="path 'a/b' goes through 'a', which is a file"):
        store.safe_write("a/b", "y")
    assert store.read("a") == b"x"


def test_a_folder_where_the_file_should_be_is_refused(store: FileStore) -> None:
    store.safe_write("a/b", "x")

    for act in (lambda: store.safe_write("a", "y"), lambda: store.read("a")):
        with pytest.raises(UnsafePath, match="is a folder"):
            act()


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_a_pipe_socket_or_device_at_the_target_is_refused_without_waiting(
    store: FileStore, root: Path, kind: int
) -> None:
    root.mkdir(parents=True)
    try:
        os.mknod(root / "odd", kind | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this host lets nobody make such a node here")

    for act in (lambda: store.safe_write("odd", "x"), lambda: store.read("odd")):
        with pytest.raises(UnsafePath, match="device, a pipe or a socket"):
            act()
    assert stat.S_IFMT((root / "odd").lstat().st_mode) == kind
    assert list(store.files()) == []


@pytest.mark.parametrize(
    ("there", "new"),
    [("README.md", "readme.md"), ("Src/a.py", "src/b.py"), ("a/B/c", "a/b/c"), ("A", "a/b"), ("a/b", "A")],
)
def test_a_name_that_differs_only_in_case_from_what_is_there_is_refused(
    store: FileStore, root: Path, there: str, new: str
) -> None:
    store.safe_write(there, "x")
    before = tree(root)

    with pytest.raises(UnsafePath, match="differs only in case"):
        store.safe_write(new, "x")
    assert tree(root) == before


def test_a_hard_link_is_replaced_and_its_other_name_keeps_the_old_content(
    store: FileStore, root: Path, outside: Path
) -> None:
    root.mkdir(parents=True)
    os.link(outside / "secret", root / "a.txt")
    before = tree(outside)

    assert store.safe_write("a.txt", "mine", 0o755).reason == "updated"
    assert store.read("a.txt") == b"mine"
    assert tree(outside) == before


def test_a_root_that_is_a_file_is_the_callers_mistake_and_no_unsafe_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(OSError, match="exists"):
        FileStore(tmp_path / "file").safe_write("a", "x")


_NAMES = st.sampled_from(
    ["", ".", "..", "a", "b", "A", "link", "file_link", "loop", "~", "C:", "pipe", "a\\b", "é", "x" * 300]
)
_PATHS = st.one_of(st.text(max_size=40), st.lists(_NAMES, max_size=6).map("/".join))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=_PATHS, content=st.binary(max_size=20), absolute=st.booleans())
def test_no_path_whatsoever_changes_anything_outside_the_root(
    tmp_path: Path, root: Path, outside: Path, path: str, content: bytes, absolute: bool
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, target in (("link", "../../outside"), ("file_link", "../../outside/secret"), ("loop", "loop")):
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)
    if not (root / "pipe").exists():
        os.mkfifo(root / "pipe")
    if absolute:
        path = f"{tmp_path}/outside/{path}"

    def outer() -> dict[str, tuple[int, bytes | str]]:
        return {name: what for name, what in tree(tmp_path).items() if not name.startswith("runs/outputs/")}

    before = outer()
    with suppress(UnsafePath):
        store = FileStore(root)
        written = store.safe_write(path, content)
        assert store.read(written.path) == content
        assert (root / safe_relative(path)).resolve().is_relative_to(root)
    assert outer() == before
    assert temps(tmp_path) == []


def test_a_folder_that_is_swapped_for_a_link_while_we_write_lets_nothing_out(
    store: FileStore, root: Path, outside: Path
) -> None:
    before = tree(outside)
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    swapper = process(
        """
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None)
print(flush=True)
failed = 0
while not failed:  # each call exchanges the two at once, so that the name is never missing
    if sys.platform == "darwin":
        failed = libc.renamex_np(b"sub", b"link", 2)
    else:
        failed = libc.renameat2(-100, b"sub", -100, b"link", 2)
""",
        root,
    )
    outcomes: set[str] = set()
    with swapping(swapper):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                outcomes.add(store.safe_write("sub/a.txt", "x").reason)
            except UnsafePath:
                outcomes.add("refused")

    assert tree(outside) == before
    assert outcomes == {"created", "nochange", "refused"}


def test_a_file_that_is_swapped_for_a_link_while_we_write_is_never_written_through(
    store: FileStore, root: Path, outside: Path
) -> None:
    store.safe_write("a.txt", "x")
    before = tree(outside)

    swapper = process(
        """
import os, sys
os.chdir(sys.argv[1])
print(flush=True)
while True:
    os.symlink(sys.argv[2], "link")
    os.rename("link", "a.txt")
    os.close(os.open("plain", os.O_CREAT))
    os.rename("plain", "a.txt")
""",
        root,
        outside / "secret",
    )
    with swapping(swapper):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with suppress(UnsafePath):
                store.safe_write("a.txt", os.urandom(6))
            for _ in range(20):
                with suppress(UnsafePath):
                    assert store.read("a.txt") != b"secret"

    assert tree(outside) == before


# -- many writers -----------------------------------------------------------------------------------------


def test_of_many_threads_with_the_same_file_one_makes_it_and_the_others_see_it(store: FileStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        written = list(pool.map(lambda _: store.safe_write("a/b/c.txt", "same"), range(64)))

    assert sorted(each.reason for each in written) == ["created"] + ["nochange"] * 63


def test_of_two_spellings_by_many_threads_only_one_gets_in(store: FileStore) -> None:
    def write(number: int) -> str:
        with suppress(UnsafePath):
            return store.safe_write("Readme.md" if number % 2 else "README.md", str(number)).path
        return ""

    with ThreadPoolExecutor(16) as pool:
        names = set(pool.map(write, range(64))) - {""}

    assert len(names) == 1
    assert set(store.files()) == names


def test_processes_that_write_one_file_at_once_never_show_a_reader_half_of_it(
    store: FileStore, root: Path
) -> None:
    script = """
import sys
from pathlib import Path
from orchestrator.filestore import FileStore
store, letter = FileStore(Path(sys.argv[1])), sys.argv[2].encode()
for length in range(60):
    store.safe_write("a/b.txt", letter * (50_000 + length))
"""
    store.safe_write("a/b.txt", "-")
    writers = [process(script, root, letter) for letter in "wxyz"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = store.read("a/b.txt")
        assert len(set(content)) == 1
        seen.add(content[:1])
    run_all(*writers)

    assert len(seen) > 1
    assert tree(root).keys() == {"a", "a/b.txt"}


def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one(
    store: FileStore, root: Path
) -> None:
    script = """
import sys
from pathlib import Path
from orchestrator.filestore import FileStore
store = FileStore(Path(sys.argv[1]))
print(flush=True)
while True:
    for letter in (b"x", b"y"):
        store.safe_write("a/b.bin", letter * 1_000_000)
"""
    store.safe_write("a/b.bin", b"-" * 1_000_000)
    litter = 0
    for _ in range(25):
        writer = process(script, root)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        content = store.read("a/b.bin")
        assert (len(content), len(set(content))) == (1_000_000, 1)
        litter += len(temps(root))
        assert list(store.files()) == ["a/b.bin"]

    store.safe_write("a/c.txt", "a later writer")

    assert litter, "no kill met a writer at work: this test has shown nothing"
    assert temps(root) == []


def test_what_a_killed_writer_left_is_removed_even_by_a_write_that_changes_nothing(
    store: FileStore, root: Path
) -> None:
    store.safe_write("a/b.txt", "x")
    for folder in (root, root / "a"):
        (folder / _STALE).write_text("half")
    assert list(store.files()) == ["a/b.txt"]

    store.safe_write("a/b.txt", "x")

    assert tree(root).keys() == {"a", "a/b.txt"}


def test_a_sweep_leaves_the_file_of_a_living_writer(tmp_path: Path) -> None:
    with (tmp_path / _STALE).open("w") as file, opened(tmp_path) as folder:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(folder)
        assert temps(tmp_path)
    with opened(tmp_path) as folder:
        sweep(folder)
    assert temps(tmp_path) == []


def test_writers_that_share_no_lock_do_not_sweep_each_other_away(tmp_path: Path) -> None:
    def write(number: int) -> None:
        write_atomic(tmp_path / f"{number % 5}.json", str(number).encode())

    with opened(tmp_path) as folder, meanwhile(lambda: sweep(folder)), ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(800)))

    assert tree(tmp_path).keys() == {f"{number}.json" for number in range(5)}


# -- reading back -----------------------------------------------------------------------------------------


def test_files_gives_what_is_there_sorted_without_links_and_half_written_files(
    store: FileStore, root: Path, outside: Path
) -> None:
    assert list(store.files()) == []
    for name in ("b/z.txt", "b/a.txt", "a.txt", "b-c", ".env.example"):
        store.safe_write(name, "x")
    (root / "folder_link").symlink_to(outside)
    (root / "file_link").symlink_to(outside / "secret")
    (root / "b" / _STALE).write_text("half")
    (root / "empty").mkdir()

    assert list(store.files()) == sorted(["b/z.txt", "b/a.txt", "a.txt", "b-c", ".env.example"])


def test_verify_tells_the_file_of_a_manifest_from_a_changed_or_missing_one(
    store: FileStore, root: Path
) -> None:
    digest = store.safe_write("a.txt", "x").sha256

    assert store.verify("a.txt", digest)
    assert not store.verify("missing/b.txt", digest)
    (root / "a.txt").write_text("y")
    assert not store.verify("a.txt", digest)


def test_what_is_missing_is_not_found_and_not_unsafe(store: FileStore) -> None:
    for path in ("a.txt", "a/b.txt"):
        with pytest.raises(FileNotFoundError):
            store.read(path)


def test_a_file_that_grew_too_long_is_not_read_into_memory(root: Path) -> None:
    store = FileStore(root, max_file_bytes=10)
    store.safe_write("a", "x")
    (root / "a").write_bytes(b"x" * 11)

    with pytest.raises(ContentRefused, match="more than 10 bytes"):
        store.read("a")
    assert store.sha256("a") == hashlib.sha256(b"x" * 11).hexdigest()


# -- the building blocks ----------------------------------------------------------------------------------


def test_write_atomic_replaces_a_file_and_sweeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / _STALE).write_text("half")

    write_atomic(tmp_path / "manifest.json", b"{}")
    write_atomic(tmp_path / "manifest.json", b"[]", 0o600)

    assert tree(tmp_path) == {"manifest.json": (stat.S_IFREG | 0o600, b"[]")}


def test_the_content_is_on_disk_before_its_name_and_the_name_before_return(store: FileStore) -> None:
    store.safe_write("a/b.txt", "x")
    calls = []

    def note(_frame: object, event: str, function: object) -> None:
        if event == "c_call" and function in (os.fsync, os.rename):
            calls.append(function)

    sys.setprofile(note)
    try:
        store.safe_write("a/b.txt", "y")
    finally:
        sys.setprofile(None)

    assert calls == [os.fsync, os.rename, os.fsync]


def test_a_lock_keeps_out_threads_and_processes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from orchestrator.atomic import lock
folder = Path(sys.argv[1])
def add(_):
    with lock(folder / "lock"):
        (folder / "counter").write_text(str(int((folder / "counter").read_text()) + 1))
with ThreadPoolExecutor(4) as pool:
    list(pool.map(add, range(100)))
"""
    run_all(*(process(script, tmp_path) for _ in range(4)))

    assert counter.read_text() == "400"


def test_a_directory_is_locked_without_a_trace(tmp_path: Path) -> None:
    with lock(tmp_path), opened(tmp_path) as folder, pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_free_after_use_although_a_child_inherited_it(tmp_path: Path) -> None:
    with lock(tmp_path / "lock") as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    try:
        with (tmp_path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.kill()
        child.wait()


def test_an_error_inside_the_lock_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path):
        raise KeyError

    with lock(tmp_path):
        pass
