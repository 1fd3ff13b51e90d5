"""What a project may ask for: names on the list, with versions, and nothing that is a way around it."""

from __future__ import annotations

import pytest

from tasks.venvs import NotInstalled, allowed_packages, extra_packages, normalised, requirements


def test_plain_names_with_versions_are_taken_in_one_spelling_and_order() -> None:
    text = "# web\nFastAPI >= 0.115 , <1  # yes\n\nuvicorn[Standard]==0.30.*\nPython_Multipart~=0.0.9\n"

    wanted = requirements({"requirements.txt": text})

    assert wanted == ("fastapi>=0.115,<1", "pytest", "python-multipart~=0.0.9", "uvicorn[standard]==0.30.*")


def test_the_order_of_lines_does_not_matter() -> None:
    assert requirements({"requirements.txt": "rich\nclick"}) == requirements(
        {"requirements.txt": "click\nrich\n"}
    )


def test_a_project_that_asks_for_nothing_gets_pytest() -> None:
    assert requirements({}) == ("pytest",)


def test_without_requirements_the_dependencies_in_pyproject_count() -> None:
    text = '[project]\nname = "x"\ndependencies = ["rich>=13"]\n[project.optional-dependencies]\ndev = ["pytest>=8"]\n'

    assert requirements({"pyproject.toml": text}) == ("pytest>=8", "rich>=13")


@pytest.mark.parametrize(
    "text", ["", "[", "project = 1", "[project]\ndependencies = 3", "[project]\nname = 'x'"]
)
def test_a_pyproject_that_says_nothing_usable_asks_for_nothing(text: str) -> None:
    assert requirements({"pyproject.toml": text}) == ("pytest",)


@pytest.mark.parametrize(
    "line",
    [
        "-r more.txt",
        "-e .",
        ".",
        "./evil",
        "/tmp/evil.whl",
        "evil.whl",
        "--index-url https://evil.example/simple",
        "--extra-index-url=https://evil.example",
        "https://evil.example/x.tar.gz",
        "git+https://evil.example/x",
        "rich @ https://evil.example/rich.whl",
        "rich --config-settings x=y",
        "rich; os_name == 'posix'",
        "rich \\",
        "rich>=$VERSION",
        "${EVIL}",
        "rich click",
        "rich==1 --hash=sha256:00",
        "-rich",
        "rich\u2028-e .",
        "ríçh",
    ],
)
def test_anything_else_is_refused_and_quoted(line: str) -> None:
    with pytest.raises(NotInstalled) as refused:
        requirements({"requirements.txt": f"click\n{line}\n"})

    assert "only names with versions" in str(refused.value) or "not on the list" in str(refused.value)


def test_a_name_that_is_not_on_the_list_is_refused_until_the_settings_add_it() -> None:
    files = {"requirements.txt": "Fast_API.utils2>=1"}

    with pytest.raises(NotInstalled, match="fast-api-utils2 is not on the list"):
        requirements(files)

    assert "fast-api-utils2>=1" in requirements(files, extra_packages(" other, Fast.API_utils2 ,"))


def test_the_list_is_well_formed() -> None:
    assert {"fastapi", "sqlalchemy", "pytest", "pyyaml"} <= allowed_packages()
    assert all(name == normalised(name) for name in allowed_packages())
    assert extra_packages(None) == frozenset()
