"""The numbers of several steps, of which a run's log has the means."""

import math
from collections.abc import Mapping


class LogWindow:
    """Collects numbers between two lines of the log, and makes the next line of their means."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.steps, self.seconds = 0, 0.0

    def add(self, logs: dict[str, float], seconds: float) -> None:
        """Add the numbers of a training step, and how long it took."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        self.note(logs)

    def note(self, logs: Mapping[str, float]) -> None:
        """Add numbers that belong to no step."""
        for name, value in logs.items():
            self.values.setdefault(name, []).append(value)

    @property
    def seconds_a_step(self) -> float:
        """Seconds of a training step, without those of saving and painting."""
        return self.seconds / max(1, self.steps)

    def means(self, images_per_step: int) -> dict[str, float | None]:
        """The mean of the finite values of each number; null where there is none."""
        found: dict[str, float | None] = {
            "images_per_second": round(images_per_step / self.seconds_a_step, 2)
        }
        for name, values in self.values.items():
            finite = [value for value in values if math.isfinite(value)]
            found[name] = float(f"{sum(finite) / len(finite):.6g}") if finite else None
        return found
