"""A plugin of pytest for the suites of other packages: `-p rerouting --determinants rerouted`.

Every test starts with the same seeds, runs with torch's determinants counted, and with them
rerouted to torchdet where that is asked for. Fixtures and `setUp` are part of the test.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy
import pytest
import torch
from determinants import counted


class Report:
    """Outcomes and reasons of failures by test; calls of determinants, and what became of them."""

    def __init__(self, rerouted: bool, path: Path) -> None:
        self.rerouted, self.path = rerouted, path
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.made: Counter[str] = Counter()
        self.reached_torch: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        torch.manual_seed(0)
        numpy.random.seed(0)  # noqa: NPY002  the packages draw from this generator
        random.seed(0)
        with counted(self.rerouted) as (made, reached_torch):
            result = yield
        self.made.update(made.calls)
        self.reached_torch.update(reached_torch.calls)
        return result

    def pytest_runtest_logreport(self, report):
        # A test has a report for every phase and every subtest: one failure is enough.
        if report.outcome != "passed" or report.nodeid not in self.outcomes:
            self.outcomes[report.nodeid] = report.outcome
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
            self.reasons[report.nodeid] = reason.strip().splitlines()[0]

    def pytest_collectreport(self, report):
        if report.outcome == "failed":
            self.outcomes[report.nodeid] = "not collected"
            self.reasons[report.nodeid] = str(report.longrepr).strip().splitlines()[-1]

    def pytest_sessionfinish(self):
        self.path.write_text(
            json.dumps(
                {
                    "outcomes": self.outcomes, "reasons": self.reasons,
                    "made": self.made, "reached_torch": self.reached_torch,
                }
            )
        )  # fmt: skip


def pytest_addoption(parser):
    """The options of this plugin."""
    parser.addoption("--determinants", choices=("stock", "rerouted"), required=True)
    parser.addoption("--outcomes", type=Path, required=True, help="a JSON file to write")


def pytest_configure(config):
    """Starts the report."""
    rerouted = config.getoption("--determinants") == "rerouted"
    config.pluginmanager.register(Report(rerouted, config.getoption("--outcomes").absolute()))
