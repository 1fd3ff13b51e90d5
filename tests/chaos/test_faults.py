"""Each fault that a fleet must ride out, on real processes: the job ends by itself, with each step committed once."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.alone]

BEYOND_LEASE_S = 5.0
"""Recovery after kill -9 takes the lease and this much at most."""


def two_workers(fleet, **env):
    """Two workers of the same kind, ready."""
    workers = [fleet.worker(**env) for _ in range(2)]
    return [worker.until_ready() for worker in workers]


# --- workers that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["its worker process", "its whole group"])
def test_a_step_whose_worker_is_killed_runs_again_within_the_lease_and_five_seconds(
    fleet, chain, lease_s, what, record_property
):
    two_workers(fleet)
    job = fleet.submit(chain())
    started = job.until("step.started", "b")
    victim = fleet.worker_of(started)

    killed_ms = fleet.now_ms()
    victim.kill() if what == "its worker process" else victim.kill_group()

    again = job.until("step.started", "b", after=started)
    took_s = (again.at_ms - killed_ms) / 1000
    record_property("recovery_s", took_s)
    print(f"recovery: {took_s:.1f} s with a lease of {lease_s:g} s")
    assert took_s <= lease_s + BEYOND_LEASE_S
    fleet.check(job)
    assert [event.step for event in job.events if event.type == "step.lost"] == ["b"]


def test_the_only_worker_is_started_again_and_makes_good_what_it_lost(fleet, pipeline):
    worker = fleet.worker().until_ready()
    job = fleet.submit(pipeline(1.0))
    started = job.until("step.started", "docs")

    killed_ms = fleet.now_ms()
    worker.kill()

    again = job.until("step.started", "docs", after=started)
    print(f"recovery: {(again.at_ms - killed_ms) / 1000:.1f} s with the only worker killed")
    fleet.check(job)
    assert worker.supervisor.poll() is None


def test_a_new_worker_takes_over_when_all_were_killed(fleet, chain):
    workers = two_workers(fleet)
    job = fleet.submit(chain())
    job.until("step.started", "b")

    for worker in workers:
        worker.kill_group()
    fleet.worker()

    fleet.check(job)


def test_a_zombie_changes_nothing_and_works_again(fleet, chain):
    two_workers(fleet)
    job = fleet.submit(chain())
    started = job.until("step.started", "b")
    zombie = fleet.worker_of(started)

    # given a worker that sleeps for longer than its lease, until its step runs elsewhere
    zombie.stop()
    again = job.until("step.started", "b", after=started)
    zombie.go_on()

    # then what it had is committed by the other
    assert again.get("worker") != started.get("worker")
    fleet.check(job)
    # and it runs steps again
    for other in fleet.workers:
        if other is not zombie:
            other.kill_group()
    later = fleet.submit(chain(0.1))
    fleet.check(later)
    assert {one.get("worker") for one in later.events if one.type == "step.started"} == {zombie.name}


# --- workers that are asked to go ------------------------------------------------------------------------------------


def test_a_worker_that_is_asked_to_end_finishes_its_step_within_its_grace(fleet, chain):
    two_workers(fleet, ORCH_WORKER_GRACE_S="20")
    job = fleet.submit(chain())
    asked = fleet.worker_of(job.until("step.started", "b"))

    asked.ask()

    assert asked.supervisor.wait(30) == 0
    fleet.check(job)
    assert job.count("step.started") == 3, job.told()


def test_a_worker_that_is_asked_to_end_hands_back_what_its_grace_does_not_suffice_for(fleet, chain):
    two_workers(fleet, ORCH_WORKER_GRACE_S="0.5", ORCH_LEASE_S="30")
    job = fleet.submit(chain(3.0))
    started = job.until("step.started", "a")
    asked = fleet.worker_of(started)

    asked_ms = fleet.now_ms()
    asked.ask()

    again = job.until("step.started", "a", after=started)
    print(f"handed back after {(again.at_ms - asked_ms) / 1000:.1f} s")
    assert again.get("worker") != started.get("worker")
    assert asked.supervisor.wait(15) == 0
    fleet.check(job)
    assert job.count("step.lost") == 0, "nobody is to blame"
    assert job.count("step.retrying") == 1


@pytest.mark.parametrize("outage", ["killed", "frozen", "full"])
def test_a_worker_ends_when_asked_though_redis_does_not_take_what_it_made(fleet, chain, outage):
    worker = fleet.worker(ORCH_WORKER_GRACE_S="0.5").until_ready()
    job = fleet.submit(chain())
    job.until("step.started", "b")

    {"killed": fleet.server.kill, "frozen": fleet.server.freeze, "full": fleet.server.fill}[outage]()
    time.sleep(1.5)
    worker.ask()

    assert worker.supervisor.wait(30) == 0
    {"killed": fleet.server.start, "frozen": fleet.server.thaw, "full": fleet.server.relieve}[outage]()
    fleet.worker()
    fleet.check(job)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_as_gentle(fleet, chain, told):
    two_workers(fleet, ORCH_WORKER_GRACE_S="20")
    job = fleet.submit(chain())
    asked = fleet.worker_of(job.until("step.started", "b"))

    os.killpg(asked.supervisor.pid, told)

    assert asked.supervisor.wait(30) == (130 if told == signal.SIGINT else 0)
    fleet.check(job)
    assert job.count("step.started") == 3, job.told()


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down_s", [0.0, 4.0])
def test_redis_is_killed_and_started_again(fleet, pipeline, chain, down_s):
    two_workers(fleet)
    jobs = [fleet.submit(pipeline()), fleet.submit(chain())]
    jobs[1].until("step.started", "b")
    before = [worker.name for worker in fleet.workers]

    fleet.server.kill()
    time.sleep(down_s)
    fleet.server.start()

    fleet.check(*jobs)
    assert [worker.name for worker in fleet.workers] == before, "a worker did not live through it"


def test_redis_is_frozen_for_longer_than_the_lease(fleet, pipeline, chain, lease_s):
    two_workers(fleet)
    jobs = [fleet.submit(pipeline()), fleet.submit(chain())]
    jobs[1].until("step.started", "b")

    fleet.server.freeze()
    time.sleep(2 * lease_s)
    fleet.server.thaw()

    fleet.check(*jobs)
    assert sum(job.count("step.lost") for job in jobs) == 0, "the living were not waited for"


def test_redis_has_no_memory_left_for_longer_than_the_lease(fleet, pipeline, chain, lease_s):
    two_workers(fleet)
    jobs = [fleet.submit(pipeline()), fleet.submit(chain())]
    jobs[1].until("step.started", "b")

    fleet.server.fill()
    time.sleep(2 * lease_s)
    fleet.server.relieve()

    fleet.check(*jobs)
    assert all(job.count("step.started") == job.count("step.succeeded") for job in jobs), (
        "a step that had been run was run again"
    )


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
def test_a_worker_that_is_cut_off_loses_its_step_to_another_and_comes_back(fleet, chain, fault):
    network = fleet.network()
    cut_off, other = fleet.worker(network.url), fleet.worker()
    cut_off.until_ready()
    other.until_ready()
    # given a job whose step runs on the worker behind that network
    job = fleet.submit(chain(1.5))
    started = job.until("step.started", worker=cut_off.name)

    # when the network is cut until another worker runs that step
    getattr(network, fault)()
    again = job.until("step.started", started.step, after=started)
    network.heal()

    assert again.get("worker") == other.name
    fleet.check(job)
    # then it takes part again
    other.kill_group()
    later = fleet.submit(chain(0.1))
    fleet.check(later)
    assert cut_off.supervisor.poll() is None


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
def test_the_only_worker_is_cut_off_for_longer_than_its_lease(fleet, pipeline, lease_s, fault):
    network = fleet.network()
    fleet.worker(network.url).until_ready()
    job = fleet.submit(pipeline())
    job.until("step.started", "builder")

    getattr(network, fault)()
    time.sleep(1.5 * lease_s)
    network.heal()

    fleet.check(job)


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_that_got_lost_are_sent_again(fleet, pipeline, chain):
    jobs = [fleet.submit(pipeline(0.1)), fleet.submit(chain(0.1))]
    assert fleet.client.delete("orch:celery:orch") == 1

    two_workers(fleet)

    fleet.check(*jobs)
    assert all(job.count("step.lost") for job in jobs)


def test_no_step_is_taken_for_lost_while_it_waits_for_a_busy_worker(fleet, chain):
    fleet.worker(concurrency=2).until_ready()

    jobs = [fleet.submit(chain(1.2)) for _ in range(6)]

    fleet.check(*jobs)
    assert [job.count("step.lost") for job in jobs] == [0] * len(jobs)


def test_a_job_whose_record_is_damaged_does_not_keep_others_from_being_looked_after(fleet, chain):
    jobs = [fleet.submit(chain(0.1)) for _ in range(6)]
    broken = jobs.pop(3)
    fleet.client.hset(f"orch:{{{broken.id}}}:steps", "a", "damaged")
    fleet.client.delete("orch:celery:orch")

    fleet.worker()

    for job in jobs:
        assert job.ended().status == "succeeded"


def test_a_message_that_others_have_overtaken_is_not_taken_for_lost(fleet, chain):
    spec = chain(2.5)
    single = {**spec, "steps": spec["steps"][:1]}
    # given a message that was sent a little later than those of steps behind it
    late = fleet.submit(single)
    message = fleet.client.rpop("orch:celery:orch")
    others = [fleet.submit(single | {"options": {"latency_s": 2.5, "seed": -n}}) for n in (1, 2)]
    fleet.client.lpush("orch:celery:orch", message)

    # when it waits for longer than a message that is gone may stay away
    fleet.worker(concurrency=1)

    fleet.check(late, *others)
    assert late.count("step.lost") == 0, late.told()


# --- poison ----------------------------------------------------------------------------------------------------------


def alone_process(worker):
    """The process of the step that runs alone in a worker, if there is one."""
    for one in psutil.Process(worker.supervisor.pid).children(recursive=True):
        try:
            command = one.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "tasks.alone" in command and not any("lifeline" in part for part in command):
            return one
    return None


def lose_twice(fleet, job, step):
    """Kill the worker of a step twice."""
    started = None
    for _ in range(2):
        started = job.until("step.started", step, after=started)
        fleet.worker_of(started).kill()
    return started


def test_a_step_that_kills_its_workers_fails_alone_and_its_neighbours_are_not_blamed(fleet, chain):
    fleet.worker().until_ready()
    poison = fleet.submit({**chain(30), "steps": [{"id": "deadly", "prompt": "x"}]})
    poison.until("step.started", "deadly")
    spec = chain(4)
    neighbour = fleet.submit({**spec, "steps": [{"id": one, "prompt": one} for one in "abc"]})
    neighbour.until("step.started", "c")

    # given a worker that dies twice with all of them
    last = lose_twice(fleet, poison, "deadly")

    # when it dies once more, in a process that runs nothing else
    alone = poison.until("step.started", "deadly", after=last)
    worker = fleet.worker_of(alone)
    fleet.until(lambda: alone_process(worker) is not None, "the step runs alone")
    alone_process(worker).kill()

    progress = poison.ended()
    assert progress.status == "failed"
    assert [failure.kind for failure in progress.failures] == ["poison"]
    assert "died" in progress.failures[0].message
    fleet.check(neighbour)


def test_a_step_that_was_unlucky_twice_succeeds_alone(fleet, chain):
    fleet.worker().until_ready()
    job = fleet.submit(chain(2.0))

    lose_twice(fleet, job, "a")

    fleet.check(job)


def test_a_step_that_runs_alone_ends_by_its_timeout(fleet, chain):
    fleet.worker().until_ready()
    spec = chain(30)
    spec["steps"] = [{"id": "a", "prompt": "x", "timeout_s": 2}]
    job = fleet.submit(spec)

    last = lose_twice(fleet, job, "a")
    alone = job.until("step.started", "a", after=last)

    progress = job.ended()
    assert [failure.kind for failure in progress.failures] == ["timeout"]
    assert (job.events[-1].at_ms - alone.at_ms) / 1000 < 10, "its call takes 30 s"


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_runs_alone_is_not_blamed_for_a_signal_to_the_group(fleet, chain, told):
    worker = fleet.worker(ORCH_WORKER_GRACE_S="0.5").until_ready()
    spec = chain(5)
    spec["steps"] = spec["steps"][:1]
    job = fleet.submit(spec)
    last = lose_twice(fleet, job, "a")
    job.until("step.started", "a", after=last)
    fleet.until(lambda: alone_process(worker) is not None, "the step runs alone")

    os.killpg(worker.supervisor.pid, told)

    assert worker.supervisor.wait(20) == (130 if told == signal.SIGINT else 0)
    assert not job.look()[-1].type.startswith("job."), job.told()
    fleet.worker()
    fleet.check(job)
