"""Where the process begins: `changefeed`, and `python -m changefeed_gateway.cli`."""

from changefeed_gateway.cli.loading import loading


def main() -> None:
    """Load the command line and run it."""
    with loading():
        from changefeed_gateway.cli.main import main as run
    run()
