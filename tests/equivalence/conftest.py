"""Prints the figures that docs/PAPER.md section 8 cites."""

import pytest

from equivalence.comparison import LARGEST


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each comparison that ran."""
    if LARGEST:
        terminalreporter.section("largest absolute difference between turnwise and its peer")
        for name, difference in sorted(LARGEST.items()):
            terminalreporter.write_line(f"{difference:8.1e}  {name}")
