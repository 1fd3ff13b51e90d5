"""Putting a finished project where the spec's `output_dir` says, never over a file that orch did not write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from orchestrator.atomic import write_atomic
from orchestrator.errors import OrchError
from orchestrator.filestore import FileStore
from orchestrator.paths import case_key
from orchestrator.progress import Progress
from orchestrator.records import OutputFile
from orchestrator.runfolder import RunFolder

LEDGER = ".orch.json"
"""In the output folder: path → sha256 of what orch wrote there."""
_LEDGER = TypeAdapter(dict[str, str])


class WouldOverwrite(OrchError):
    """The output folder has files that are not orch's."""


def publish(folder: RunFolder, project: str, files: Iterable[OutputFile], target: Path) -> int:
    """Copy a project's files below `target`, all or none. Returns how many were created or updated.

    Raises:
        WouldOverwrite: A file there differs and is not as orch left it.
    """
    if target.exists() and not target.is_dir():
        raise WouldOverwrite(f"{target} is not a folder. Move it, or change output_dir")
    source, store = FileStore(folder.outputs / project), FileStore(target)
    wanted = {file.path.removeprefix(f"{project}/"): file for file in files}
    ours = _ledger(target)
    foreign = [
        path
        for path, file in wanted.items()
        if path == LEDGER
        or (
            _in_the_way(target, path)
            and not store.verify(path, file.sha256)
            and not (path in ours and store.verify(path, ours[path]))
        )
    ]
    if foreign:
        shown = ", ".join(foreign[:5]) + (" …" if len(foreign) > 5 else "")
        raise WouldOverwrite(
            f"{target} has files that orch did not write: {shown}. Move them, or change output_dir"
        )
    if lost := [path for path, file in wanted.items() if not source.verify(path, file.sha256)]:
        raise OrchError(f"{folder.outputs / project} no longer holds {', '.join(lost[:5])} as it was made")
    if not wanted:
        return 0
    written = [store.safe_write(path, source.read(path), file.mode) for path, file in wanted.items()]
    ledger = ours | {one.path: one.sha256 for one in written}
    write_atomic(target / LEDGER, json.dumps(ledger, indent=1, sort_keys=True).encode())
    return sum(one.wrote for one in written)


def publish_finished(folder: RunFolder, progress: Progress) -> Path | None:
    """Put the project of a job that succeeded where its spec wants it. Returns that place, None where there is none."""
    target = folder.output_dir()
    if progress.status == "succeeded" and target:
        publish(folder, str(progress.about["project"]), progress.files.values(), target)
    return target


def _ledger(target: Path) -> dict[str, str]:
    try:
        return _LEDGER.validate_json((target / LEDGER).read_bytes())
    except (OSError, ValidationError):
        return {}


def _in_the_way(target: Path, path: str) -> bool:
    """Whether something is there under that name, in any case, or is no folder where the path needs one."""
    here = target
    for part in PurePosixPath(path).parts:
        if here.is_symlink() and here != target:
            return True
        try:
            found = [one.name for one in here.iterdir() if case_key(one.name) == case_key(part)]
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True
        if found not in ([], [part]):
            return True
        here /= part
    return os.path.lexists(here)
