"""Real Flower: who may enter, and that it shows every task by name with its true state."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from orchestrator.celery_app import make_app
from orchestrator.dashboard import checked, require_free
from orchestrator.errors import EnvironmentNotReady, UsageError

pytestmark = pytest.mark.integration

TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"
PASSWORD = "s3cretOfFlower"
AUTH = f"ann:{PASSWORD}"


@dataclass(frozen=True)
class Site:
    """A Flower as a browser sees it."""

    url: str

    def get(self, path: str, auth: str = AUTH) -> tuple[int, str]:
        headers = {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()} if auth else {}
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def states(self) -> dict[str, set[str]]:
        """The states of the tasks it knows, by task name."""
        found: dict[str, set[str]] = {}
        for task in json.loads(self.get("/api/tasks")[1]).values():
            found.setdefault(task["name"], set()).add(task["state"])
        return found

    def listens(self) -> bool:
        """Whether the events of a worker reach it."""
        return "flower_worker_online{" in self.get("/metrics")[1]


@pytest.fixture
def flower(orch, service, own_redis, free_port, eventually) -> Any:
    """Flower, a worker, and the command line, on one Redis that has a password."""
    orch.env.update(ORCH_REDIS_URL=own_redis.url, PROVIDER_CB_THRESHOLD="1", PROVIDER_CB_COOLDOWN_S="2.5")
    process = service("flower", "--port", str(free_port), FLOWER_BASIC_AUTH=AUTH)
    service("worker", "--name", "box@test")
    site = Site(f"http://127.0.0.1:{free_port}")
    eventually(site.listens, seconds=30)
    return site, process


def test_flower_shows_every_task_with_its_true_state_to_those_who_may_enter(
    flower, own_redis, eventually, submit
):
    site, process = flower

    # one who may not enter sees nothing but that Flower lives
    for path in (
        "/",
        "/tasks",
        "/workers",
        "/broker",
        "/worker/box@test",
        "/api/tasks",
        "/api/workers",
        "/metrics",
    ):
        assert site.get(path, auth="")[0] == 401, path
        assert site.get(path, auth="ann:guess")[0] == 401, path
    assert site.get("/healthcheck", auth="") == (200, "OK")

    # a job that succeeds: its tasks, by name; the canvas's own message for qa comes before the files are written
    submit(TINY)
    done = {f"orch.{kind}": {"SUCCESS"} for kind in ("architect", "builder", "file", "docs")}
    eventually(lambda: site.states() == done | {"orch.qa": {"SUCCESS", "REVOKED"}}, seconds=60)

    # a job whose first step fails
    submit(TINY + "options: {error: auth}\n")
    eventually(lambda: site.states()["orch.architect"] == {"SUCCESS", "FAILURE"})

    # a step that has to wait, which is given back, and a message that has no right to run
    one = TINY + "steps: [{id: a, prompt: x, options: {error: server}, retries: 1}]\n"
    submit(one)
    make_app(own_redis.url).send_task("orch.docs", args=("job_ffffffffffff", "docs", 1))
    eventually(lambda: site.states().get("orch.prompt") == {"RETRY", "FAILURE"})
    eventually(lambda: site.states()["orch.docs"] == {"SUCCESS", "REVOKED"})
    under_way = {"PENDING", "RECEIVED", "STARTED"}
    assert not any(states & under_way for states in site.states().values())

    # no page and no command line has a password
    any_task = next(iter(json.loads(site.get("/api/tasks")[1])))
    for path in (
        "/",
        "/workers",
        "/worker/box@test",
        "/api/workers?refresh=1",
        "/broker",
        "/tasks",
        f"/task/{any_task}",
    ):
        code, page = site.get(path)
        assert code == 200, path
        assert own_redis.PASSWORD not in page, path
        assert PASSWORD not in page, path
    for one_process in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        assert PASSWORD not in " ".join(one_process.cmdline())
        assert own_redis.PASSWORD not in " ".join(one_process.cmdline())

    process.terminate()
    assert process.wait(10) == 0


def test_flower_without_a_password_given_makes_one_up_and_prints_it(
    orch, service, redis_url, free_port, eventually
):
    process = service("flower", "--port", str(free_port), ORCH_REDIS_URL=redis_url)
    site = Site(f"http://127.0.0.1:{free_port}")
    line = process.stderr.readline()
    user, password = line.split()[-3].rstrip(","), line.split()[-1]

    eventually(lambda: site.get("/healthcheck", auth="")[0] == 200, seconds=30)

    assert len(password) >= 20
    assert site.get("/", auth=f"{user}:{password}")[0] == 200
    assert site.get("/", auth="")[0] == 401
    (listening,) = {
        one.laddr.ip for one in psutil.Process(process.pid).net_connections("tcp") if one.status == "LISTEN"
    }
    assert listening == "127.0.0.1"


@pytest.mark.parametrize("auth", ["no-colon", "user:", ":password", "ann:one,bob", "ann:pässword"])
def test_what_is_not_a_user_and_a_password_is_refused(auth):
    with pytest.raises(UsageError, match="USER:PASSWORD"):
        checked(auth)


def test_flower_without_a_redis_or_a_place_to_listen_says_so(orch):
    assert orch("flower").code == 3
    with pytest.raises(EnvironmentNotReady, match="--port"):
        require_free(5555, "203.0.113.1")
