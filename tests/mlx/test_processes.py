"""How a process with a model in it ends, and what happens when it forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """
import os, sys, threading
from providers.errors import ProviderError
from providers.mlx import MlxProvider
provider = MlxProvider({model!r})
hi = [dict(role="system", content=""), dict(role="user", content="Hi")]
"""


def run(script: str, model: str = "") -> subprocess.CompletedProcess[str]:
    code = (HEAD.format(model=model) if model else "") + script
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_looking_at_the_provider_does_not_import_mlx() -> None:
    done = run(
        "import sys, providers.mlx; from providers.registry import create\n"
        "print({'mlx', 'mlx_lm', 'llguidance', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )

    assert done.stdout == "set()\n", done.stderr


def test_a_process_ends_well_after_a_model_that_is_broken(packed_model: str, tmp_path: Path) -> None:
    for file in Path(packed_model).iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:-1_000_000] if file.suffix == ".safetensors" else content)

    done = run(
        """
try:
    provider.generate(hi, max_tokens=1)
except ProviderError as error:
    print(error)
""",
        str(tmp_path),
    )

    assert done.returncode == 0, done.stderr
    assert "cannot be loaded" in done.stdout


def test_a_process_ends_well_with_requests_in_flight(small_model: str) -> None:
    done = run(
        """
def ask():
    try:
        provider.generate(hi, max_tokens=2000)
    except ProviderError as error:
        print(type(error).__name__, flush=True)
for number in range(2):
    threading.Thread(target=ask, daemon=number > 0).start()
while provider.engine.figures.steps < 3:
    threading.Event().wait(0.01)
""",
        small_model,
    )

    assert done.returncode == 0, done.stderr
    assert "ServerError" in done.stdout


def test_a_forked_process_is_told_instead_of_hanging_and_its_parent_ends_well(small_model: str) -> None:
    done = run(
        """
provider.generate(hi, max_tokens=1)
child = os.fork()
if not child:
    try:
        provider.generate(hi, max_tokens=1)
    except ProviderError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(provider.generate(hi, max_tokens=1).usage.tokens_out)
""",
        small_model,
    )

    assert done.returncode == 0, done.stderr
    assert "mlx: MLX was used before this process was forked" in done.stdout
    assert done.stdout.endswith("1\n")
