"""Names of models that cannot be used, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.config import Config
from providers.errors import NotReady
from providers.mlx import MlxProvider
from providers.mlx.engines import Engines
from providers.registry import create
from providers.types import Request


def test_without_a_model_one_is_asked_for() -> None:
    with pytest.raises(NotReady, match=r"no model is named; .*--model"):
        create("mlx")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"there is no folder .*nowhere"):
        MlxProvider(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere-at-all", "~nobody-of-that-name/x"])
def test_a_name_that_looks_like_a_path_is_one(name: str) -> None:
    with pytest.raises(NotReady, match="there is no folder"):
        MlxProvider(name)


def test_a_folder_without_a_model_is_told_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(NotReady, match=r"no model\*\.safetensors, no tokenizer"):
        MlxProvider(str(tmp_path))


def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_told() -> None:
    with pytest.raises(NotReady, match=r"no folder 'qwen', and it is no id"):
        MlxProvider("qwen")


def test_a_hub_model_that_is_not_on_this_machine_is_told_by_a_check(tmp_path: Path) -> None:
    provider = MlxProvider("nobody/no-such-model", Config(hf_home=tmp_path))

    with pytest.raises(NotReady, match="hf download nobody/no-such-model"):
        provider.check()


def test_a_hub_model_that_cannot_be_downloaded_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    provider = MlxProvider("nobody/no-such-model", Config(hf_home=tmp_path), engines=Engines())

    with pytest.raises(NotReady, match="is not on this machine and cannot be downloaded") as told:
        provider.complete(Request([{"role": "user", "content": "Hello"}]))

    provider.engine.close()
    assert "\n" not in told.value.message


def test_a_model_in_the_hub_cache_is_found(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--somebody--model"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    MlxProvider("somebody/model", Config(hf_home=tmp_path)).check()
