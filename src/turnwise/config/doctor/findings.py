"""The findings of an examination: printed as they come, kept as a file, and what they come to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from turnwise.config.wiring import say
from turnwise.preflight.finding import Finding, Verdict
from turnwise.tracker.atomic import write_atomically

_STYLES = {
    Verdict.passed: "bold green",
    Verdict.warning: "bold yellow",
    Verdict.failed: "bold red",
    Verdict.skipped: "bold blue",
}
FAILURES = (ValueError, OSError, ImportError, RuntimeError, ArithmeticError)
"""What a run would be refused for, or would end with."""


class Findings:
    """All findings so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._found: list[Finding] = []

    @contextmanager
    def checking(self, name: str) -> Iterator[Finding]:
        """Within it something is checked; what it raises is a finding, and the next check goes on."""
        finding = Finding(name)
        try:
            yield finding
        except FAILURES as error:
            finding.fail(str(error) or type(error).__name__)
        self._found.append(finding)
        show(self._console, finding)

    def close(self, run_dir: Path) -> None:
        """Leaves doctor.json and says what all comes to.

        Raises:
            SystemExit: With code 1, if a check failed.
        """
        text = json.dumps([asdict(finding) for finding in self._found], indent=2, ensure_ascii=False) + "\n"
        write_atomically(run_dir / "doctor.json", text.encode("utf-8", "surrogatepass"))
        if failed := self._of(Verdict.failed):
            counts = f"{len(failed)} of {len(self._found)} checks failed: {', '.join(failed)}"
            say(self._console, f"{counts}; findings in {run_dir / 'doctor.json'}")
            raise SystemExit(1)
        but = ""
        for verdict, word in ((Verdict.warning, "warned"), (Verdict.skipped, "skipped")):
            if names := self._of(verdict):
                but += f", {len(names)} {word} ({', '.join(names)})"
        say(self._console, f"{len(self._found)} checks, none failed{but}; findings in {run_dir / 'doctor.json'}")

    def _of(self, verdict: Verdict) -> list[str]:
        return [finding.check for finding in self._found if finding.verdict is verdict]


def show(console: Console, finding: Finding) -> None:
    """Prints a finding: its verdict, then its lines, then what would mend it."""
    verdict = Text(f"{finding.verdict.value:4} ", style=_STYLES[finding.verdict])
    console.print(verdict + Text(finding.check, style="bold"), highlight=False)
    for line in finding.lines:
        say(console, f"     {line}")
    for remedy in dict.fromkeys(finding.remedies):
        say(console, f"     remedy: {remedy}")
