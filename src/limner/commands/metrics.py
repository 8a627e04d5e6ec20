"""`limner metrics`: list the metrics."""

import typer

from limner.commands.arguments import AsJson, print_json


def metrics_command(as_json: AsJson = False) -> None:
    """List the metrics: what each reads and needs, and where it is defined."""
    from limner.commands.listing import describe_metric, metrics_text
    from limner.evaluate.metric import metrics

    classes = metrics().values()
    if as_json:
        print_json([describe_metric(metric) for metric in classes])
    else:
        typer.echo(metrics_text(classes))
