"""Pages that need nothing but themselves: what they share, and the report of a run."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from turnwise.report.closing import health_lines, percent
from turnwise.report.credit import credit_curves
from turnwise.report.curves import Line, training_curves
from turnwise.report.evaluations import ABOUT, figures_table, last_results, sources_table, turns_table
from turnwise.report.summary import Outcome, Summary, accuracy_changes, read_summary, summarise_lines
from turnwise.report.trajectories import read_trajectories
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.evaluations import FOLDER, read_results
from turnwise.tracker.files import read_metrics
from turnwise.tracker.health import read_alarms
from turnwise.tracker.progress import duration

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "store.js", "code.js", "tokens.js", "trajectory.js", "group.js", "find.js", "viewer.js")
"""Of the viewer, in the order in which they are read; together they are one script."""


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir`/report.html from config.json, metrics.jsonl, summary.json and groups/.

    Works on a run that ended early or still goes on: what was not logged is left out, and what is broken is named.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: There is no config.json, so `run_dir` is no run's folder.
        ValueError: config.json is broken.
    """
    try:
        record = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{run_dir / 'config.json'} is not the record of a run: {error}") from error
    broken: list[str] = []
    lines = list(_sound_lines(run_dir, broken))
    summary = _summary(run_dir, lines, broken)
    page = render_page(
        "report.html.j2",
        record=record,
        record_text=json.dumps(record, indent=2, ensure_ascii=False),
        broken=broken,
        ill=_ill(run_dir, broken),
        summary=summary,
        is_course=summary.total_steps > 0 or summary.initial != summary.final or not lines,
        evaluated=_evaluated(run_dir, broken),
        changes=accuracy_changes(summary),
        training_curves=training_curves(lines),
        credit_curves=credit_curves(run_dir),
        trajectories=read_trajectories(
            {record["label"]: run_dir} | _evaluated_sets(run_dir), tokenizer=_tokenizer(run_dir)
        ),
    )
    path = run_dir / "report.html"
    write_atomically(path, page)
    return path


def render_page(template: str, *, folder: Path = HERE, scripts: Sequence[str] = (), **content: Any) -> bytes:
    """Fills a template that extends page.html.j2.

    Text that a model wrote is data to the page, never markup or script: it is escaped, the viewer sets it as text, and
    the page's own policy lets no other script run and nothing be loaded.

    Args:
        template: Name of a file in `folder`.
        folder: Where templates are looked for first; those of this package come next.
        scripts: Names of files in `folder` that run after the viewer's.
        content: What the template asks for; all of them ask for `trajectories` (`read_trajectories`).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent, "json_for_script": json_for_script}
    files = [*(HERE / "viewer" / name for name in SCRIPTS), *(folder / name for name in scripts)]
    script = '"use strict";\n' + "".join(path.read_text(encoding="utf-8") for path in files)
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(script=script, script_hash=script_hash, **content)
    return text.encode("utf-8", "replace")


def json_for_script(data: Any) -> str:
    """JSON in ASCII without a character that HTML reads as markup, so that no text in it can end its element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _sound_lines(run_dir: Path, broken: list[str]) -> Iterator[Line]:
    """The lines of metrics.jsonl up to the first that is broken."""
    try:
        yield from read_metrics(run_dir)
    except ValueError as error:
        broken.append(str(error))


def _ill(run_dir: Path, broken: list[str]) -> list[str]:
    """What the alarms of the run were about."""
    try:
        return health_lines(list(read_alarms(run_dir)))
    except ValueError as error:
        broken.append(str(error).replace(f"{run_dir}/", ""))
        return []


def _evaluated(run_dir: Path, broken: list[str]) -> dict[str, Any] | None:
    """The tables of the last evaluation of each set; None where there is none that is whole."""
    try:
        results = last_results(list(read_results(run_dir)))
    except ValueError as error:
        broken.append(str(error).replace(f"{run_dir}/", ""))
        return None
    if not results:
        return None
    return {
        "about": ABOUT,
        "figures": figures_table(results),
        "turns": turns_table(results),
        "sources": sources_table(results),
    }


def _evaluated_sets(run_dir: Path) -> dict[str, Path]:
    """Folders of bundles by the label that the viewer gives them."""
    folders = sorted(path for path in (run_dir / FOLDER).glob("*") if (path / "groups").is_dir())
    return {f"evaluation: {folder.name}": folder for folder in folders}


def _tokenizer(run_dir: Path) -> Path:
    """The tokenizer of the policy: of its last checkpoint, or what an evaluation left."""
    trained = run_dir / "checkpoints" / "last" / "tokenizer.json"
    return trained if trained.exists() else run_dir / "tokenizer" / "tokenizer.json"


def _summary(run_dir: Path, lines: Sequence[Line], broken: list[str]) -> Summary:
    try:
        return read_summary(run_dir)
    except FileNotFoundError:
        why = "no summary.json: it was killed or still goes on"
    except ValueError as error:
        why = "summary.json is broken"
        broken.append(str(error))
    wall_s = sum(line.get("time/step_s") or 0.0 for line in lines)
    return summarise_lines(lines, outcome=Outcome.stopped, why=why, wall_s=wall_s)
