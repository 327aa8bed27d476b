"""Ctrl-C and kill, taken as a wish to stop after the current step."""

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Notes SIGINT and SIGTERM while inside; a second SIGINT raises KeyboardInterrupt at once.

    Outside the main thread, where Python allows no handlers, it notes nothing.

    Attributes:
        signal: Number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number
