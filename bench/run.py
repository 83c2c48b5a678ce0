"""Runs every benchmark and writes bench/results.json and the tables of docs/PERFORMANCE.md.

    make bench                          all of them
    make bench ARGS="advantages"        some; the others keep what was last measured

Each benchmark is a module of this folder with a `measure()` that returns figures by name, whose ending is their unit
(`UNITS`). Without one it is a ratio of two times, or of two sizes, that were taken side by side, so that it says
something on another machine too. What grows along an axis is a `Table` instead of a figure. A benchmark that lacks
something is skipped, and the line that says so names what prepares it.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from prepared import NotPrepared, Unsuitable
from table import Table, plain, rounded

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- written by make bench -->\n", "<!-- end -->\n"
BENCHMARKS = (
    "advantages",
    "similarity",
    "grading",
    "sandbox",
    "rescore",
    "viewer",
    "scaling",
    "limits",
    "memory",
    "step_time",
    "peer",
    "gpu",
)
UNITS = {
    "_s": (1.0, "s"),
    "_mib": (1.0, "MiB"),
    "_gflops": (1.0, "GFLOP/s"),
    "_rate": (1.0, "tokens/s"),
    "_answers": (1.0, "answers/s"),
    "_bandwidth": (1.0, "GB/s"),
    "_share": (100.0, "%"),
}
"""What a figure is multiplied by, and what is written behind it, by the ending of its name."""


def main() -> int:
    """Measures what the command line names, all by default; 1 if what it names was skipped and can be had."""
    parser = argparse.ArgumentParser(description="Measure and record.")
    parser.add_argument("names", nargs="*", help=f"benchmarks to run, of {', '.join(BENCHMARKS)}; all by default")
    named = parser.parse_args().names
    names = named or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    skipped: list[str] = []
    for name in names:
        print(f"{name} ...", flush=True)
        module = importlib.import_module(name)
        try:
            measured: dict[str, float | Table] = module.measure()
        except NotPrepared as error:
            print(f"  skipped: {name} {error}", flush=True)
            if not isinstance(error, Unsuitable):
                skipped.append(name)
            continue
        figures = {key: rounded(value) for key, value in measured.items() if not isinstance(value, Table)}
        along = {key: value for key, value in measured.items() if isinstance(value, Table)}
        results[name] = {"what": (module.__doc__ or "").strip(), "machine": machine(), "figures": figures}
        if along:
            results[name]["tables"] = {key: asdict(value) for key, value in along.items()}
        for key, value in figures.items():
            print(f"  {key:44s} {shown(key, value):>12s}", flush=True)
        for key, value in along.items():
            print(f"\n{key}\n\n{value.markdown()}", flush=True)
        write(results)
    return 1 if named and skipped else 0


def write(results: dict[str, Any]) -> None:
    """Keeps what was measured so far, as data and as the tables of the page."""
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + tables(results) + END + rest.partition(END)[2])


def machine() -> str:
    """What the figures were taken on."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{device}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {packages}"


def shown(key: str, value: float) -> str:
    """A figure with its unit."""
    factor, unit = next((UNITS[ending] for ending in UNITS if key.endswith(ending)), (1.0, "x"))
    return f"{plain(factor * value)} {unit}"


def tables(results: dict[str, Any]) -> str:
    """One table of figures for each benchmark, and one for each axis."""
    sections = []
    for name, result in results.items():
        rows = [f"| {_named(key)} | {shown(key, value)} |\n" for key, value in result["figures"].items()]
        sections.append(f"\n### {name}\n\n{result['what']} On {result['machine']}.\n")
        if rows:
            sections.append("\n| figure | value |\n|---|---|\n" + "".join(rows))
        sections += [f"\n{Table(**table).markdown()}" for table in result.get("tables", {}).values()]
    return "".join(sections) + "\n"


def _named(key: str) -> str:
    """The name of a figure without the ending that its unit stands for."""
    ending = next((ending for ending in ("_s", "_mib", "_gflops") if key.endswith(ending)), "")
    return key.removesuffix(ending)


if __name__ == "__main__":
    sys.exit(main())
