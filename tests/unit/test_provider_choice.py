"""Which provider, model and concurrency a job gets: flag, real environment, spec, `.env`, default, in that order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.choices import Choice, Flags, first, require_ready, resolve
from orchestrator.errors import EnvironmentNotReady, OrchError, UsageError
from orchestrator.jobs import about
from orchestrator.models import JobSpec
from orchestrator.settings import Settings, load_settings
from orchestrator.spec import LoadedSpec

FIELDS = ("PROVIDER", "PROVIDER_MODEL", "CONCURRENCY")
Resolve = Callable[..., Choice]
NOTHING_SET = Settings.model_construct()


def spec(**fields: Any) -> JobSpec:
    return JobSpec.model_validate({"project": "p", "task_description": "anything", **fields})


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Resolve:
    """Resolves a spec under flags, a real environment and a real `.env`."""
    monkeypatch.chdir(tmp_path)

    def choose(
        job: JobSpec, flags: Flags | None = None, env: dict[str, str] | None = None, dotenv: str = ""
    ) -> Choice:
        for name in FIELDS:
            monkeypatch.delenv(name, raising=False)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        (tmp_path / ".env").write_text(dotenv)
        return resolve(job, flags or Flags(), load_settings(dotenv=False), load_settings())

    return choose


# --- the provider -----------------------------------------------------------------------------------------------------

ALL = {
    "flags": Flags(provider="openai"),
    "env": {"PROVIDER": "anthropic"},
    "job": spec(provider="ollama"),
    "dotenv": "PROVIDER=mlx\n",
}


@pytest.mark.parametrize(
    ("without", "wanted"),
    [
        ((), "openai"),
        (("flags",), "anthropic"),
        (("flags", "env"), "ollama"),
        (("flags", "env", "job"), "mlx"),
        (("flags", "env", "job", "dotenv"), "scaffold"),
    ],
)
def test_the_provider_is_the_first_that_is_named(
    chosen: Resolve, without: tuple[str, ...], wanted: str
) -> None:
    given = {name: value for name, value in ALL.items() if name not in without}

    choice = chosen(given.pop("job", spec()), **given)

    assert choice.spec.provider == wanted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"flags": Flags(provider="openai")}, "named by --provider"),
        ({"env": {"PROVIDER": "openai"}}, "named by PROVIDER in the environment"),
        ({"job": spec(provider="openai")}, "named by the spec"),
        ({"dotenv": "PROVIDER=openai"}, "named by PROVIDER in .env"),
        ({}, "auto"),
        ({"flags": Flags(provider="auto"), "env": {"PROVIDER": "openai"}}, "in the environment"),
    ],
)
def test_the_choice_says_who_made_it(chosen: Resolve, given: dict[str, Any], why: str) -> None:
    assert why in chosen(given.pop("job", spec()), **given).why


@pytest.mark.parametrize(
    "given",
    [
        {"flags": Flags(provider="auto")},
        {"env": {"PROVIDER": "auto"}},
        {"env": {"PROVIDER": ""}, "job": spec(provider="auto")},
        {"dotenv": "PROVIDER=auto"},
    ],
)
def test_auto_is_what_is_ready_here(chosen: Resolve, given: dict[str, Any]) -> None:
    assert chosen(given.pop("job", spec()), **given).spec.provider == "scaffold"


def test_auto_on_the_command_line_overrides_a_spec(chosen: Resolve) -> None:
    choice = chosen(spec(provider="openai", model="gpt"), Flags(provider="auto"))

    assert (choice.spec.provider, choice.spec.model) == ("scaffold", None)


def test_a_list_of_fallbacks_stays_as_it_is_unless_overridden(chosen: Resolve) -> None:
    job = spec(provider=["ollama", "scaffold"], model="m")

    assert chosen(job).spec.provider == ("ollama", "scaffold")
    assert chosen(job).spec.model == "m"
    assert chosen(job, env={"PROVIDER": "openai"}).spec.provider == "openai"


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"flags": Flags(model="f"), "env": {"PROVIDER_MODEL": "e"}, "dotenv": "PROVIDER_MODEL=d"}, "f"),
        ({"env": {"PROVIDER_MODEL": "e"}, "dotenv": "PROVIDER_MODEL=d"}, "e"),
        ({"dotenv": "PROVIDER_MODEL=d"}, "s"),
    ],
)
def test_the_model_is_the_first_that_is_named(chosen: Resolve, given: dict[str, Any], wanted: str) -> None:
    assert chosen(spec(provider="ollama", model="s"), **given).spec.model == wanted


@pytest.mark.parametrize("given", [{"flags": Flags(provider="openai")}, {"env": {"PROVIDER": "openai"}}])
def test_the_specs_model_is_dropped_with_its_provider(chosen: Resolve, given: dict[str, Any]) -> None:
    assert chosen(spec(provider="ollama", model="qwen"), **given).spec.model is None


@pytest.mark.parametrize("given", [{"flags": Flags(provider="ollama")}, {"env": {"PROVIDER": "ollama"}}])
@pytest.mark.parametrize("provider", ["ollama", ["ollama", "scaffold"]])
def test_the_specs_model_stays_when_its_own_provider_is_named_again(
    chosen: Resolve, given: dict[str, Any], provider: Any
) -> None:
    assert chosen(spec(provider=provider, model="qwen"), **given).spec.model == "qwen"


def test_the_specs_model_comes_before_that_of_dotenv_also_when_dotenv_names_the_provider(
    chosen: Resolve,
) -> None:
    # given a spec that names a model and leaves the provider to the machine
    choice = chosen(spec(model="llama"), dotenv="PROVIDER=ollama\nPROVIDER_MODEL=qwen\n")

    assert (choice.spec.provider, choice.spec.model) == ("ollama", "llama")


def test_the_model_of_dotenv_is_not_given_to_another_provider(chosen: Resolve) -> None:
    # given a machine whose `.env` is for Ollama, and a spec for another provider that names no model
    choice = chosen(spec(provider="openai"), dotenv="PROVIDER=ollama\nPROVIDER_MODEL=qwen\n")

    assert (choice.spec.provider, choice.spec.model) == ("openai", None)


def test_the_model_of_the_environment_is_not_given_to_the_provider_of_a_flag(chosen: Resolve) -> None:
    env = {"PROVIDER": "openai", "PROVIDER_MODEL": "gpt"}

    assert chosen(spec(), Flags(provider="ollama"), env=env).spec.model is None
    assert chosen(spec(), Flags(provider="openai"), env=env).spec.model == "gpt"


def test_the_model_of_dotenv_serves_its_own_provider_whoever_names_it(chosen: Resolve) -> None:
    dotenv = "PROVIDER=ollama\nPROVIDER_MODEL=qwen\n"

    assert chosen(spec(provider="ollama"), dotenv=dotenv).spec.model == "qwen"
    assert chosen(spec(), Flags(provider="ollama"), dotenv=dotenv).spec.model == "qwen"


# --- concurrency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"flags": Flags(concurrency=2), "env": {"CONCURRENCY": "3"}, "job": spec(concurrency=5)}, 2),
        ({"env": {"CONCURRENCY": "3"}, "dotenv": "CONCURRENCY=7", "job": spec(concurrency=5)}, 5),
        ({"env": {"CONCURRENCY": "3"}, "dotenv": "CONCURRENCY=7"}, 3),
        ({"dotenv": "CONCURRENCY=7"}, 7),
        ({}, 4),
    ],
)
def test_concurrency_of_the_environment_counts_only_for_specs_that_name_none(
    chosen: Resolve, given: dict[str, Any], wanted: int
) -> None:
    assert chosen(given.pop("job", spec()), **given).spec.concurrency == wanted


# --- steps ------------------------------------------------------------------------------------------------------------


def test_what_a_step_chooses_is_never_overridden(chosen: Resolve) -> None:
    own = {"provider": "anthropic", "model": "claude", "options": {"temperature": 1.0}}
    job = spec(provider="ollama", steps=[{"id": "a", "prompt": "x", **own}, {"id": "b", "prompt": "y"}])

    resolved = chosen(
        job, Flags(provider="openai", model="gpt"), env={"PROVIDER": "mlx", "PROVIDER_MODEL": "m"}
    ).spec

    step = resolved.step("a")
    assert (step.provider, step.model, step.options) == ("anthropic", "claude", {"temperature": 1.0})
    assert resolved.step("b").provider is None


def test_a_step_with_a_provider_of_its_own_is_not_told_to_use_the_jobs_model(chosen: Resolve) -> None:
    # given the pipeline of DESIGN section 3: the job on Ollama, one step on Anthropic, without a model
    job = spec(
        provider="ollama",
        model="qwen2.5-coder:14b",
        steps=[
            {"id": "outline", "prompt": "x"},
            {"id": "draft", "prompt": "y", "provider": "anthropic"},
            {"id": "same", "prompt": "z", "provider": "ollama"},
        ],
    )

    told = about(LoadedSpec(job, ""), chosen(job).spec)

    assert {step["id"]: (step["provider"], step["model"]) for step in told["steps"]} == {
        "outline": ("ollama", "qwen2.5-coder:14b"),
        "draft": ("anthropic", None),
        "same": ("ollama", "qwen2.5-coder:14b"),
    }


def test_nothing_else_of_a_spec_is_changed(chosen: Resolve) -> None:
    job = spec(
        options={"stop": None, "seeds": [1, 2]},
        timeout_s=5,
        budget={"tokens": 5},
        repair_rounds=0,
        output_dir="out",
        steps=[{"id": "a", "prompt": "x", "options": {"t": None}, "output": "a.md"}],
    )

    resolved = chosen(job).spec

    assert resolved.model_dump(exclude={"provider", "model", "concurrency"}) == job.model_dump(
        exclude={"provider", "model", "concurrency"}
    )


def test_resolving_twice_changes_nothing(chosen: Resolve) -> None:
    once = chosen(spec(model="m"), env={"PROVIDER": "ollama", "PROVIDER_MODEL": "q"}).spec

    assert chosen(once).spec == once


# --- bad values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"flags": Flags(provider="ollma")}, UsageError, "'ollma'"),
        ({"flags": Flags(provider="ollama", model=" ")}, UsageError, "' '"),
        ({"flags": Flags(concurrency=1001)}, UsageError, "1001"),
        ({"env": {"PROVIDER": "ollma"}}, EnvironmentNotReady, "'ollma'"),
        ({"dotenv": "PROVIDER=ollma"}, EnvironmentNotReady, "'ollma'"),
        ({"env": {"PROVIDER": "ollama", "PROVIDER_MODEL": " "}}, EnvironmentNotReady, "' '"),
        ({"env": {"CONCURRENCY": "0"}}, EnvironmentNotReady, "CONCURRENCY"),
        ({"env": {"CONCURRENCY": "many"}}, EnvironmentNotReady, "CONCURRENCY"),
        ({"dotenv": "CONCURRENCY=1001"}, EnvironmentNotReady, "CONCURRENCY"),
    ],
)
def test_a_bad_value_is_named_and_its_exit_code_says_whose_it_is(
    chosen: Resolve, given: dict[str, Any], error: type[OrchError], named: str
) -> None:
    with pytest.raises(error) as raised:
        chosen(spec(), **given)

    assert named in str(raised.value)


def test_a_bad_value_of_the_environment_is_not_blamed_on_a_flag(chosen: Resolve) -> None:
    with pytest.raises(EnvironmentNotReady, match="PROVIDER in the environment"):
        chosen(spec(), Flags(concurrency=2), env={"PROVIDER": "ollma"})


def test_a_bad_value_does_not_appear_with_a_secret(chosen: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    with pytest.raises(EnvironmentNotReady) as raised:
        chosen(spec(), env={"PROVIDER": "ollma"})

    assert "sk-secret" not in str(raised.value)
    assert "sk-secret" not in repr(load_settings_of(monkeypatch))


def load_settings_of(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("PROVIDER", raising=False)
    return load_settings()


def test_a_job_whose_providers_are_all_missing_is_refused_before_it_starts() -> None:
    for job in (spec(provider="openai"), spec(provider=["openai", "mlx"])):
        with pytest.raises(EnvironmentNotReady):
            require_ready(job, NOTHING_SET)
    require_ready(spec(provider=["openai", "scaffold"]), NOTHING_SET)


def test_a_step_whose_provider_is_missing_is_refused_before_the_job_starts() -> None:
    job = spec(provider="scaffold", steps=[{"id": "a", "prompt": "x", "provider": "openai"}])

    with pytest.raises(EnvironmentNotReady):
        require_ready(job, NOTHING_SET)


@pytest.mark.parametrize(("choice", "name"), [("ollama", "ollama"), (("mlx", "ollama"), "mlx")])
def test_the_first_of_a_choice_is_asked_first(choice: str | tuple[str, ...], name: str) -> None:
    assert first(choice) == name
