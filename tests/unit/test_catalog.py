"""What is known of models: prices, limits, defaults, and the user's own file over the built-in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers import Usage
from providers.catalog import Limits, Price, load_catalog
from providers.config import Config
from providers.errors import NotReady

PRICE = Price(input=2.0, output=10.0)
CACHED = Price(input=2.0, output=10.0, cached_input=0.2, cache_write=2.5)
MILLION = 1_000_000


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


# --- prices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "usage", "usd"),
    [
        (PRICE, Usage(MILLION, 0), 2.0),
        (PRICE, Usage(0, MILLION), 10.0),
        (PRICE, Usage(500, 100), 0.002),
        (PRICE, Usage(0, 0), 0.0),
        (CACHED, Usage(MILLION, 0, cached_in=MILLION), 0.2),
        (CACHED, Usage(MILLION, 0, cache_written=MILLION), 2.5),
        (CACHED, Usage(MILLION, 0, cached_in=500_000, cache_written=250_000), 0.1 + 0.625 + 0.5),
        (PRICE, Usage(MILLION, 0, cached_in=MILLION), 2.0),
        (PRICE, Usage(MILLION, 0, cache_written=MILLION), 2.0),
        (Price(input=0, output=0), Usage(MILLION, MILLION, 3, 4), 0.0),
    ],
)
def test_a_call_costs_what_its_tokens_cost(price: Price, usage: Usage, usd: float) -> None:
    assert price.cost(usage) == pytest.approx(usd)


@pytest.mark.parametrize("usage", [Usage(None, 5), Usage(5, None), Usage()])
def test_a_call_of_which_not_all_tokens_are_known_has_no_known_cost(usage: Usage) -> None:
    assert PRICE.cost(usage) is None


def test_more_cached_tokens_than_there_were_do_not_make_a_call_cheaper_than_they_cost() -> None:
    assert CACHED.cost(Usage(10, 0, cached_in=MILLION)) == pytest.approx(0.2)


def test_the_price_of_a_model_that_nobody_knows_is_not_zero() -> None:
    assert load_catalog().price("openai", "no-such-model") is None
    assert load_catalog().price("no-such-provider", None) is None


@pytest.mark.parametrize("provider", ["mlx", "ollama", "scaffold", "simulated"])
def test_what_runs_on_ones_own_machines_costs_nothing_whatever_the_model(provider: str) -> None:
    price = load_catalog().price(provider, "any")

    assert price
    assert price.cost(Usage(MILLION, MILLION)) == 0


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_paid_vendors_default_model_has_a_price(provider: str) -> None:
    catalog = load_catalog()

    assert catalog.price(provider, catalog.default_model(provider)) is not None


# --- the user's own file ----------------------------------------------------------------------------------------------


def test_the_users_file_goes_over_the_built_in_one_key_by_key(own: Path) -> None:
    own.write_text(
        """
        [openai]
        default_model = "mine"
        limits = { requests_per_minute = 60 }
        [openai.models.mine]
        usd_per_million_tokens = { input = 0.5, output = 1.5 }
        limits = { concurrency = 8, tokens_per_minute = 100_000 }
        """
    )

    catalog = load_catalog(own)

    built_in = load_catalog()
    assert catalog.default_model("openai") == "mine"
    assert catalog.price("openai", "mine") == Price(input=0.5, output=1.5)
    assert catalog.price("openai", built_in.default_model("openai")) == built_in.price(
        "openai", built_in.default_model("openai")
    )
    assert catalog.max_tokens("openai") == built_in.max_tokens("openai")
    assert catalog.limits("openai", "mine") == Limits(concurrency=8, tokens_per_minute=100_000)
    assert catalog.limits("openai", "another") == Limits(requests_per_minute=60)
    assert catalog.limits("anthropic", None) == Limits()
    assert catalog.knows("openai", "mine")
    assert not built_in.knows("openai", "mine")
    assert Config(models_file=own).catalog.default_model("openai") == "mine"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[openai", "cannot be read"),
        ("openai = 5", "(got 5)"),
        ('[openai]\nmodels.m.usd_per_million_tokens = { input = "cheap", output = 1 }', "input"),
        ("[openai]\nmodels.m.usd_per_million_tokens = { input = 1 }", "output"),
        ("[openai]\nmodels.m.usd_per_million_tokens = { input = -1, output = 1 }", "input"),
        ("[openai]\nlimits = { concurrency = 0 }", "concurrency"),
        ("[openai]\nlimits = { requests_per_hour = 5 }", "requests_per_hour"),
        ("[openai]\nmax_tokens = 0", "max_tokens"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(own: Path, text: str, named: str) -> None:
    own.write_text(text)

    with pytest.raises(NotReady) as raised:
        load_catalog(own)

    assert str(own) in str(raised.value)
    assert named in str(raised.value)


@pytest.mark.parametrize("make", ["nothing", "a folder", "no text"])
def test_a_file_that_cannot_be_read_is_named(own: Path, make: str) -> None:
    if make == "a folder":
        own.mkdir()
    if make == "no text":
        own.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(NotReady, match="cannot be read"):
        load_catalog(own)
