"""A process that runs one claimed step and nothing else: `python -m tasks.alone JOB STEP TOKEN RETRY`.

Its parent, a worker, holds the lease and looks after it. What becomes ready by its commit is sent from here.
"""

from __future__ import annotations

import sys

from orchestrator.canvas import send_each
from orchestrator.celery_app import make_app
from orchestrator.errors import EnvironmentNotReady
from orchestrator.lease import Hold
from orchestrator.settings import load_settings
from orchestrator.state import Claim
from tasks.kinds import KINDS
from tasks.runner import ALONE_CODES, make_runner


def main(job_id: str, step_id: str, token: str, retry: str) -> int:
    """Run the step; the exit code says how it ended."""
    settings = load_settings()
    if settings.redis_url is None:
        raise EnvironmentNotReady("a step needs a Redis")
    runner = make_runner(settings, settings.redis_url)
    kind = KINDS[runner.state.spec(job_id).step(step_id).kind]
    ended = runner.execute(kind, Hold(job_id, step_id, token), Claim("alone", retry=retry, runs=2))
    send_each(make_app(settings.redis_url), job_id, ended.ready)
    return next(code for code, outcome in ALONE_CODES.items() if outcome == ended.outcome)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
