"""Examines how far a feed's newest tick is behind its changes, and who holds it up."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import sql
from psycopg.rows import class_row

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.providers.postgres.connections import Connection
from changefeed_gateway.providers.postgres.operations.doctor_server import OLD, rounded

LATE: Final = timedelta(minutes=1)
"""A change that no tick covers for longer is late: a gateway makes a tick a second, also when nobody reads."""

_READING: Final = """
    SELECT t.at, clock_timestamp() AS now, CASE WHEN s.is_called THEN s.last_value ELSE 0 END - t.last_seq AS ahead,
        least(beyond.changed_at, finished.changed_at) AS oldest,
        h.who AS writer, clock_timestamp() - h.since AS writing,
        k.who AS locker, clock_timestamp() - k.since AS locking
    FROM (SELECT * FROM {tick} ORDER BY id DESC LIMIT 1) t
    CROSS JOIN {seq} s
    LEFT JOIN LATERAL (
        SELECT l.changed_at FROM {log} l WHERE l.xid >= pg_snapshot_xmax(t.snapshot) ORDER BY l.xid, l.seq LIMIT 1
    ) beyond ON true
    LEFT JOIN LATERAL (
        SELECT min(l.changed_at) AS changed_at FROM pg_snapshot_xip(t.snapshot) x CROSS JOIN LATERAL (
            SELECT l.changed_at FROM {log} l WHERE l.xid = x ORDER BY l.seq LIMIT 1) l
    ) finished ON true
    LEFT JOIN LATERAL (
        SELECT w.who, w.since FROM changefeed.lock_holders({log_name}) w
        WHERE w.mode = 'RowExclusiveLock' ORDER BY w.since LIMIT 1
    ) h ON true
    LEFT JOIN LATERAL (
        SELECT k.who, k.since FROM changefeed.lock_holders({lock_name}) k
        WHERE k.mode = 'ShareUpdateExclusiveLock' ORDER BY k.since LIMIT 1
    ) k ON true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    at: datetime
    now: datetime
    ahead: int
    """Numbers drawn since, of changes or of what was rolled back."""
    oldest: datetime | None
    """Time of the oldest change that is committed and that the newest tick does not see."""
    writer: str | None
    """The oldest transaction that has written to the log and not ended."""
    writing: timedelta | None
    """For how long; None also where it is hidden from this role."""
    locker: str | None
    """Who has the lock of the feed's ticks: whoever makes one, or an operator who splits a partition."""
    locking: timedelta | None
    """As writing."""

    @property
    def waited(self) -> timedelta:
        """How long a committed change has waited for a tick; counted from its statement, so never too little."""
        return self.now - max(self.at, self.oldest) if self.oldest else timedelta(0)


async def ticks(connection: Connection, feed_id: int, name: str) -> Finding:
    """The newest tick of a feed against its newest changes. Raises psycopg.Error."""
    log, tick, seq = (f"{part}_{feed_id}" for part in ("log", "tick", "seq"))
    query = sql.SQL(_READING).format(
        log=sql.Identifier("changefeed_log", log),
        log_name=sql.Literal(f"changefeed_log.{log}"),
        tick=sql.Identifier("changefeed_log", tick),
        seq=sql.Identifier("changefeed_log", seq),
        lock_name=sql.Literal(f"changefeed_log.lock_ticks_{feed_id}"),
    )
    async with connection.cursor(row_factory=class_row(_Look)) as cursor:
        look = await (await cursor.execute(query)).fetchone()
    detail, remedy = _judged(feed_id, look) if look else _NONE
    return Finding(subject=f"ticks of {name}", healthy=not remedy, detail=detail, remedy=remedy)


_NONE: Final = ("there is none", "the tick table was emptied: drop the feed and watch its table again")


def _judged(feed_id: int, look: _Look) -> tuple[str, str]:
    """What is to be said of it, and the remedy."""
    newest = f"newest at {look.at:%Y-%m-%d %H:%M:%S%z}, {rounded(look.now - look.at)} ago"
    if look.at > look.now:
        return (
            newest,
            "the newest tick lies in the future: check the database server's clock; once it is right,"
            f" SELECT changefeed.date_anew({feed_id})",
        )
    if look.ahead < 0:
        return (
            f"{newest}; the sequence stands {-look.ahead} below it: it was set back, and changes since are missing",
            f"SELECT changefeed.begin_epoch({feed_id}) refuses all tokens, so that readers read the source again",
        )
    if look.locker and (look.waited >= LATE or (look.locking is not None and look.locking >= LATE)):
        return (
            f"{newest}; {look.locker} has the lock of the feed's ticks, {LATE} is too long",
            "end it by its application, pg_terminate_backend or ROLLBACK PREPARED: until then nothing is delivered",
        )
    detail = f"{newest}; {look.ahead} numbers since (readers make ticks)"
    if look.writer:
        detail += f"; what {look.writer} wrote waits for its end"
    if look.waited >= LATE:
        return (
            f"{detail}; changes wait for a tick for {rounded(look.waited)}, {LATE} is too long",
            "start a gateway, which makes a tick a second; without one CALL changefeed.tick_all() from a timer",
        )
    if look.writing is not None and look.writing >= OLD:
        return (
            f"{detail}, for {rounded(look.writing)} by now, {OLD} is too long",
            "end it by its application, pg_terminate_backend or ROLLBACK PREPARED: it is not delivered before",
        )
    return detail, ""
