"""Protobuf to core values and back: pure functions, nothing else touches the messages."""
