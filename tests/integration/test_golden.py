"""What `scaffold` makes of the example, byte for byte. `make golden-update` writes the files anew."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.golden]

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"


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
