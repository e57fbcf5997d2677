"""How many inputs are tried: a few, the same every time; or (`make fuzz`) many new ones. They are counted."""

import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

_TRIED = pytest.StashKey[int]()
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]

settings.register_profile(
    "few", derandomize=True, deadline=None, database=None, max_examples=50, suppress_health_check=_SLOW
)
settings.register_profile(
    "fuzz",
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("EXAMPLES", "2000")),
    suppress_health_check=_SLOW,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    told = getattr(item, "hypothesis_statistics", "")
    tried = sum(map(int, re.findall(r"(\d+) (?:passing|failing)", told)))
    item.config.stash[_TRIED] = item.config.stash.get(_TRIED, 0) + tried
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried = terminalreporter.config.stash.get(_TRIED, 0)
    if tried:
        terminalreporter.write_line(f"{tried:,} inputs tried by property tests")
