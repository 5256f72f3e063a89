"""The composition root: settings become providers, providers a router, the router a server.

It alone knows all rooms.
"""

import os

# gRPC's core writes to standard error by itself, past our log and with peers' bytes in it. What it has to say of a call
# or a port reaches us as an error. It looks at this when grpc is imported, and no later.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
