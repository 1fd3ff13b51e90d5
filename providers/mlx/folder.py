"""Where a model lies: a folder that the user names, or the Hugging Face cache."""

from __future__ import annotations

import re
from pathlib import Path

from providers.errors import NotReady
from providers.mlx.question import NAME

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.jsonl", "*.txt", "*.jinja", "model*.safetensors", "tokenizer.model", "*.tiktoken"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def is_path(model: str) -> bool:
    """Whether a model's name means a folder of this machine; if so, nobody asks the network for it."""
    return model.startswith((".", "/", "~")) or Path(model).exists()


def check_name(model: str) -> None:
    """Raise NotReady when the name is neither a folder with a model in it nor an id of the hub."""
    if is_path(model):
        _check(_expanded(model))
    elif not _HUB_ID.fullmatch(model):
        raise NotReady(
            f"there is no folder {model!r}, and it is no id of the Hugging Face hub such as mlx-community/NAME",
            NAME,
        )


def find(model: str, hf_home: Path | None) -> Path | None:
    """Return the model's folder on this machine; None when it is on the hub at best.

    Raises:
        NotReady: The name means a folder, and there is no model in it.
    """
    check_name(model)
    if is_path(model):
        return _expanded(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy, and an extra
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        found = Path(
            snapshot_download(model, cache_dir=_cache(hf_home), allow_patterns=_FILES, local_files_only=True)
        )
        _check(found)
    except (LocalEntryNotFoundError, NotReady):
        return None
    return found


def fetch(model: str, hf_home: Path | None) -> Path:
    """Return the model's folder; it is downloaded when it is not on this machine. Nothing in it is executed.

    Raises:
        NotReady: It is neither here nor can it be had from the hub.
    """
    found = find(model, hf_home)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy, and an extra

    try:
        folder = Path(snapshot_download(model, cache_dir=_cache(hf_home), allow_patterns=_FILES))
    except Exception as error:
        raise NotReady(
            f"the model {model} is not on this machine and cannot be downloaded ({type(error).__name__}); "
            f"check the name and the network, or name a folder",
            NAME,
        ) from error
    _check(folder)
    return folder


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise NotReady(f"there is no folder {model}", NAME) from error


def _cache(hf_home: Path | None) -> Path | None:
    return hf_home / "hub" if hf_home else None


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise NotReady(f"there is no folder {folder}", NAME)
    missing = [what for what, there in _parts(folder) if not there]
    if missing:
        raise NotReady(f"{folder} is not a model that MLX can load: it has no {', no '.join(missing)}", NAME)


def _parts(folder: Path) -> list[tuple[str, bool]]:
    return [
        ("config.json", (folder / "config.json").is_file()),
        ("model*.safetensors", any(folder.glob("model*.safetensors"))),
        ("tokenizer", any((folder / name).is_file() for name in _TOKENIZERS)),
    ]
