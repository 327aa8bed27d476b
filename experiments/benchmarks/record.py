"""Where measurements are kept: one JSON line each, with the machine that made it."""

import datetime
import json
from pathlib import Path
from typing import Any

from jaxembed.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def record(name: str, row: dict[str, Any]) -> None:
    """Appends a measurement to results/NAME.jsonl and prints it.

    Args:
        name: File name without ending.
        row: JSON values: what was measured, with which settings.
    """
    line = {"date": datetime.date.today().isoformat()} | row
    print(json.dumps(line), flush=True)
    line["environment"] = describe_environment()
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
