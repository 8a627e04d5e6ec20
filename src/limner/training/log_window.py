"""Numbers of several training steps, averaged for one line of a run's log."""

import math
from collections.abc import Mapping


class LogWindow:
    """Numbers since the last line of the log; their means make the next line."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.steps, self.seconds = 0, 0.0

    def add(self, logs: dict[str, float], seconds: float) -> None:
        """Add the numbers of a training step, and its duration in seconds."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        self.note(logs)

    def note(self, logs: Mapping[str, float]) -> None:
        """Add numbers that belong to no step."""
        for name, value in logs.items():
            self.values.setdefault(name, []).append(value)

    @property
    def seconds_a_step(self) -> float:
        """Mean seconds of a training step, without saving and painting."""
        return self.seconds / max(1, self.steps)

    def means(self, images_per_step: int) -> dict[str, float | None]:
        """Return the mean of each number's finite values; None if it has none."""
        means: dict[str, float | None] = {
            "images_per_second": round(images_per_step / self.seconds_a_step, 2)
        }
        for name, values in self.values.items():
            finite = [value for value in values if math.isfinite(value)]
            means[name] = float(f"{sum(finite) / len(finite):.6g}") if finite else None
        return means
