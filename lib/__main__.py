"""The command line: `chrysalis COMMAND`, also as `python -m lib COMMAND`."""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

from lib import commands, pipeline
from lib.core import files, home

# Help of the argument NAME.
FILE = "name of a file in params/"
RUN = "name of a run in outputs/"


def parser() -> argparse.ArgumentParser:
    """Build the parser, with a subparser for each command."""
    main = argparse.ArgumentParser(
        prog="chrysalis", description="Train an image classifier on a folder of labelled photos."
    )
    add = functools.partial(_add, main.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    add("check", text="print what would be read, in seconds, before anything runs")
    add("run", text="run the pipeline, from the photos to the report")
    add("clean", text="run the pipeline up to 02_clean")
    add("train", text="train in this process and others, on several machines: docs/machines.md")
    resume = add("resume", text="continue the training of a finished run")
    resume.add_argument(
        "--epochs",
        default="",
        metavar="N",
        help="epochs to add to the last stage; default: the epochs of the stage",
    )
    resume.add_argument(
        "--lr",
        default="",
        metavar="RATE",
        help="learning rate of the added epochs; default: the learning rate of the stage",
    )
    add("evaluate", text="evaluate and explain the trained model, without training")
    add("tune", text="search for better parameters")
    compare = add("compare", text="compare the runs in outputs/ and evaluate their ensemble", argument="")
    compare.add_argument("--set", default="", metavar='"KEY=VALUE ..."', help="changed parameters")
    predict = add("predict", text="predict a folder of photos", argument=RUN)
    predict.add_argument("--photos", required=True, metavar="DIR", help="folder of photos")
    predict.add_argument(
        "--output", default="", metavar="FILE", help="CSV file; default: photo_predictions.csv of the run"
    )
    add("why", text="explain why steps are out of date")
    add("report", text="write the report of a run again")
    add("remove", text="delete a run; the photos are kept", argument=RUN)
    return main


def _add(subparsers: Any, name: str, *, text: str, argument: str = FILE) -> argparse.ArgumentParser:
    """Add a command whose argument is the name of a parameter file or a run, or that has no argument."""
    command = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.add_argument("--outputs", default="", metavar="DIR", help="folder of all runs; default: outputs")
    if argument:
        command.add_argument("name", metavar="NAME", help=argument)
        command.add_argument("--run", default="", metavar="RUN", help="name of the run, if it is not NAME")
    if argument == FILE:
        command.add_argument("--set", default="", metavar='"KEY=VALUE ..."', help="changed parameters")
        command.add_argument("--archive", default="", metavar="FILE", help="archive of the photos")
        command.add_argument("--weights", default="", metavar="FILE", help="weights of the backbone")
    return command


def _call(options: argparse.Namespace) -> None:
    """Call the selected command."""
    command = getattr(commands, options.command)
    if options.command == "compare":
        command(assignments=options.set)
    elif options.command == "predict":
        command(options.run or options.name, photos=options.photos, output=options.output)
    elif options.command == "remove":
        command(options.run or options.name)
    elif options.command == "resume":
        command(
            options.name,
            epochs=_number(options.epochs, int, name="EPOCHS", expected="a whole number, such as 10"),
            learning_rate=_number(options.lr, float, name="LR", expected="a number, such as 0.0001"),
            assignments=options.set,
            run_name=options.run,
        )
    else:
        command(options.name, assignments=options.set, run_name=options.run)


def _number(text: str, kind: type, *, name: str, expected: str) -> Any:
    """Convert the value of an option; return `None` if it is empty, as make passes it."""
    try:
        return kind(text) if text else None
    except ValueError:
        raise ValueError(f"{name}: expected {expected}. Received: {text}") from None


def _export(options: argparse.Namespace) -> None:
    """Store paths of the user in the environment, so that they do not appear in notebooks."""
    for option in ("outputs", "archive", "weights"):
        if value := getattr(options, option, ""):
            os.environ[f"CHRYSALIS_{option.upper()}"] = value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and print an error as its message, without a traceback.

    Args:
        arguments: command-line arguments; if `None`, those of this process.

    Returns:
        The exit code: 0, 1 if the command failed, or 130 if it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal does not support are escaped instead of raising an error.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    _export(options)
    home.replace_unwritable()
    try:
        _call(options)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command to continue", file=sys.stderr)
        return 130
    except (ValueError, OSError, pipeline.StepFailed) as error:
        # A message can contain names from a stranger's files.
        print("", *map(files.printable, str(error).split("\n")), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
