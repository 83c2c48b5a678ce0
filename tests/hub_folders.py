"""Folders laid out like data sets of the hub, which the package `datasets` takes in their place."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_hub(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], config: str = "default") -> str:
    """Writes the splits with a card that names them; returns the folder's path."""
    folder.mkdir(parents=True)
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in splits.items():
        lines += [f"  - split: {split}", f"    path: {split}.jsonl"]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)
