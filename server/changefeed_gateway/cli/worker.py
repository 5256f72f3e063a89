"""One of several processes of `changefeed serve`: started by it alone, with its end of the line as standard input."""

import asyncio
import socket
import sys

import typer

from changefeed_gateway.cli.loading import loading


def main() -> None:
    """Serve what the parent says; end with the code that `changefeed serve` would end with."""
    with loading():
        from changefeed_gateway.app.workers.worker import serve_assignment
        from changefeed_gateway.cli.exits import exits
    try:
        with exits():
            asyncio.run(serve_assignment(socket.socket(fileno=sys.stdin.fileno())))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
