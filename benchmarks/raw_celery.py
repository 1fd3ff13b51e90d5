"""What orch is measured against: Celery alone, with tasks that do nothing, on the same Redis and pool."""

from __future__ import annotations

import os

import redis

from orchestrator.celery_app import make_app
from orchestrator.connection import connect

app = make_app(os.environ["ORCH_REDIS_URL"])
client: redis.Redis = connect(os.environ["ORCH_REDIS_URL"])


@app.task(name="raw.step")
def step() -> None:
    """Do nothing."""


@app.task(name="raw.last")
def last(job: str) -> None:
    """Tell that a job has ended."""
    client.rpush("raw:done", job)
