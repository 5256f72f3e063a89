"""Exit codes: one a failure class, so that scripts can branch."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import typer

from changefeed_gateway.settings import SettingsError


class ExitCode(IntEnum):
    """What a command's end means. Documented in docs/cli.md."""

    OK = 0
    UNEXPECTED = 1
    """A fault of the command line itself."""
    USAGE = 2
    INVALID_REQUEST = 3
    NOT_FOUND = 4
    UNSUPPORTED_CAPABILITY = 5
    CHECKPOINT_EXPIRED = 6
    AUTHENTICATION = 7
    """Not known, or not allowed."""
    TRANSIENT = 8
    """Throttled, locked or unreachable, also after retries."""
    PROVIDER = 9
    """The database or the gateway failed."""
    SETTINGS = 10
    UNHEALTHY = 11
    """`doctor`, `feeds`, `retention`, `demo` or `mirror --verify` found something wrong."""
    PLACE = 12
    """The file of --resume, or a copy of `mirror`, cannot be used."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_BY_CATEGORY: Final = {
    "INVALID_REQUEST": ExitCode.INVALID_REQUEST,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "UNSUPPORTED_CAPABILITY": ExitCode.UNSUPPORTED_CAPABILITY,
    "CHECKPOINT_EXPIRED": ExitCode.CHECKPOINT_EXPIRED,
    "AUTHENTICATION_FAILED": ExitCode.AUTHENTICATION,
    "AUTHORIZATION_FAILED": ExitCode.AUTHENTICATION,
    "THROTTLED": ExitCode.TRANSIENT,
    "TRANSIENT_FAILURE": ExitCode.TRANSIENT,
}


class Failed(Exception):
    """A command ends with a code after saying why."""

    def __init__(self, code: ExitCode, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: BaseException) -> ExitCode | None:
    """The code of an error that a command may end with; None for one that is a fault of ours."""
    # Here, and no earlier: who serves talks to no gateway, and most commands end well.
    from changefeed_client import ChangeFeedRpcError, StreamInterrupted
    from changefeed_gateway.app.opening.contract import OperatorError
    from changefeed_gateway.cli.place import PlaceError

    match error:
        case Failed():
            return error.code
        case ChangeFeedRpcError():
            return _BY_CATEGORY.get(error.category, ExitCode.PROVIDER)
        case StreamInterrupted():
            return ExitCode.TRANSIENT
        case SettingsError():
            return ExitCode.SETTINGS
        case PlaceError():
            return ExitCode.PLACE
        case OperatorError():
            return _BY_CATEGORY.get(error.category.value, ExitCode.PROVIDER)
        case OSError() if not isinstance(error, BrokenPipeError):
            return ExitCode.PROVIDER
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            return ExitCode.BROKEN_PIPE
        case _:
            return None


@contextmanager
def exits() -> Iterator[None]:
    """End the process with an error's code after saying it on standard error."""
    try:
        yield
        sys.stdout.flush()
    except BaseException as caught:
        error = _only(caught)
        code = exit_code(error)
        if code is None:
            raise
        _say(error)
        raise typer.Exit(code) from None


def _only(error: BaseException) -> BaseException:
    """The error that a group of one holds."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _say(error: BaseException) -> None:
    from changefeed_client import ChangeFeedRpcError
    from changefeed_gateway.cli.output import complain

    match error:
        case ChangeFeedRpcError():
            complain(str(error))
            for violation in error.violations:
                complain(f"  {violation.field}: {violation.description}")
        case SettingsError():
            complain("settings refused:")
            for problem in error.problems:
                complain(f"  {problem}")
        case BrokenPipeError():
            # The reader is gone; the interpreter would try to flush once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case _:
            if text := str(error):
                complain(text)
