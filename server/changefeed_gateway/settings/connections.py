"""The kinds of connections, one a database, with what each can be told."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from changefeed_gateway.settings.section import Section
from changefeed_gateway.settings.values import (
    DsnText,
    DurationText,
    FilePath,
    Filled,
    Url,
    VariableName,
    duration_between,
    name_like,
    not_allowed,
    one_of,
    whole_number_between,
)

ConnectionName = Annotated[
    str,
    name_like(
        r"[a-z](?:_?[a-z0-9-])*",
        "a name of lower-case letters, digits, - and single _, beginning with a letter",
    ),
]


class EmbeddedServer(Section):
    """A PostgreSQL server of the gateway's own, for trying it out and for tests."""

    data_directory: FilePath | None = None
    """Where it keeps its data; `postgres` under the state directory unless given."""
    database: Annotated[
        str, name_like(r"[a-z_][a-z0-9_]{0,62}", "a database name of lower-case letters, digits and _")
    ] = "changefeed"


class PostgresConnection(Section):
    """A PostgreSQL database: exactly one of `dsn`, `dsn_file` and `embedded` says which."""

    provider: Literal["postgres"] = "postgres"
    dsn: Annotated[SecretStr | None, DsnText, Filled] = None
    """libpq connection string or URL; read once, here: no other reader of it can complain by showing it."""
    dsn_file: FilePath | None = None
    """A file that holds the connection string; it is read at start."""
    embedded: EmbeddedServer | None = None
    pool_size: Annotated[int, whole_number_between(2, 200)] = 10
    """Most connections in the pool; one more listens."""
    doorbell: Annotated[Literal["notify", "poll"], one_of("notify", "poll")] = "notify"
    """How news is heard of: LISTEN on a connection of its own, or polls; a transaction pooler needs poll."""
    tick_interval: Annotated[timedelta, duration_between("500us", "1s"), DurationText] = timedelta(milliseconds=2)
    """Shortest time between two ticks of a feed while somebody is subscribed."""
    retention_interval: Annotated[timedelta, duration_between("0s", "1d"), DurationText] = timedelta(hours=1)
    """Time between two retention runs of this gateway; 0s leaves them to `changefeed retention run`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.dsn, self.dsn_file, self.embedded)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of dsn, dsn_file and embedded")
        return self


class DynamoDBConnection(Section):
    """The tables of one AWS region and account, through their streams.

    Credentials are found as the AWS SDK finds them: environment, profile, container or instance role.
    """

    provider: Literal["dynamodb"]
    region: Annotated[str | None, name_like(r"[a-z0-9-]{2,40}", "the name of a region")] = None
    """The profile's or the environment's unless given."""
    endpoint_url: Annotated[str | None, Url] = None
    """Another endpoint of the table API than the region's own."""
    streams_endpoint_url: Annotated[str | None, Url] = None
    """Another endpoint of the streams API; `endpoint_url` unless given."""
    profile: Annotated[str | None, Filled] = None
    """A profile of the AWS configuration files."""
    role_arn: Annotated[str | None, name_like(r"arn:[^\s]{10,2000}", "the ARN of a role")] = None
    """A role to assume with the credentials that are found."""
    tables: tuple[Annotated[str, Filled], ...] = ()
    """The tables that are served, and that `doctor` looks at; every one that may be read when there is none."""
    at_timestamp: bool = False
    """The endpoint knows the iterator type AT_TIMESTAMP: readers may start at a time."""
    time_granularity: Annotated[timedelta, duration_between("1s", "1h"), DurationText] = timedelta(seconds=1)
    """To which the endpoint rounds a record's time down: AWS a second, DynamoDB Local a minute."""
    shortest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(milliseconds=250)
    """Between two looks at a shard where nothing happens, at first; then doubled."""
    longest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(seconds=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shortest_pause > self.longest_pause:
            raise not_allowed("shortest_pause up to longest_pause")
        return self


class CosmosConnection(Section):
    """The containers of one database of one Azure Cosmos DB account (API for NoSQL), through their change feeds.

    Exactly one of `key`, `key_file`, `key_env` and `entra` says as whom.
    """

    provider: Literal["cosmos"]
    endpoint: Annotated[str, Url]
    """URI of the account."""
    key: Annotated[SecretStr | None, Filled] = None
    """A key of the account; a read-only one will do."""
    key_file: FilePath | None = None
    """A file that holds the key; it is read at start."""
    key_env: Annotated[str | None, VariableName] = None
    """An environment variable that holds the key."""
    entra: bool = False
    """An identity of Microsoft Entra ID, found as the Azure SDK finds it: environment, workload, managed identity."""
    database: Annotated[str, name_like(r"[^/\\?#]{1,255}", "the name of a database")]
    containers: tuple[Annotated[str, Filled], ...] = ()
    """The containers that are served, and that `doctor` looks at; every one that may be read when there is none."""
    mode: Annotated[
        Literal["all_versions_and_deletes", "latest_version"], one_of("all_versions_and_deletes", "latest_version")
    ] = "all_versions_and_deletes"
    """Which change feed is read; latest_version conflates versions and tells no deletions."""
    backup_window: Annotated[timedelta | None, duration_between("1m", "30d"), DurationText] = None
    """How far back the account's continuous backup goes, 7d or 30d: tokens then say when they expire."""
    preferred_regions: tuple[Annotated[str, Filled], ...] = ()
    """Regions to read from, the first that answers; the account's own order unless given."""
    shortest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(milliseconds=250)
    """Between two looks at a partition where nothing happens, at first; then doubled."""
    longest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(seconds=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = (self.key, self.key_file, self.key_env, self.entra or None)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of key, key_file, key_env and entra")
        if self.shortest_pause > self.longest_pause:
            raise not_allowed("shortest_pause up to longest_pause")
        return self


class SpannerConnection(Section):
    """The tables of one Cloud Spanner database, through their change streams.

    Credentials are found as Google's libraries find them, unless a file is given.
    """

    provider: Literal["spanner"]
    project: Annotated[str, name_like(r"[a-z0-9.:-]{2,100}", "the id of a project")]
    instance: Annotated[str, name_like(r"[a-z][a-z0-9-]{1,63}", "the id of an instance")]
    database: Annotated[str, name_like(r"[a-z][a-z0-9_-]{1,29}", "the name of a database")]
    tables: dict[
        Annotated[str, name_like(r"[A-Za-z0-9_.]{1,257}", "the name of a table")],
        Annotated[str, name_like(r"[A-Za-z][A-Za-z0-9_]{0,127}", "the name of a change stream")] | None,
    ] = Field(default_factory=dict)
    """The tables that are served, and that `doctor` looks at, each with its change stream, or null where only one
    watches it; every table that a change stream watches when there is none."""
    credentials_file: FilePath | None = None
    """A key of a service account, or another file of credentials that Google's libraries read."""
    emulator_host: Annotated[
        str | None, name_like(r"[A-Za-z0-9.-]+:[0-9]{1,5}", 'host:port, such as "localhost:9010"')
    ] = None
    """An emulator, which is asked in plaintext and without credentials."""
    heartbeat: Annotated[timedelta, duration_between("100ms", "5m"), DurationText] = timedelta(seconds=1)
    """Between two signs of life of a partition where nothing is committed; Spanner takes 1s and longer."""

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.credentials_file is not None and self.emulator_host is not None:
            raise not_allowed("credentials_file or emulator_host, not both")
        return self


class MemoryConnection(Section):
    """Collections in memory, gone with the process: for tests of clients."""

    provider: Literal["memory"]
    collections: tuple[Annotated[str, Filled], ...] = ("documents",)
    """Collections to create at start, empty."""


Connection = Annotated[
    PostgresConnection | DynamoDBConnection | CosmosConnection | SpannerConnection | MemoryConnection,
    Field(discriminator="provider"),
]
