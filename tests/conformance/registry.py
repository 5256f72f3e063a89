"""Every backend that the suite runs on. A new provider is one more line here and one more file in `backends/`."""

from tests.conformance.backend import BackendKind
from tests.conformance.backends.cosmos import CosmosBackend, LatestVersionBackend
from tests.conformance.backends.dynamodb import LocalBackend, WireBackend
from tests.conformance.backends.memory import COMPLETE, CURRENT, FRUGAL, MemoryBackend
from tests.conformance.backends.postgres import DocumentsBackend, WatchedTableBackend
from tests.conformance.backends.spanner import EmulatorBackend, PostgresEmulatorBackend, SpannerWireBackend

BACKENDS: dict[str, BackendKind] = {
    "memory": BackendKind(MemoryBackend.hooks, lambda request: MemoryBackend(COMPLETE)),
    # What no cloud database misses all at once: every case must find its answer for a missing capability.
    "memory-frugal": BackendKind(MemoryBackend.hooks, lambda request: MemoryBackend(FRUGAL)),
    "memory-current": BackendKind(MemoryBackend.hooks, lambda request: MemoryBackend(CURRENT)),
    "dynamodb-local": BackendKind(
        LocalBackend.hooks, lambda request: LocalBackend(request.getfixturevalue("dynamodb_local"))
    ),
    "dynamodb-wire": BackendKind(WireBackend.hooks, lambda request: WireBackend()),
    "cosmos": BackendKind(CosmosBackend.hooks, lambda request: CosmosBackend()),
    "cosmos-latest": BackendKind(LatestVersionBackend.hooks, lambda request: LatestVersionBackend()),
    "spanner-google": BackendKind(
        EmulatorBackend.hooks, lambda request: EmulatorBackend(request.getfixturevalue("churning_spanner_emulator"))
    ),
    "spanner-postgres": BackendKind(
        PostgresEmulatorBackend.hooks,
        lambda request: PostgresEmulatorBackend(request.getfixturevalue("churning_spanner_emulator")),
    ),
    "spanner-wire": BackendKind(SpannerWireBackend.hooks, lambda request: SpannerWireBackend()),
    "postgres-watched": BackendKind(
        WatchedTableBackend.hooks, lambda request: WatchedTableBackend(request.getfixturevalue("postgres"))
    ),
    "postgres-documents": BackendKind(
        DocumentsBackend.hooks, lambda request: DocumentsBackend(request.getfixturevalue("postgres"))
    ),
}
