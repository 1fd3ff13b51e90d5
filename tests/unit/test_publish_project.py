"""Putting a project where the user wants it: all of it or nothing, and never over what is not ours."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import OrchError
from orchestrator.filestore import FileStore
from orchestrator.publish import LEDGER, WouldOverwrite, publish
from orchestrator.records import OutputFile
from orchestrator.runfolder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "job_0123456789ab")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "src" / "generated"


def made(run: RunFolder, texts: dict[str, str], mode: int = 0o644) -> list[OutputFile]:
    """Write the files of a project into the run folder."""
    store = FileStore(run.outputs)
    for path, text in texts.items():
        store.safe_write(f"p/{path}", text, mode)
    return [
        OutputFile(
            path=f"p/{path}",
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            size_bytes=len(text.encode()),
            mode=mode,
        )
        for path, text in texts.items()
    ]


def tree(folder: Path) -> dict[str, str]:
    """Every entry below a folder but the ledger: a file's text, or where a link points."""
    return {
        str(path.relative_to(folder)): f"→ {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name != LEDGER
    }


TWO = {"a.txt": "a\n", "app/main.py": "print()\n"}


def test_a_project_is_copied_below_the_target_without_its_own_name(run: RunFolder, target: Path) -> None:
    assert publish(run, "p", made(run, TWO), target) == 2

    assert tree(target) == TWO
    assert set(json.loads((target / LEDGER).read_text())) == set(TWO)


def test_publishing_again_writes_nothing(run: RunFolder, target: Path) -> None:
    files = made(run, TWO)
    publish(run, "p", files, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.name != LEDGER}

    assert publish(run, "p", files, target) == 0
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.name != LEDGER} == before


def test_a_second_version_updates_what_orch_wrote_and_keeps_the_rest(run: RunFolder, target: Path) -> None:
    publish(run, "p", made(run, TWO), target)
    (target / "notes.md").write_text("the user's own")

    second = made(run, {"a.txt": "changed\n", "new.txt": "new\n"})
    assert publish(run, "p", second, target) == 2

    assert tree(target) == {**TWO, "a.txt": "changed\n", "new.txt": "new\n", "notes.md": "the user's own"}
    third = made(run, {"app/main.py": "print(3)\n", "a.txt": "third\n"})
    assert publish(run, "p", third, target) == 2


def test_a_file_that_orch_did_not_write_stays_and_nothing_else_is_written(
    run: RunFolder, target: Path
) -> None:
    (target / "app").mkdir(parents=True)
    (target / "app" / "main.py").write_text("the user's own")

    with pytest.raises(WouldOverwrite, match=r"app/main\.py"):
        publish(run, "p", made(run, TWO), target)

    assert tree(target) == {"app/main.py": "the user's own"}


def test_a_file_that_the_user_has_changed_since_stays(run: RunFolder, target: Path) -> None:
    publish(run, "p", made(run, TWO), target)
    (target / "a.txt").write_text("improved by hand")

    with pytest.raises(WouldOverwrite, match=r"a\.txt"):
        publish(run, "p", made(run, {"a.txt": "second\n", "b.txt": "b\n"}), target)

    assert tree(target) == {**TWO, "a.txt": "improved by hand"}


def test_a_foreign_file_that_is_already_as_wanted_is_no_hindrance(run: RunFolder, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "a.txt").write_text("a\n")

    assert publish(run, "p", made(run, TWO), target) == 1


def test_the_message_names_a_few_of_many_files(run: RunFolder, target: Path) -> None:
    many = {f"f{number}.txt": "ours\n" for number in range(9)}
    target.mkdir(parents=True)
    for path in many:
        (target / path).write_text("the user's own")

    with pytest.raises(WouldOverwrite, match=r"f0\.txt, .*f4\.txt …\."):
        publish(run, "p", made(run, many), target)


def test_the_mode_of_a_file_is_kept(run: RunFolder, target: Path) -> None:
    publish(run, "p", made(run, {"run.sh": "true\n"}, 0o755), target)

    assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o755


def test_a_project_without_files_needs_no_folder(run: RunFolder, target: Path) -> None:
    assert publish(run, "p", [], target) == 0


