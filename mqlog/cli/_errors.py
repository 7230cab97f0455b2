"""What goes wrong on a command line, as one line and an exit code."""

import mqlog


class CommandError(Exception):
    """What the user asked for cannot be done; the message says why and what to do next."""

    exit_code = 1


class UsageError(CommandError):
    """The command line is wrong."""

    exit_code = 2


class MissingError(CommandError):
    """What it names is not there."""

    exit_code = 3


def describe(error: Exception) -> str:
    """One line: what happened, where, and what to do next."""
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    text = "; ".join((" ".join(str(error).split()), *notes))
    if isinstance(error, OSError) and not isinstance(error, mqlog.Error) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if text and isinstance(error, (CommandError, mqlog.Error, OSError, ValueError)):
        return text
    return f"{type(error).__name__}: {text} (a bug in mqlog? --debug shows where)"


def exit_code(error: Exception) -> int:
    """What scripts see; `mqlog --help` lists the codes."""
    if isinstance(error, CommandError):
        return error.exit_code
    return 3 if isinstance(error, (mqlog.NotFoundError, FileNotFoundError)) else 1
