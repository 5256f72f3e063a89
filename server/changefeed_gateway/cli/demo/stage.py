"""What a demo needs of a database."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from changefeed.v1.position_pb2 import StartPosition
from changefeed_gateway.cli.demo.ledger import Ledger
from changefeed_gateway.cli.demo.mirror import Document
from changefeed_gateway.cli.demo.orders import OrdersTable
from changefeed_gateway.settings import Settings


class Stage(Protocol):
    """A database with documents, in the collection `documents` of the connection `main`, and people who edit them."""

    database: str
    """As people call it."""
    first_position: StartPosition
    """Where a consumer without a place begins."""
    ledger: Ledger

    @property
    def orders(self) -> OrdersTable | None:
        """A second collection, where there is one."""
        ...

    def opened(self, settings: Settings) -> AbstractAsyncContextManager[Settings]:
        """Start the database and make what is edited; gives the settings of a gateway in front of it."""
        ...

    async def edit(self, stop: asyncio.Event) -> None:
        """Edit until told to stop; what is under way is finished and entered into the ledger."""
        ...

    async def disturb(self, say: Callable[[str], None]) -> None:
        """Do to the database what happens to every database some day, and say it before."""
        ...

    async def touch_all(self) -> None:
        """Write every document as it is, so that each is sent anew."""
        ...

    async def documents(self) -> Mapping[str, Document]:
        """The documents by id, asked for without the feed."""
        ...
