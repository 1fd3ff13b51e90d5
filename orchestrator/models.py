"""What a user can write in a spec: frozen values, valid from the moment they exist, closed to unknown keys.

Types are strict: "4" is no number, and neither is true. The published JSON Schema is made from these models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Strict,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from orchestrator.kindnames import BUILT_IN_KINDS, PLANNED_KINDS
from orchestrator.paths import case_key, safe_relative
from orchestrator.plan import DEFAULT_PIPELINE, MAX_STEPS, Plan, PlannedStep, problems

MAX_CONCURRENCY = 1_000
MAX_TIMEOUT_S = 7 * 24 * 3600
MAX_TEXT = 100_000

ProviderName = Literal["auto", "scaffold", "ollama", "openai", "anthropic", "mlx", "simulated"]
FallbackName = Literal["scaffold", "ollama", "openai", "anthropic", "mlx", "simulated"]


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with fields taken together; `loc` leads from the model to the one to change."""

    loc: tuple[str | int, ...]
    message: str


class Flaws(ValueError):
    """What is wrong with fields that are each in order."""

    def __init__(self, *flaws: Flaw) -> None:
        super().__init__(*flaws)
        self.flaws = flaws

    def __str__(self) -> str:
        return "; ".join(flaw.message for flaw in self.flaws)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


def _safe_output(path: str) -> str:
    safe_relative(path)
    return path


def _without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise Flaws(Flaw((index,), f"{name!r} is listed twice; leave out one of the two"))
        seen.add(name)
    return names


def _option(value: object) -> object:
    items = value if isinstance(value, list | tuple) else (value,)
    for item in items:
        if not (item is None or isinstance(item, str | bool | int | float)):
            raise ValueError("is not an option's value")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("is not a finite number")
    return list(items) if items is value else value


def _one_or_list(value: object) -> str:
    return "(list)" if isinstance(value, list | tuple) else "(name)"


Scalar: TypeAlias = str | int | float | bool | None
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$"), AfterValidator(_safe_output)]
Kind = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$"),
    Field(json_schema_extra={"examples": [*BUILT_IN_KINDS]}),
]
Model = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_not_blank)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT), AfterValidator(_not_blank)]
Seconds = Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)]
OptionValue = Annotated[
    Scalar | list[Scalar], PlainValidator(_option, json_schema_input_type=Scalar | list[Scalar])
]
Options = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=100)], OptionValue], Field(max_length=50)
]
Fallbacks = Annotated[
    tuple[FallbackName, ...],
    Strict(strict=False),
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_without_repeats),
]
ProviderChoice = Annotated[
    Annotated[ProviderName, Tag("(name)")] | Annotated[Fallbacks, Tag("(list)")], Discriminator(_one_or_list)
]
Needs = Annotated[
    tuple[Name, ...],
    Strict(strict=False),
    Field(max_length=MAX_STEPS, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_without_repeats),
]


class _Value(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, field_title_generator=lambda name, _: name
    )


class Budget(_Value):
    """Hard limits of what a job may use up; it stops before it would pass one."""

    tokens: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Most tokens, sent and received together."
    )
    usd: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = Field(
        default=None, description="Most US dollars."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.tokens is None and self.usd is None:
            raise Flaws(Flaw((), "the budget limits nothing; write tokens, usd or both"))
        return self


class StepSpec(_Value):
    """One step of a pipeline of one's own. What it leaves out it takes from the job."""

    id: Name = Field(description="Name of the step, unique in the job; other steps refer to it.")
    kind: Kind = Field(
        default="prompt",
        description="What the step does: send its own prompt, one of the default pipeline's four, or a plug-in's.",
    )
    needs: Needs = Field(default=(), description="Ids of the steps that must be done before this one.")
    prompt: Text | None = Field(
        default=None,
        description="What a prompt step asks: a Jinja2 template that sees `spec` and the steps under `needs`"
        " (`needs.<id>.text`, `.files`, `.data`).",
    )
    provider: ProviderChoice | None = Field(
        default=None, description="Provider of this step, or a list of them in order of fallback."
    )
    model: Model | None = Field(default=None, description="The provider's own name for the model.")
    options: Options = Field(
        default_factory=dict, description="Options of the model; they merge over the job's."
    )
    timeout_s: Seconds | None = Field(default=None, description="Seconds that one run of the step may take.")
    retries: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None, description="How often a failed call to the provider is tried again."
    )
    output: Annotated[str, AfterValidator(_safe_output)] | None = Field(
        default=None, description="File below outputs/<project>/ that the step's text is written to."
    )

    @model_validator(mode="after")
    def _prompt_fits_kind(self) -> Self:
        if self.kind == "prompt" and self.prompt is None:
            raise Flaws(
                Flaw((), f"step {self.id!r} has no prompt; write prompt: <text>, or a kind that has one")
            )
        if self.kind in ("architect", *PLANNED_KINDS) and self.prompt is not None:
            message = f"a {self.kind} step brings its own prompt; remove this one, or write kind: prompt"
            raise Flaws(Flaw(("prompt",), message))
        return self