def test_the_target_may_be_a_link_to_a_folder(run: RunFolder, target: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    target.parent.mkdir(parents=True)
    target.symlink_to(real)

    publish(run, "p", made(run, TWO), target)

    assert tree(real) == TWO


# --- what may stand in the way ----------------------------------------------------------------------------------------


def link_to_a_file(target: Path, outside: Path) -> None:
    (outside / "theirs.txt").write_text("theirs")
    (target / "z.txt").symlink_to(outside / "theirs.txt")


def link_to_nothing(target: Path, outside: Path) -> None:
    (target / "z.txt").symlink_to(outside / "nothing")


def link_to_an_equal_file(target: Path, outside: Path) -> None:
    (outside / "equal.txt").write_text("z\n")
    (target / "z.txt").symlink_to(outside / "equal.txt")


def link_for_a_folder(target: Path, outside: Path) -> None:
    (target / "zz").symlink_to(outside)


def link_for_a_folder_with_the_file(target: Path, outside: Path) -> None:
    (outside / "z.txt").write_text("theirs")
    (target / "zz").symlink_to(outside)


def folder_for_a_file(target: Path, outside: Path) -> None:
    (target / "z.txt").mkdir()


def file_for_a_folder(target: Path, outside: Path) -> None:
    (target / "zz").write_text("theirs")


def pipe_for_a_file(target: Path, outside: Path) -> None:
    os.mkfifo(target / "z.txt")


def other_case(target: Path, outside: Path) -> None:
    (target / "Z.txt").write_text("theirs")


@pytest.mark.parametrize(
    "in_the_way",
    [
        link_to_a_file,
        link_to_nothing,
        link_to_an_equal_file,
        link_for_a_folder,
        link_for_a_folder_with_the_file,
        folder_for_a_file,
        file_for_a_folder,
        pipe_for_a_file,
        other_case,
    ],
)
def test_what_stands_in_the_way_is_one_clear_error_and_nothing_is_written(
    run: RunFolder, target: Path, tmp_path: Path, in_the_way: object
) -> None:
    # given a target in which something is in the way of the last file
    outside = tmp_path / "outside"
    outside.mkdir()
    target.mkdir(parents=True)
    assert callable(in_the_way)
    in_the_way(target, outside)
    before = tree(target), tree(outside)

    # when
    with pytest.raises(OrchError):
        publish(run, "p", made(run, {"a.txt": "a\n", "z.txt": "z\n", "zz/z.txt": "z\n"}), target)

    # then neither the target nor what the link points to has changed
    assert (tree(target), tree(outside)) == before


def test_a_file_in_the_targets_place_is_one_clear_error(run: RunFolder, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_text("theirs")

    with pytest.raises(OrchError):
        publish(run, "p", made(run, TWO), target)

    assert target.read_text() == "theirs"


def test_a_content_that_the_run_folder_lost_is_one_clear_error_and_nothing_is_written(
    run: RunFolder, target: Path
) -> None:
    files = made(run, TWO)
    (run.outputs / "p/app/main.py").unlink()

    with pytest.raises(OrchError):
        publish(run, "p", files, target)

    assert not target.exists() or tree(target) == {}


# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ledger", ["", "{", "[1]", "5", "null", '{"a.txt": 5}', '"text"', "\ufeff{}"])
def test_a_ledger_that_cannot_be_read_makes_every_file_foreign(
    run: RunFolder, target: Path, ledger: str
) -> None:
    publish(run, "p", made(run, TWO), target)
    (target / LEDGER).write_text(ledger)

    assert publish(run, "p", made(run, TWO), target) == 0
    (target / LEDGER).write_text(ledger)
    with pytest.raises(WouldOverwrite):
        publish(run, "p", made(run, {"a.txt": "second\n"}), target)


def test_a_project_cannot_write_the_ledger(run: RunFolder, target: Path) -> None:
    # given a user's file, and a project that brings a ledger of its own, which says that orch wrote it
    target.mkdir(parents=True)
    (target / "mine.txt").write_text("mine")
    forged = json.dumps({"mine.txt": hashlib.sha256(b"mine").hexdigest()})

    # when it is published, and then once more with that file
    for texts in ({LEDGER: forged}, {LEDGER: forged, "mine.txt": "overwritten\n"}):
        with suppress(OrchError):
            publish(run, "p", made(run, texts), target)

    # then the user's file is as it was
    assert (target / "mine.txt").read_text() == "mine"


def test_a_project_with_a_file_named_like_the_ledger_can_be_published_twice(
    run: RunFolder, target: Path
) -> None:
    files = made(run, {"a.txt": "a\n", LEDGER: "{}\n"})
    try:
        publish(run, "p", files, target)
    except OrchError:
        return  # refused at once, which is as good

    publish(run, "p", files, target)
