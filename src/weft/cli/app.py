"""The application object and what its commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core
from rich.console import Console

from weft.errors import UserError
from weft.flags import with_flags

T = TypeVar("T")
TRANSFORMS = ("merge", "unshare", "tensorise")
USES = ("evaluate", "generate", "serve", "export", "remember")
LOOKS = ("lens", "inspect", "steer", "trace")
ORDER = ("train", "compare", *USES, *LOOKS, *TRANSFORMS, "describe", "demo", "cache")


class _Commands(typer.core.TyperGroup):
    """Lists the commands as a user meets them, and in plain text: what draws frames takes longer to load than the rest.

    A command's own help has frames, as they part its many options.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)  # and the commands

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(self.commands[name])) for name in self.list_commands(ctx)])


def _summary(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


app = typer.Typer(
    name="weft",
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Train small language models that go far on little data and little hardware.

A model is a weave of attention, QRNN and feed-forward blocks. Start with a folder of text:

\b
    weft train my_texts/ --out runs/mine --minutes 30
    weft evaluate runs/mine more_text.txt
    weft generate runs/mine --prompt "Once"
    weft serve runs/mine

or see everything at work on a bundled corpus: weft demo.""",
)
out = Console()
err = Console(stderr=True)

Run = Annotated[Path, typer.Argument(help="A run directory, as 'weft train --out' writes it.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _version(value: bool) -> None:
    if value:
        from weft.version import __version__

        print(f"weft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def given(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a recipe with what was given on the command line."""
    given = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }
    return {name: section for name, section in given.items() if section}


def renamed_option(old: str, value: T, new: str, other: T | None) -> T:
    """Return the value that was given by an option's old name, and say in a line what it is called now.

    Raises UserError where a value was given by the new name, too.
    """
    if other is not None:
        raise UserError(f"{old} is the old name of {new}: give one of them.")
    err.print(f"{old} is now called {new}.", markup=False, highlight=False, soft_wrap=True)
    return value


def unescape(text: str | None) -> str | None:
    r"""Read ``\n`` and ``\t`` as shells pass them."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")


def tell(line: str) -> None:
    """Say something beside what a command prints."""
    err.print(with_flags(line), markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print ``value`` for programs."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
