"""docker-compose.yml, without a Docker engine: against the schema, and each command as it stands there.

What Compose would put in, the variables, is put in here; the names of its network and its volumes stand for a port
and a folder of the test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import redis
import yaml

from orchestrator.connection import connect
from orchestrator.embedded import find_redis

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOTENV = {"REDIS_PASSWORD": "letters0and1digits", "FLOWER_BASIC_AUTH": "ann:s3cret"}
TINY = "project: tiny\ntask_description: Count words in a text\nprovider: simulated\n"

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


def filled_in(node: Any, env: Mapping[str, str]) -> Any:
    """What Compose makes of `${NAME}`, `${NAME:-default}`, `${NAME:?error}` and `$$`."""

    def value(match: re.Match[str]) -> str:
        escaped, name, operator, word = match.groups()
        if escaped:
            return "$"
        if operator == "?" and not env.get(name):
            raise KeyError(word)
        return env.get(name) or (word if operator == "-" else "")

    match node:
        case str():
            return _VARIABLE.sub(value, node)
        case list():
            return [filled_in(one, env) for one in node]
        case dict():
            return {key: filled_in(one, env) for key, one in node.items()}
    return node


def test_the_file_is_valid_by_the_schema_of_compose():
    schema = json.loads((ROOT / "tests/schemas/compose-spec.json").read_text())

    jsonschema.Draft202012Validator(schema).validate(COMPOSE)
    jsonschema.Draft202012Validator(schema).validate(filled_in(COMPOSE, DOTENV))


@pytest.mark.parametrize("name", DOTENV)
def test_a_secret_that_is_not_set_is_an_error(name):
    with pytest.raises(KeyError, match=name):
        filled_in(COMPOSE, DOTENV | {name: ""})


def test_every_variable_is_explained_in_the_example_of_the_dotenv_file():
    used = {match.group(2) for match in _VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())} - {
        None
    }
    explained = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))

    assert used <= explained


def test_only_this_host_reaches_a_port_and_workers_can_be_many():
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    assert "ports" not in SERVICES["worker"]
    assert not any("container_name" in service for service in SERVICES.values())
    ours = [service for name, service in SERVICES.items() if name != "redis"]
    assert all(service["depends_on"]["redis"]["condition"] == "service_healthy" for service in ours)
    assert COMPOSE["volumes"].keys() == {"redis", "runs"}


def test_keys_of_providers_go_to_the_workers_alone():
    for name, service in SERVICES.items():
        assert ("OPENAI_API_KEY" in service["environment"]) == (name == "worker")


def test_the_image_runs_as_a_user_of_its_own_from_the_lock_file():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]

    assert any(line == "USER orch" for line in last_stage)
    assert not any("pip install" in line for line in last_stage)
    assert any("--require-hashes -r run.txt" in line for line in lines)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert {name.partition("/")[0] for name in copied} <= allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def local(tmp_path: Path, unused_port: Callable[[], int]) -> dict[str, str]:
    """What stands for the network, the volumes and the image of Redis."""
    redis_port = unused_port()
    (tmp_path / "bin").mkdir()
    server = tmp_path / "bin" / "redis-server"
    where = f"--port {redis_port} --bind 127.0.0.1 --dir {tmp_path}"
    server.write_text(f'#!/bin/sh\nexec {find_redis()} {where} "$@"\n')
    server.chmod(0o755)
    return {
        "bin": str(tmp_path / "bin"),
        "runs": str(tmp_path / "runs"),
        "redis": f"127.0.0.1:{redis_port}",
        "FLOWER_PORT": str(unused_port()),
    }


def test_every_command_does_its_work_as_it_stands_in_the_file(
    orch, local, eventually, running, workers_in_flower
):
    # Redis, with the password that came by no command line
    server = running("redis", local)
    client = connect(f"redis://:{DOTENV['REDIS_PASSWORD']}@{local['redis']}/0")
    eventually(lambda: answers(client))
    with (
        redis.Redis.from_url(f"redis://{local['redis']}/0") as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert DOTENV["REDIS_PASSWORD"] not in " ".join(psutil.Process(server.pid).cmdline())

    # two workers, a mirror and Flower beside it
    for name in ("worker", "worker", "mirror", "flower"):
        running(name, local)

    # a job from the host, as the head of the file says
    orch.env["ORCH_REDIS_URL"] = f"redis://:{DOTENV['REDIS_PASSWORD']}@{local['redis']}/0"
    job_id = orch("submit", orch.spec(TINY), "--wait").out.strip()
    manifest = Path(local["runs"]) / job_id / "manifest.json"
    eventually(lambda: manifest.exists() and json.loads(manifest.read_text())["status"] == "succeeded")
    eventually(lambda: workers_in_flower(local["FLOWER_PORT"], DOTENV["FLOWER_BASIC_AUTH"]), seconds=30)
    client.close()


@pytest.fixture
def running(orch, request):
    """Runs a service's command in its environment."""

    def start(name: str, local: Mapping[str, str]) -> subprocess.Popen[bytes]:
        service = filled_in(SERVICES[name], DOTENV)
        inside = {
            key: str(value).replace("@redis:6379", f"@{local['redis']}").replace("/tmp/runs", local["runs"])
            for key, value in service["environment"].items()
        }
        path = os.pathsep.join((local["bin"], str(Path(sys.executable).parent), orch.env["PATH"]))
        env = {
            **orch.env,
            "PATH": path,
            "ORCH_RUNS_DIR": local["runs"],
            "FLOWER_PORT": local["FLOWER_PORT"],
            **inside,
        }
        process = subprocess.Popen(
            service["command"], env=env, cwd=orch.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        request.addfinalizer(process.wait)
        request.addfinalizer(process.terminate)
        return process

    return start


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
