"""The Celery application, as workers and submitters share it."""

from __future__ import annotations

from celery import Celery
from celery.backends.redis import RedisBackend

from orchestrator.names import CELERY_PREFIX, QUEUE
from orchestrator.settings import celery_url


class UnwatchedResults(RedisBackend):  # type: ignore[misc]
    """Celery's Redis backend for callers that never wait for a result: a job's events tell how it stands.

    Celery would subscribe to the result of every task sent; at exit, subscriptions that outlive an embedded Redis
    hold up the process for 20 s.
    """

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Subscribe to nothing when a task is sent."""

    def add_pending_result(self, result: object, weak: bool = False, start_drainer: bool = True) -> object:
        """Subscribe to nothing for a group either."""
        return result

    def remove_pending_result(self, result: object) -> object:
        """Nothing was subscribed to."""
        return result


def make_app(redis_url: str) -> Celery:
    """Return an application on that Redis.

    Messages are acknowledged early and never delayed by Celery: a job's state, not its queue, says what is to be
    done, so a lost message is sent again and a repeated one is refused at the claim.
    """
    url = celery_url(redis_url)
    results = f"{__name__}:{UnwatchedResults.__name__}+{url.removeprefix('redis+')}"
    app = Celery("orch", broker=url, backend=results, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_track_started=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": CELERY_PREFIX,
            "visibility_timeout": 7200,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "max_connections": 200,
        },
        result_backend_transport_options={"global_keyprefix": CELERY_PREFIX},
        result_backend_always_retry=True,
        result_backend_max_sleep_between_retries_ms=2000,
        result_expires=86_400,
        redis_max_connections=200,
        redis_socket_timeout=10,
        redis_backend_health_check_interval=10,
    )
    return app
