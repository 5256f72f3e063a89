"""The composition root: settings become providers, providers a router, the router a server.

It alone knows all rooms.
"""
