"""Environments with the packages that a project asks for, made before its code runs and apart from it.

Only what is on the allow list, only wheels: nothing of a package runs while it is installed. `pip` works with this
machine's index, certificates and proxy, and sees nothing else of the environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tasks.sandbox.linux import base_python

ALWAYS = ("pytest",)
BUILD_S = 300.0
MOST_VENVS = 12
OLDEST_S = 30 * 86_400
LOOK_S = 0.1

_KEY = re.compile("[0-9a-f]{24}")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:~=|===?|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[\s*(?P<extras>{_NAME}(?:\s*,\s*{_NAME})*)\s*\])?"
    rf"\s*(?P<version>{_VERSION}(?:\s*,\s*{_VERSION})*)?"
)
_PIP_SETTINGS = (
    *(
        "INDEX_URL",
        "EXTRA_INDEX_URL",
        "FIND_LINKS",
        "NO_INDEX",
        "TRUSTED_HOST",
        "CERT",
        "CLIENT_CERT",
        "PROXY",
    ),
    *("DEFAULT_TIMEOUT", "RETRIES", "CONFIG_FILE", "CACHE_DIR", "KEYRING_PROVIDER"),
)
_KEPT = frozenset(
    {
        *(f"PIP_{name}" for name in _PIP_SETTINGS),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *(
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "HOME",
            "PATH",
            "TMPDIR",
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
        ),
    }
)
_PROJECTS_FAULT = ("No matching distribution found", "ResolutionImpossible", "Could not find a version")


class NotInstalled(Exception):
    """The packages are not there and nothing is to be said of the project: refused, no network, no time."""


class Unsatisfiable(Exception):
    """The project asks for versions that do not exist or do not go together."""


class BuildCancelled(NotInstalled):
    """The job was cancelled while its packages were installed."""


@cache
def allowed_packages() -> frozenset[str]:
    """The packages that come with us as known, by normalised name."""
    text = Path(__file__).with_name("allowed_packages.toml").read_text(encoding="utf-8")
    return frozenset(tomllib.loads(text)["packages"])


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def extra_packages(setting: str | None) -> frozenset[str]:
    """The names in ORCH_ALLOWED_PACKAGES."""
    return frozenset(normalised(name) for name in (setting or "").split(",") if name.strip())


def requirements(files: Mapping[str, str], extra: Collection[str] = ()) -> tuple[str, ...]:
    """What a project asks for, in one spelling and order, and what is always there.

    From its requirements.txt, or else the dependencies in its pyproject.toml.

    Raises:
        NotInstalled: It asks for something that is no plain name with versions, or not on the list.
    """
    lines, names = set[str](), set[str]()
    for line in _asked(files):
        found = _REQUIREMENT.fullmatch(line)
        if not found:
            raise NotInstalled(f"only names with versions are installed, not {line[:200]!r}")
        name = normalised(found["name"])
        if name not in allowed_packages() and name not in extra:
            raise NotInstalled(
                f"{name} is not on the list of allowed packages (ORCH_ALLOWED_PACKAGES adds to it)"
            )
        extras = ",".join(sorted(normalised(one) for one in (found["extras"] or "").split(",") if one))
        version = re.sub(r"\s", "", found["version"] or "")
        lines.add(f"{name}[{extras}]{version}" if extras else f"{name}{version}")
        names.add(name)
    return tuple(sorted(lines | (set(ALWAYS) - names)))


def _asked(files: Mapping[str, str]) -> list[str]:
    if "requirements.txt" in files:
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in files["requirements.txt"].splitlines())
        return [line for line in lines if line]
    try:
        project = tomllib.loads(files.get("pyproject.toml", "")).get("project", {})
        asked = [*project.get("dependencies", []), *project.get("optional-dependencies", {}).get("dev", [])]
    except (tomllib.TOMLDecodeError, AttributeError, TypeError):
        return []
    return [str(one).strip() for one in asked]


@contextmanager
def venv_for(wanted: tuple[str, ...], cache_dir: Path, cancelled: threading.Event) -> Iterator[Path]:
    """An environment with these packages, made now or found in `.venvs` there; it stays for as long as it is used.

    Raises:
        NotInstalled, Unsatisfiable: Why there is none.
    """
    folder = cache_dir / ".venvs"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\n".join((sys.version, sys.platform, *wanted)).encode()).hexdigest()[:24]
    venv = folder / key
    with _held(venv.with_suffix(".lock"), fcntl.LOCK_EX, cancelled):
        if not venv.is_dir():
            _make_room(folder, keep=key)
            _build(wanted, venv, cancelled)
        os.utime(venv)
    with _held(venv.with_suffix(".lock"), fcntl.LOCK_SH, cancelled):
        if not venv.is_dir():
            raise NotInstalled("the environment was removed again; too many are in use")
        yield venv


def _build(wanted: tuple[str, ...], venv: Path, cancelled: threading.Event) -> None:
    """Make it beside its place and move it there whole. What a killed worker left is in the way, and goes."""
    fresh = venv.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    due = time.monotonic() + BUILD_S
    try:
        python, inside = base_python(), str(fresh / "bin" / "python")
        has_pip = _has_pip(python)
        without = ["--without-pip"] if has_pip else []
        _run([python, "-I", "-m", "venv", *without, str(fresh)], cancelled, due)
        pip = [python if has_pip else inside, "-I", "-m", "pip", "--python", inside, "install"]
        options = ["--quiet", "--no-input", "--only-binary", ":all:", "--disable-pip-version-check"]
        _run([*pip, *options, *wanted], cancelled, due)
        _let_scripts_find_python(fresh)
        fresh.rename(venv)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _has_pip(python: str) -> bool:
    """Whether the interpreter has a pip that can install elsewhere: half the time of one for each environment."""
    command = [python, "-I", "-c", "import importlib.util as u, sys; sys.exit(not u.find_spec('pip'))"]
    return subprocess.run(command, env={}, check=False).returncode == 0  # noqa: S603


def _run(command: list[str], cancelled: threading.Event, due: float) -> None:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - pip, on names from the list
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            start_new_session=True,
            umask=0o022,
        )
        try:
            while process.poll() is None:
                if cancelled.wait(LOOK_S):
                    raise BuildCancelled("cancelled")
                if time.monotonic() > due:
                    raise NotInstalled(f"the packages were not installed within {BUILD_S:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if process.returncode == 0:
        return
    errors = sorted({line.strip() for line in said.splitlines() if line.startswith("ERROR:")})
    reason = _without_credentials("; ".join(errors) or said.strip()[-500:] or "pip failed")
    if any(sign in said for sign in _PROJECTS_FAULT) and not _unreachable(said):
        raise Unsatisfiable(reason[:2000])
    raise NotInstalled(f"the packages cannot be installed: {reason[:500]}")


def _unreachable(said: str) -> bool:
    """Whether pip met no index: then an unknown version says nothing of the project."""
    return "connection broken by" in said or "Could not fetch URL" in said


def _without_credentials(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in ours.items() if name.upper() in _KEPT}
    return kept | {"LANG": "C.UTF-8", "PYTHONUTF8": "1"}


def _let_scripts_find_python(venv: Path) -> None:
    """The scripts name the interpreter where it was made; it is moved, and seen elsewhere in a sandbox."""
    made = f"#!{venv}/bin/python".encode()
    for script in (venv / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        head, newline, rest = script.read_bytes().partition(b"\n")
        if newline and head.startswith(made):
            script.write_bytes(b"#!/usr/bin/env python3\n" + rest)


def _make_room(folder: Path, keep: str) -> None:
    """Remove what nobody used for long, and the longest unused beyond the bound; never what is in use."""
    venvs = [path for path in folder.iterdir() if _KEY.fullmatch(path.name)]
    used = {path: path.stat().st_mtime for path in venvs}
    newest_first = sorted(venvs, key=lambda path: used[path], reverse=True)
    for place, venv in enumerate(newest_first):
        if place >= MOST_VENVS - 1 or time.time() - used[venv] > OLDEST_S:
            _remove(venv)
    for left in folder.glob("*.new"):
        if _KEY.fullmatch(left.stem) and left.stem != keep:
            _remove(left.with_suffix(""))


def _remove(venv: Path) -> None:
    """Remove an environment, or what is left of one that was never finished, unless somebody holds its lock."""
    with suppress(OSError), venv.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Moved first: whoever looks meanwhile sees a whole one or none.
        going = venv.with_suffix(".new")
        shutil.rmtree(going, ignore_errors=True)
        if venv.is_dir():
            venv.rename(going)
            shutil.rmtree(going, ignore_errors=True)


@contextmanager
def _held(path: Path, kind: int, cancelled: threading.Event) -> Iterator[None]:
    """Hold a lock of this machine; waits, but not for a job that was cancelled."""
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if cancelled.wait(LOOK_S):
                    raise BuildCancelled("cancelled") from None
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
