"""Runs every benchmark and writes bench/results.json and the tables of docs/PERFORMANCE.md.

    make bench                          all of them
    make bench ARGS="advantages"        some; the others keep what was last measured

Each benchmark is a module of this folder with a `measure()` that returns figures by name: what ends in `_s` is in
seconds, everything else is a ratio of two times that were taken side by side, so that it says something on another
machine too.
"""

import argparse
import importlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- written by make bench -->\n", "<!-- end -->\n"
BENCHMARKS = ("advantages", "similarity", "rescore", "viewer")


def main() -> None:
    """Measures what the command line names, all by default."""
    parser = argparse.ArgumentParser(description="Measure and record.")
    parser.add_argument("names", nargs="*", help=f"benchmarks to run, of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        print(f"{name} ...", flush=True)
        module = importlib.import_module(name)
        figures = {key: float(f"{value:.4g}") for key, value in module.measure().items()}
        results[name] = {"what": (module.__doc__ or "").strip(), "machine": machine(), "figures": figures}
        for key, value in figures.items():
            print(f"  {key:44s} {shown(key, value):>12s}", flush=True)
        write(results)


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
    return f"{value:.4g} s" if key.endswith("_s") else f"{value:.4g} x"


def tables(results: dict[str, Any]) -> str:
    """One table for each benchmark."""
    sections = []
    for name, result in results.items():
        rows = [f"| {key.removesuffix('_s')} | {shown(key, value)} |\n" for key, value in result["figures"].items()]
        head = f"\n### {name}\n\n{result['what']} On {result['machine']}.\n\n| figure | value |\n|---|---|\n"
        sections.append(head + "".join(rows))
    return "".join(sections) + "\n"


if __name__ == "__main__":
    main()
