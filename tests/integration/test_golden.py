"""What `scaffold` makes of the example, byte for byte. `make golden-update` writes the files anew."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.golden]

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
REPORTS = ("qa_report.json", "qa_report.md", "plan.json")


def _tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_the_example_is_built_byte_for_byte_and_the_same_from_the_cache(orch):
    example = str(ROOT / "examples" / "notes_api.yaml")

    for _ in range(2):
        ran = orch("run", example)
        assert ran.code == 0, ran.err
        assert _tree(orch.runs[-1] / "outputs") == _tree(GOLDEN)


def test_two_workers_build_the_same_twice_and_the_same_as_one(orch, redis_url, start_worker):
    # given a fleet that has no answers yet
    for _ in range(2):
        start_worker(concurrency=2)
    orch.env["ORCH_REDIS_URL"] = redis_url
    example = str(ROOT / "examples" / "notes_api.yaml")

    # when it runs the job, and runs it again
    seen = []
    for _ in range(2):
        submitted = orch("submit", example, "--wait", timeout=120)
        assert submitted.code == 0, submitted.err
        job_id = submitted.out.strip()
        assert orch("pull", job_id).code == 0
        folder = orch.folder / "runs" / job_id
        reports = {name: (folder / "artifacts" / name).read_bytes() for name in REPORTS}
        seen.append((_tree(folder / "outputs"), reports))

    # then all of it is the same, the evidence of the checks included
    assert seen[0] == seen[1]
    assert seen[0][0] == _tree(GOLDEN)
    usage = orch("show", job_id, "--json").json()["usage"]
    assert (usage["provider_calls"], usage["cache_hits"]) == (0, 16)
