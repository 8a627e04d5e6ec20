"""The command line and the list of its verbs.

The file of a verb is imported when the verb is typed. Its work is done in other files, which are
imported when the verb runs, so that help does not wait for torch.
"""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from limner.commands import data_check

VERBS = {
    "demo": "Train a small model on emoji for a minute, and write a page that shows what it "
    "learnt.",
    "doctor": "Check this machine: versions, cores, speed and data, with a remedy for what is "
    "missing.",
    "models": "List the models, or the options of one.",
    "options": "Explain the options of training, of a data source, or of a model.",
    "metrics": "List the metrics: what each reads and needs, and where it is defined.",
    "recipes": "List the recipes that come with limner: what each trains, and on what.",
    "train": "Train a model by a recipe, or by name on a source of data.",
    "resume": "Continue a run that was stopped, bit for bit as if it had never stopped.",
    "average": "Make other averages of a run's weights, long or short, as separate models.",
    "sample": "Paint pictures with a trained model, as PNG files that store how they were made.",
    "sample-set": "Paint a data set: any number of pictures, in shards, with one or more workers.",
    "edit": "Repaint pictures from a prompt: the whole, a part, or only what changed words affect.",
    "reconstruct": "Show pictures, your own or from the data, above their reconstructions by a "
    "model.",
    "interpolate": "Interpolate between the codes of pictures; with one picture, vary the "
    "numbers of its code.",
    "style-mix": "Mix styles: each picture is the one to its left, with the styles of some layers "
    "from the one above.",
    "translate": "Translate pictures from one domain to another; show each with its translation "
    "and back-translation.",
    "upscale": "Make pictures of any size larger; alpha and the frames of animations are kept.",
    "walk": "Interpolate from the picture of one seed to the picture of another.",
    "attention": "Show where a model looks in a picture for each word of a given or stored prompt.",
    "evaluate": "Evaluate a model or a folder of pictures against real ones; a run also keeps the "
    "report.",
    "compare": "Compare runs, models and folders of pictures: a leaderboard, also as a web page.",
    "score": "Report how likely pictures are under a model, compared with real ones.",
    "export": "Write a model for other programs: diffusers, ONNX, or a page for any browser.",
    "studio": "Open the studio: type a prompt in a browser, watch the picture form, keep it.",
    "studio-worker": "Take jobs from a studio's database on another host, and paint them with this "
    "host's models.",
}
"""Verb -> help: the first docstring line of its function `VERB_command`, in a file of that name."""
_MODULE_OF = {"resume": "train"}


class _Verb(TyperCommand):
    """A verb of which only name and help are loaded until it is typed."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Return the context of the command in the verb's file."""
        assert self.name is not None
        return _command(self.name).make_context(info_name, args, *more, **extra)


def _command(verb: str) -> TyperCommand:
    """Import the file of a verb, and return its command."""
    name = verb.replace("-", "_")
    module = importlib.import_module(f"limner.commands.{_MODULE_OF.get(verb, name)}")
    typer_app = typer.Typer(add_completion=False)
    typer_app.command(verb)(getattr(module, f"{name}_command"))
    command = typer.main.get_command(typer_app)
    assert isinstance(command, TyperCommand)
    return command


class _Verbs(TyperGroup):
    """The group of all verbs."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        verbs = {name: _Verb(name, help=about) for name, about in VERBS.items()}
        self.commands = {**verbs, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that was typed; `studio worker` means `studio-worker`."""
        if args[:2] == ["studio", "worker"]:
            args = ["studio-worker", *args[2:]]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="limner",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample, evaluate and serve every kind of image generator.",
    epilog="key=value sets any option by its path: model.channels=64,128  train.steps=2000  "
    "sampler.steps=20  data.size=32",
)
app.add_typer(data_check.app, name="data")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import limner

        typer.echo(f"limner {limner.__version__}")
        raise typer.Exit
