"""`python -m changefeed_gateway.cli`: the same as `changefeed`."""

from changefeed_gateway.cli.start import main

main()
