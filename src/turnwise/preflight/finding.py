"""What a check comes to."""

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What a check comes to."""

    passed = "pass"
    warning = "warn"
    failed = "fail"
    skipped = "skip"


@dataclass
class Finding:
    """One check: its verdict, what was found in words, and what would mend it."""

    check: str
    verdict: Verdict = Verdict.passed
    lines: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Something worth knowing."""
        self.lines.append(line)

    def warn(self, line: str, remedy: str) -> None:
        """Something that need not be wrong."""
        self.lines.append(line)
        self.remedies.append(remedy)
        if self.verdict is Verdict.passed:
            self.verdict = Verdict.warning

    def fail(self, line: str, remedy: str = "") -> None:
        """Something with which the run would end, or mean nothing."""
        self.lines.append(line)
        if remedy:
            self.remedies.append(remedy)
        self.verdict = Verdict.failed

    def skip(self, line: str) -> None:
        """It was not looked at, and why."""
        self.lines.append(line)
        self.verdict = Verdict.skipped
