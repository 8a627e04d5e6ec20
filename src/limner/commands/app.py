"""The command line: which verbs there are. The file of a verb is imported when it is typed; what it
does lies in other files, imported when it is done, so that help does not wait for torch.
"""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from limner.commands import data_check

VERBS = {
    "demo": "Train a small model on emoji for a minute, and write a page of what it learnt.",
    "doctor": "Look at this machine: versions, cores, speed, data, and what to do about what is "
    "missing.",
    "models": "List the models, or the options of one.",
    "metrics": "List the metrics: what each reads and needs, and where it is defined.",
    "recipes": "List the recipes that come with limner: what each trains, and on what.",
    "train": "Train a model by a recipe, or by name on a source of data.",
    "resume": "Go on with a run that was stopped, bit for bit as if it had not been.",
    "average": "Make other averages of a run's weights, long or short, as models of their own.",
    "sample": "Paint pictures with a trained model, as PNG files that remember how they were made.",
    "sample-set": "Paint a data set: any number of pictures, in shards, by one worker or many.",
    "edit": "Paint pictures anew as a prompt says: all, a part, or what words of its prompt "
    "change.",
    "reconstruct": "Show pictures, yours or the data's, above what a model makes of their codes.",
    "interpolate": "Go from picture to picture through their codes; with one, show what its "
    "code's numbers do.",
    "style-mix": "Mix styles: each picture is the one at its left, with some layers of the one "
    "above it.",
    "translate": "Translate pictures of one domain into another: each beside its translation and "
    "way back.",
    "upscale": "Make pictures of any size larger; alpha and the frames of animations are kept.",
    "walk": "Go from the picture of one seed to that of another, through what lies between.",
    "attention": "Show where a model looks in a picture for each word: of a prompt, or the "
    "picture's own.",
    "evaluate": "Judge a model or a folder of pictures by real ones; a run also keeps the report.",
    "compare": "Put runs, models and folders of pictures side by side: a leaderboard, and a page "
    "of it.",
    "score": "Say how likely pictures are to a model, among real ones.",
    "export": "Write a model for other programs: diffusers, ONNX, or a page for any browser.",
    "studio": "Open the studio: type a prompt in a browser, watch the picture form, keep it.",
    "studio-worker": "Take jobs from a studio's database on another host, and paint them with this "
    "host's models.",
}
"""What each verb does: the first line of its function, `VERB_command`, in a file of its name."""
_ELSEWHERE = {"resume": "train"}


class _Verb(TyperCommand):
    """A verb that is known by its name and its help until it is typed."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """The context of the verb's own command."""
        assert self.name is not None
        return _command(self.name).make_context(info_name, args, *more, **extra)


def _command(verb: str) -> TyperCommand:
    """The command of a verb, whose file is imported."""
    name = verb.replace("-", "_")
    module = importlib.import_module(f"limner.commands.{_ELSEWHERE.get(verb, name)}")
    alone = typer.Typer(add_completion=False)
    alone.command(verb)(getattr(module, f"{name}_command"))
    command = typer.main.get_command(alone)
    assert isinstance(command, TyperCommand)
    return command


class _Verbs(TyperGroup):
    """All verbs."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        verbs = {name: _Verb(name, help=about) for name, about in VERBS.items()}
        self.commands = {**verbs, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is typed; `studio worker` is `studio-worker`."""
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
    epilog="key=value reaches every option by its path: model.channels=64,128  train.steps=2000  "
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
