"""`limner metrics`: the metrics, as text and as JSON."""

from collections.abc import Iterable
from typing import Any

import typer

from limner.commands.arguments import AsJson, print_json
from limner.evaluate.metric import NEEDS, Metric, metrics
from limner.evaluate.tables import aligned


def described_metric(metric: type[Metric]) -> dict[str, Any]:
    """A metric as plain values."""
    return {
        "name": metric.name,
        "summary": metric.summary,
        "paper": vars(metric.paper),
        "reads": list(metric.reads),
        "needs": [NEEDS[what] for what in metric.reads],
        "least": metric.least,
        "better": metric.better,
        "interval": list(metric.redrawn),
    }


def metrics_text(metrics: Iterable[type[Metric]]) -> str:
    """One line a metric: name, what it says, what it needs, least pictures, better, paper."""
    head = ("name", "what it says", "needs", "least n", "better", "paper")
    return "\n".join(aligned([head, *map(metric_row, metrics)]))


def metric_row(metric: type[Metric]) -> tuple[str, ...]:
    """A metric in words."""
    needs = ", ".join(NEEDS[what] for what in metric.reads)
    paper = metric.paper.identifier
    return metric.name, metric.summary, needs, str(metric.least), metric.better, paper


def metrics_command(as_json: AsJson = False) -> None:
    """List the metrics: what each reads and needs, and where it is defined."""
    if as_json:
        print_json([described_metric(each) for each in metrics().values()])
    else:
        typer.echo(metrics_text(metrics().values()))