class JobSpec(_Value):
    """What `orch` is to build, and with what."""

    project: Name = Field(description="Name of the project, and of the folder it is generated into.")
    task_description: Text = Field(description="What to build, in plain words.")
    provider: ProviderChoice = Field(
        default="auto",
        description="Who answers the prompts: auto is the first that is ready; a list, in order of fallback.",
    )
    model: Model | None = Field(
        default=None, description="The provider's own name for the model, such as qwen2.5-coder:14b."
    )
    options: Options = Field(
        default_factory=dict, description="Options of the model, such as temperature and max_tokens."
    )
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] | None = Field(
        default=None, description="Most steps of this job that run at once."
    )
    timeout_s: Seconds = Field(default=900, description="Seconds that the whole job may take.")
    output_dir: Annotated[Text, StringConstraints(max_length=4_096)] | None = Field(
        default=None, description="Folder where `orch run` and `orch pull` also put the finished project."
    )
    budget: Budget | None = Field(default=None, description="Hard limits of what the job may use up.")
    repair_rounds: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2, description="How often the builder repairs what qa finds."
    )
    prompts_dir: Annotated[Text, StringConstraints(max_length=4_096)] | None = Field(
        default=None,
        description="Folder, relative to the spec, whose architect.j2, builder.j2, docs.j2 and qa.j2 go before ours.",
    )
    prompts: SkipJsonSchema[dict[str, Text]] = Field(
        default_factory=dict, description="The texts in prompts_dir, read at submit: no user writes this."
    )
    steps: (
        Annotated[tuple[StepSpec, ...], Strict(strict=False), Field(min_length=1, max_length=MAX_STEPS)]
        | None
    ) = Field(default=None, description="A pipeline of one's own instead of architect, builder + docs, qa.")

    @model_validator(mode="after")
    def _steps_make_a_plan(self) -> Self:
        if self.steps is None:
            return self
        flaws = [*_plan_flaws(self.steps)] or [*_unplanned_work(self.steps), *_shared_outputs(self.steps)]
        if flaws:
            raise Flaws(*flaws)
        return self

    def all_steps(self) -> tuple[StepSpec, ...]:
        """Return the steps of the job: its own, or the default pipeline's."""
        return self.steps or tuple(
            StepSpec.model_validate({"id": step.id, "kind": step.kind, "needs": step.needs})
            for step in DEFAULT_PIPELINE
        )

    def step(self, step_id: str) -> StepSpec:
        """Return the step of that id, or of the one that it was added by; KeyError when the job has none.

        Steps that are added while the job runs have the id of a step of the spec, and more: builder/app/main.py, qa@2.
        """
        base = base_id(step_id)
        for step in self.all_steps():
            if step.id == base:
                return step if base == step_id else step.model_copy(update={"id": step_id})
        raise KeyError(step_id)

    def for_prompts(self) -> dict[str, object]:
        """Return what prompts may read of the spec, as plain values: all but the other steps and prompts."""
        return self.model_dump(mode="json", exclude={"steps", "prompts", "prompts_dir"})

    def plan(self) -> Plan:
        """Return the DAG of the job's steps."""
        return Plan.of(_planned(self.all_steps()))


def base_id(step_id: str) -> str:
    """The id of the step of the spec that a step belongs to."""
    return re.split("[/@]", step_id, maxsplit=1)[0]


def _planned(steps: tuple[StepSpec, ...]) -> tuple[PlannedStep, ...]:
    return tuple(PlannedStep(step.id, step.kind, step.needs) for step in steps)


def _plan_flaws(steps: tuple[StepSpec, ...]) -> Iterator[Flaw]:
    """Say what keeps the steps from being a DAG, each where it is to be changed."""
    index = {step.id: index for index, step in enumerate(steps)}
    for problem in problems(_planned(steps)):
        at: tuple[str | int, ...] = ("steps",)
        if problem.step is not None:
            at = (*at, index[problem.step])
            need = getattr(problem, "need", problem.step)
            needs = steps[index[problem.step]].needs
            at = (*at, "needs", needs.index(need)) if need in needs else at
        yield Flaw(at, str(problem))


def _unplanned_work(steps: tuple[StepSpec, ...]) -> Iterator[Flaw]:
    """Name the steps that work from an architect's plan and have none before them."""
    by_id = {step.id: step for step in steps}
    planned: set[str] = set()
    for id_ in Plan.of(_planned(steps)).order:
        step = by_id[id_]
        if step.kind == "architect" or not planned.isdisjoint(step.needs):
            planned.add(id_)
        elif step.kind in PLANNED_KINDS:
            message = (
                f"{step.kind} step {id_!r} works from an architect's plan; let it need a step of that kind"
            )
            yield Flaw(("steps", steps.index(step)), message)


def _shared_outputs(steps: tuple[StepSpec, ...]) -> Iterator[Flaw]:
    """Name the outputs that are, or lie below, another step's on some file system."""
    owners: dict[str, str] = {}
    for index, step in enumerate(steps):
        if step.output is None:
            continue
        *folders, file = accumulate(case_key(step.output).split("/"), "{}/{}".format)
        taken = [owners[key] for key in (*folders, file, f"{file}/") if key in owners]
        if taken:
            message = f"{step.output!r} collides with the output of step {taken[0]!r}; give each its own file"
            yield Flaw(("steps", index, "output"), message)
        owners[file] = step.id
        owners.update({f"{folder}/": step.id for folder in folders})
