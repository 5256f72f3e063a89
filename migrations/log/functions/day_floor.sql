-- The day floor of a feed: the day before which nothing is written any more. docs/decisions/0021 has the proof.
--
-- day_<feed> is a sequence, so that its value counts at once for everybody. Above its lowest 40 bits stands the day, counted
-- from 1970; a tick moves it when that day is over. Below them is counted what capture has dated beyond that day since. It
-- never falls: nobody but make_tick sets it, one at a time, and to a later day only. Null until a tick has begun it.

-- No SET clause, with which it would not be inlined: capture and ticks are made of it.
create or replace function changefeed.day_start(value bigint) returns timestamptz
language sql immutable
as $$ select pg_catalog.to_timestamp((value operator(pg_catalog.>>) 40) operator(pg_catalog.*) 86400) $$;
comment on function changefeed.day_start(bigint) is 'The beginning (UTC) of the day that a value of a day floor stands for.';

create or replace function changefeed.day_of(at timestamptz) returns bigint
language sql stable
as $$ select pg_catalog.floor(extract(epoch from at) operator(pg_catalog./) 86400)::pg_catalog.int8 $$;
comment on function changefeed.day_of(timestamptz) is 'The number of its day (UTC), counted from 1970.';

-- Whoever reads a sequence holds its lock until the transaction ends: writers before they come to the log, ticks before they come
-- to their lock. So who wants all of these takes this one first, or writers would end in a deadlock. LOCK takes no sequences;
-- this changes nothing.
create or replace function changefeed.lock_day_floor(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('alter sequence changefeed_log.day_%s cache 1', feed);
end;
$$;

-- Until capture was written anew by an upgrade, it dates by the clock alone.
create or replace function changefeed.is_captured_by_day(feed integer) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select exists (select from changefeed.feeds f where f.feed_id = feed and f.generator = changefeed.generator()) $$;

-- The time of a change for which the floor's day is over, or which nobody has given a floor yet.
create or replace function changefeed.beyond_day(feed integer, at timestamptz) returns timestamptz
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    floor constant regclass := format('changefeed_log.day_%s', feed)::regclass;
begin
    if pg_sequence_last_value(floor) is null then
        return at;
    end if;
    return greatest(at, changefeed.day_start(nextval(floor)));
end;
$$;

-- The floor begins anew, in a file of its own, which gateways tell from the one before as they tell days apart: what they know
-- of ticks, they learn again. Nobody writes meanwhile.
create or replace function changefeed.date_anew(feed integer) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    right_time timestamptz;
begin
    perform changefeed.refuse_kept_snapshot();
    perform changefeed.lock_day_floor(feed);
    perform changefeed.lock_ticks(feed);
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    right_time := clock_timestamp();
    execute format('update changefeed_log.log_%s set changed_at = $1 where changed_at > $1', feed) using right_time;
    execute format('update changefeed_log.tick_%s set day = null where day >> 40 > $1', feed)
        using changefeed.day_of(right_time);
    execute format($sql$
        update changefeed_log.tick_%s set reached = $1,
            at = at - greatest(ceil(extract(epoch from at - $1) / 4294.967296), 0) * interval '4294.967296 s'
        where reached > $1
    $sql$, feed) using right_time;
    execute format('alter sequence changefeed_log.day_%s restart', feed);
end;
$$;
comment on function changefeed.date_anew(integer) is
    'Dates what a clock that was ahead has written, as of now; tokens stay good. Call it when the clock is right.';
