"""`orch run`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import click

from orchestrator.choices import Choice, Flags, require_ready, resolve
from orchestrator.cli import options
from orchestrator.cli.output import note, print_json
from orchestrator.cli.tables import failures, summary
from orchestrator.cli.view import watching
from orchestrator.errors import NoSuchJob, UsageError
from orchestrator.history import History
from orchestrator.localrun import newest_unfinished, project_folder, resume_here, submit_here
from orchestrator.progress import Progress
from orchestrator.publish import publish_finished
from orchestrator.runfolder import RunFolder, run_folders
from orchestrator.settings import Settings, load_settings
from orchestrator.spec import LoadedSpec, load_spec

NEWEST = "newest"
MOST_FILES = 20


@click.command(name="run")
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option("--spec", "spec_option", type=click.Path(path_type=Path), help="The same as the argument.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[JOB]",
    help="Go on with a job; without JOB the newest unfinished one of the same spec.",
)
@options.job_choices
@options.cache_choices
@options.raised_budget
@options.allow_failing_qa
@options.allow_unsandboxed
@options.as_json
@options.quiet
def command(
    spec: Path | None,
    spec_option: Path | None,
    resume: str | None,
    provider: str | None,
    model: str | None,
    concurrency: int | None,
    no_cache: bool,
    refresh: bool,
    budget_tokens: int | None,
    budget_usd: float | None,
    allow_failing_qa: bool,
    allow_unsandboxed: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run SPEC on this machine: a private Redis and worker, a live view, the project in runs/<job>/outputs/."""
    options.permit_unsandboxed(allowed=allow_unsandboxed)
    settings = load_settings()
    path, resume = _arguments(spec, spec_option, resume)
    cache = options.cache_use(no_cache=no_cache, refresh=refresh)
    budget = options.budget(budget_tokens, budget_usd)
    if (budget and not resume) or (resume and cache != "use"):
        raise UsageError(
            "--budget-tokens and --budget-usd go with --resume, --no-cache and --refresh with a new job; "
            "a new job has its budget in the spec"
        )
    with watching(quiet=quiet, stderr=as_json) as watch:
        if resume is None:
            loaded, choice = _load(path, Flags(provider, model, concurrency), settings)
            if not quiet:
                note(f"provider {options.shown(choice.spec.provider)}: {choice.why}")
            progress = submit_here(
                settings, loaded, choice.spec, watch, cache, allow_failing_qa=allow_failing_qa
            )
        else:
            folder = _folder(settings, resume, path)
            require_ready(folder.read_spec(), settings)
            progress = resume_here(settings, folder, watch, budget)
    _finish(settings, progress, as_json=as_json, quiet=quiet)


def _arguments(
    spec: Path | None, spec_option: Path | None, resume: str | None
) -> tuple[Path | None, str | None]:
    """Sort out which path is the spec: `--resume SPEC` means the spec, not a job."""
    if spec and spec_option:
        raise UsageError("give the spec once: as an argument or with --spec")
    path = spec or spec_option
    if resume and path is None and (resume.endswith((".yaml", ".yml")) or Path(resume).exists()):
        return Path(resume), NEWEST
    if path is None and resume in (None, NEWEST):
        raise UsageError("which spec? `orch run SPEC`, for example `orch run examples/notes_api.yaml`")
    return path, resume


def _load(path: Path | None, flags: Flags, settings: Settings) -> tuple[LoadedSpec, Choice]:
    loaded = load_spec(path or Path())
    choice = resolve(loaded.spec, flags, load_settings(dotenv=False), settings)
    require_ready(choice.spec, settings)
    return loaded, choice


def _folder(settings: Settings, resume: str, path: Path | None) -> RunFolder:
    """The run folder to go on with."""
    if resume != NEWEST:
        here = History(settings.orch_runs_dir, None)
        return here.folder(here.find(resume))
    loaded = load_spec(path or Path())
    sha256 = hashlib.sha256(loaded.source.encode()).hexdigest()
    found = newest_unfinished(run_folders(settings.orch_runs_dir), sha256)
    if found is None:
        raise NoSuchJob(f"no unfinished job of {path} in {settings.orch_runs_dir}/")
    return found


def _finish(settings: Settings, progress: Progress, *, as_json: bool, quiet: bool) -> None:
    """Put the project where the spec wants it, tell how it went, and exit with the job's code."""
    folder = RunFolder(settings.orch_runs_dir / progress.job_id)
    target = publish_finished(folder, progress)
    if as_json:
        print_json(progress.to_json())
    else:
        click.echo(summary(progress))
        for failure in failures(progress):
            note(failure)
    if not as_json and not quiet:
        _tell_what_next(progress, target or project_folder(settings, progress))
    sys.exit(0 if progress.status == "succeeded" else 1)


def _tell_what_next(progress: Progress, project: Path) -> None:
    """Say what was built, where it is, and what to type next."""
    if progress.status != "succeeded":
        note(f"next: orch show {progress.job_id}, then orch run --resume {progress.job_id}")
        return
    paths = sorted(progress.files)
    for path in paths[:MOST_FILES]:
        click.echo(f"  {progress.files[path].size_bytes:>7}  {path}")
    if len(paths) > MOST_FILES:
        click.echo(f"  … and {len(paths) - MOST_FILES} more: orch show {progress.job_id} --files")
    click.echo(f"The project is in {project}/. What to type next:")
    for command_line in (f"cd {project}", *progress.next_commands()):
        click.echo(f"  {command_line}")
