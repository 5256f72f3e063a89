from changefeed.v1 import capabilities_pb2 as _capabilities_pb2
from changefeed.v1 import partition_pb2 as _partition_pb2
from changefeed.v1 import read_changes_pb2 as _read_changes_pb2
from changefeed.v1 import subscribe_pb2 as _subscribe_pb2
from changefeed.v1 import token_pb2 as _token_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
