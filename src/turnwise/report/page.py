"""The report of a run: one page that needs nothing but itself."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from turnwise.report.closing import percent
from turnwise.report.credit import read_credit
from turnwise.report.curves import training_curves
from turnwise.report.summary import Outcome, Summary, accuracy_changes, read_summary, summarise_run
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.files import read_metrics
from turnwise.tracker.progress import duration


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir`/report.html from config.json, metrics.jsonl, summary.json and groups/.

    Works on a run that ended early or still goes on: what was not logged is left out. Text that a model wrote is data
    to the page, never markup or script: it is escaped, the viewer sets it as text, and the page's own policy lets no
    other script run and nothing be loaded.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: There is no config.json, so `run_dir` is no run's folder.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    record = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    lines = list(read_metrics(run_dir))
    credit = read_credit(run_dir)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent}
    script = environment.get_template("viewer.html.j2").render()
    summary = _summary(run_dir, lines)
    page = environment.get_template("report.html.j2").render(
        record=record,
        record_text=json.dumps(record, indent=2, ensure_ascii=False),
        summary=summary,
        changes=accuracy_changes(summary),
        training_curves=training_curves(lines),
        credit=credit,
        steps_json=json_for_script(credit.steps),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = run_dir / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def json_for_script(data: Any) -> str:
    """JSON in ASCII without a character that HTML reads as markup, so that no text in it can end its element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _summary(run_dir: Path, lines: list[dict[str, float | None]]) -> Summary:
    try:
        return read_summary(run_dir)
    except FileNotFoundError:
        why = "no summary.json: it was killed or still goes on"
        seconds = sum(line.get("time/step_s") or 0.0 for line in lines)
        return summarise_run(run_dir, outcome=Outcome.stopped, why=why, wall_s=seconds)
