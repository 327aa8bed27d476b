"""What a run logged, read back and drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def read_metrics(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads a run's log.

    Args:
        folder: The run directory.

    Returns:
        For each metric arrays of its `step`, `value`, `work` and `seconds`; empty where nothing
        was logged.
    """
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = dict.fromkeys(line["name"] for line in lines)
    return {
        name: {
            key: np.array([line[key] for line in lines if line["name"] == name])
            for key in ("step", "value", "work", "seconds")
        }
        for name in names
    }


def draw_curves(figure: Any, folder: Path, names: list[str], *, xlabel: str, ylabel: str) -> None:
    """Draws logged metrics over the steps of the run."""
    metrics = read_metrics(folder)
    axes = figure.add_subplot()
    for name in names:
        axes.plot(metrics[name]["step"], metrics[name]["value"], label=name, linewidth=1.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
