"""The rules of the gateway in its own words: no driver, no gRPC."""
