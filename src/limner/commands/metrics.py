"""The command that lists the metrics."""

import typer

from limner.commands.arguments import AsJson, print_json


def metrics(as_json: AsJson = False) -> None:
    """List the metrics: what each reads and needs, and where it is defined."""
    from limner.commands.listing import described_metric, metrics_text
    from limner.evaluate.metric import metrics as registered

    if as_json:
        print_json([described_metric(each) for each in registered().values()])
    else:
        typer.echo(metrics_text(registered().values()))
