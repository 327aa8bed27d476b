"""How far a run is: a bar on a terminal, a log line now and then without one."""

import logging
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

LOGGER = logging.getLogger("jaxembed.train")
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows the work done, its rate, the time left and the newest metrics on standard error."""

    def __init__(self, description: str, unit: str, done: float | int, total: float | int | None):
        """Starts the clock.

        Args:
            description: What is running.
            unit: What the work is counted in, plural.
            done: Work done before this start, which does not count for the rate.
            total: All the work, or None if that is unknown.
        """
        self.description, self.unit, self.total = description, unit, total
        self.first, self.done = done, done
        self.start = self.last_line = time.monotonic()
        self.values = ""
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=description,
                unit=f" {unit}",
                unit_scale=True,
                initial=done,
                total=total,
                dynamic_ncols=True,
            )

    def update(self, work: float | int) -> None:
        """Adds finished work."""
        self.done += work
        if self.bar is not None:
            self.bar.update(work)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.log_line()

    def show(self, values: Mapping[str, float]) -> None:
        """Takes metrics to show from now on."""
        self.values = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.values, refresh=False)

    def log_line(self) -> None:
        """Logs one line at level INFO."""
        self.last_line = time.monotonic()
        rate = (self.done - self.first) / max(self.last_line - self.start, 1e-9)
        line = f"{self.description}: {self.done:,.0f} {self.unit}"
        if self.total is not None:
            line += f" of {self.total:,.0f} ({self.done / max(self.total, 1):.0%})"
        line += f", {rate:,.0f} {self.unit}/s"
        if self.total is not None and rate > 0:
            line += f", {tqdm.format_interval(max(self.total - self.done, 0) / rate)} left"
        LOGGER.info(f"{line}, {self.values}" if self.values else line)

    def close(self) -> None:
        """Ends the bar, or logs a last line."""
        if self.bar is not None:
            self.bar.close()
        else:
            self.log_line()
