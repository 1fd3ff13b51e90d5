"""The application that Flower shows: `celery --app orchestrator.flower_app flower`. Nothing else imports this."""

from __future__ import annotations

import tornado.web
from flower.urls import handlers
from flower.views.monitor import Metrics

from orchestrator.celery_app import make_app
from orchestrator.connection import HOW_TO_POINT
from orchestrator.errors import EnvironmentNotReady
from orchestrator.settings import load_settings


class PrivateMetrics(Metrics):  # type: ignore[misc]
    """Flower 2.2 shows /metrics, which names workers and tasks, to everybody even with basic authentication.

    /healthcheck stays open: it says OK and nothing else.
    """

    @tornado.web.authenticated
    async def get(self) -> None:
        """Answer those who may ask."""
        await super().get()


handlers.insert(0, (r"/metrics", PrivateMetrics))
_url = load_settings().redis_url
if _url is None:
    raise EnvironmentNotReady(f"Flower needs a Redis: {HOW_TO_POINT}")
app = make_app(_url)
