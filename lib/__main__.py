"""The command line: `chrysalis COMMAND`, also as `python -m lib COMMAND`."""

import argparse
import os
import sys
from collections.abc import Sequence

from lib import commands, pipeline

# What NAME is.
FILE = "name of a file in params/"
RUN = "name of a run in outputs/"


def parser() -> argparse.ArgumentParser:
    """Build the parser: one subcommand for each command, with options of its own."""
    main = argparse.ArgumentParser(
        prog="chrysalis", description="From a folder of labelled photos to a classifier."
    )
    add = _Commands(main).add
    add("run", "run the whole pipeline, from the photos to the report")
    resume = add("resume", "train a finished run further")
    resume.add_argument(
        "--epochs",
        type=number,
        metavar="N",
        help="epochs to add to the last stage; default: as many as it has",
    )
    resume.add_argument(
        "--lr",
        type=rate,
        metavar="RATE",
        help="learning rate of the added epochs; default: that of the stage",
    )
    add("evaluate", "evaluate and explain the trained model; never trains")
    add("tune", "search for better parameters")
    compare = add("compare", "compare the runs in outputs/, and average the best", argument="")
    compare.add_argument("--set", default="", metavar='"KEY=VALUE ..."', help="changed parameters")
    predict = add("predict", "predict a folder of photos", argument=RUN)
    predict.add_argument("--photos", required=True, metavar="DIR", help="folder of photos")
    predict.add_argument(
        "--output", default="", metavar="FILE", help="CSV file to write; default: in the run's folder"
    )
    add("why", "explain why a step would be executed again")
    add("report", "write the report of a run again")
    add("remove", "delete a run; photos are kept", argument=RUN)
    return main


class _Commands:
    """Add subcommands to a parser."""

    def __init__(self, main: argparse.ArgumentParser):
        self.subparsers = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, text: str, *, argument: str = FILE) -> argparse.ArgumentParser:
        """Add a command that takes the name of a parameter file, that of a run, or none."""
        command = self.subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--outputs", default="", metavar="DIR", help="folder of all runs and photos")
        if argument:
            command.add_argument("name", metavar="NAME", help=argument)
            command.add_argument("--run", default="", metavar="RUN", help="folder of the run in outputs/")
        if argument == FILE:
            command.add_argument("--set", default="", metavar='"KEY=VALUE ..."', help="changed parameters")
            command.add_argument("--archive", default="", metavar="FILE", help="photos from an archive")
            command.add_argument("--weights", default="", metavar="FILE", help="backbone weights from a file")
        return command


def number(text: str) -> int | None:
    return int(text) if text else None


def rate(text: str) -> float | None:
    return float(text) if text else None


def _call(options: argparse.Namespace) -> None:
    """Call the command that was chosen."""
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
            epochs=options.epochs,
            learning_rate=options.lr,
            assignments=options.set,
            run_name=options.run,
        )
    else:
        command(options.name, assignments=options.set, run_name=options.run)


def _export(options: argparse.Namespace) -> None:
    """Put files and folders of the user's own into the environment, so that no notebook names them."""
    for option in ("outputs", "archive", "weights"):
        if value := getattr(options, option, ""):
            os.environ[f"CHRYSALIS_{option.upper()}"] = value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error is printed in one line.

    Args:
        arguments: the words after the program's name; `None`: those of this process.

    Returns:
        0, or 1 if the command failed; 130 if it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name with letters that this terminal lacks is printed with escapes instead of ending the command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    _export(options)
    try:
        _call(options)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, pipeline.StepFailed) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
