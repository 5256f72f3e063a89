-- Ticks: stored snapshots that cut the log into batches. Any replica may make one; the lock makes it one at a time.
-- topology: the last tick, up to this one, at which the physical partitions changed.
-- reached: the latest time of all ticks up to this one. Clocks step back; this does not, so an index finds a time by it.

create or replace function changefeed.create_locks(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('create table changefeed_log.lock_ticks_%1$s (); create table changefeed_log.lock_retention_%1$s ()', feed);
    execute format('comment on table changefeed_log.lock_ticks_%s is %L', feed,
                   'Its lock (SHARE UPDATE EXCLUSIVE): one makes a tick at a time.');
    execute format('comment on table changefeed_log.lock_retention_%s is %L', feed,
                   'Its lock (SHARE UPDATE EXCLUSIVE): one changes the days at a time.');
end;
$$;

create or replace function changefeed.lock_ticks(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('lock table changefeed_log.lock_ticks_%s in share update exclusive mode', feed);
end;
$$;

-- Candidates are transactions that may still hold a number up to last_seq. Capture holds its xid before it draws a
-- number, and a tick allocates its own xid after it has read the sequence: so only ids below the tick's own that its
-- snapshot does not see.
-- Below a snapshot's xmax those are in its list. From xmax on, all were under way, so who is missing among those under
-- way now has ended: counted, not listed, because a transaction with many savepoints holds as many ids.
create or replace function changefeed.candidate_has_ended(seen pg_snapshot, tick_xid xid8) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    with now as materialized (select pg_current_snapshot() as snapshot)
    select exists (select from pg_snapshot_xip(seen) x where x < tick_xid and pg_visible_in_snapshot(x, now.snapshot))
        or least(tick_xid, pg_snapshot_xmax(now.snapshot))::text::bigint - pg_snapshot_xmax(seen)::text::bigint
            > (select count(*) from pg_snapshot_xip(now.snapshot) x where x >= pg_snapshot_xmax(seen) and x < tick_xid)
    from now
$$;

create or replace function changefeed.sees_candidates(seen pg_snapshot, tick_xid xid8) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select pg_snapshot_xmax(seen) >= tick_xid and not exists (select from pg_snapshot_xip(seen) x where x < tick_xid)
$$;

-- A snapshot counts its own transaction as ended once a later one has. What is written after a tick in the tick's own
-- transaction would then belong to the batch before it, and overtake what others committed meanwhile.
create or replace function changefeed.as_under_way(seen pg_snapshot, xid xid8) returns pg_snapshot
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when xid >= pg_snapshot_xmax(seen) then seen else format('%s:%s:%s',
        least(pg_snapshot_xmin(seen), xid), pg_snapshot_xmax(seen),
        (select string_agg(u.x::text, ',' order by u.x) from (select pg_snapshot_xip(seen) union select xid) u (x))
    )::pg_snapshot end
$$;

-- One function a feed, so that its statements are planned once.
create or replace function changefeed.create_tick_function(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    -- One of other arguments would be a second function.
    if to_regproc(format('changefeed_log.make_tick_%s', feed)) is distinct from
        to_regprocedure(format('changefeed_log.make_tick_%s(boolean,boolean,bigint)', feed)) then
        execute format('drop function changefeed_log.make_tick_%s', feed);
    end if;
    execute format($function$
        create or replace function changefeed_log.make_tick_%1$s(
            force boolean, arm boolean default false, answered bigint default null)
        returns table (id bigint, at timestamptz, last_seq bigint, xid text, snapshot text, topology bigint, made boolean, quiet boolean)
        language plpgsql security definer
        set search_path = pg_catalog, pg_temp
        -- Whoever asks is told in time, and asks again: an operator may have left a transaction open that has the lock.
        set lock_timeout = '3s'
        as $body$
        declare
            newest   changefeed_log.tick_%1$s;
            first    changefeed_log.tick_%1$s;
            reading  bigint;
            locked   boolean := false;
            finished boolean;
        begin
            if pg_is_in_recovery() then
                raise exception 'no tick on a standby: its snapshots lack transactions in flight'
                    using errcode = 'read_only_sql_transaction';
            end if;
            if pg_current_xact_id_if_assigned() is not null
                or current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
                raise exception 'a tick needs a transaction of its own, at READ COMMITTED'
                    using errcode = 'active_sql_transaction';
            end if;
            if answered is not null then
                perform setval('changefeed_log.rung_%1$s',
                               greatest(0, least(answered, coalesce(pg_sequence_last_value('changefeed_log.bell_%1$s'), 0))));
            end if;
            -- P1: armed first, then the sequence is read; see doorbell.sql.
            if arm then
                perform nextval('changefeed_log.bell_%1$s');
            end if;
            -- Before anything is read, so that nobody who waits for it holds a lock on what it empties.
            if changefeed.adopt_log(%1$s) then
                return query select t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology, true, false
                             from changefeed_log.tick_%1$s t;
                return;
            end if;
            loop
                select * into newest from changefeed_log.tick_%1$s t order by t.id desc limit 1;
                -- A fresh sequence reads 1 before its first number is drawn.
                select case when s.is_called then s.last_value else 0 end into reading from changefeed_log.seq_%1$s s;
                select * into first from changefeed_log.tick_%1$s t
                    where t.last_seq = newest.last_seq order by t.id limit 1;
                quiet := newest.last_seq = 0 or changefeed.sees_candidates(newest.snapshot, first.xid);
                finished := not quiet and changefeed.candidate_has_ended(newest.snapshot, first.xid);
                -- Once an hour anyway: the tokens of a feed where nothing happens must not age.
                made := force or finished or reading > newest.last_seq or clock_timestamp() - newest.at > '1 hour';
                exit when locked or not made;
                lock table changefeed_log.lock_ticks_%1$s in share update exclusive mode;
                locked := true;
            end loop;
            if made then
                -- What a tick bounds is delivered as soon as it is visible; durable, it makes durable all that it sees.
                if current_setting('synchronous_commit') = 'off' then
                    perform set_config('synchronous_commit', 'on', true);
                end if;
                -- The order is the proof: the sequence was read, now the xid, then the snapshot.
                newest.xid := pg_current_xact_id();
                newest.snapshot := pg_current_snapshot();
                if pg_visible_in_snapshot(newest.xid, newest.snapshot) then
                    newest.snapshot := changefeed.as_under_way(newest.snapshot, newest.xid);
                end if;
                newest.id := newest.id + 1;
                newest.at := clock_timestamp();
                newest.reached := greatest(newest.reached, newest.at);
                quiet := reading = 0 or changefeed.sees_candidates(
                    newest.snapshot, case when reading = newest.last_seq then first.xid else newest.xid end);
                newest.last_seq := reading;
                insert into changefeed_log.tick_%1$s values (newest.*);
            end if;
            id := newest.id;
            at := newest.at;
            last_seq := newest.last_seq;
            xid := newest.xid::text;
            snapshot := newest.snapshot::text;
            topology := newest.topology;
            return next;
        end;
        $body$
    $function$, feed);
    execute format('grant execute on function changefeed_log.make_tick_%s to changefeed_reader', feed);
end;
$create$;

create or replace function changefeed.tick(feed integer, force boolean default false)
returns table (id bigint, at timestamptz, last_seq bigint, xid text, snapshot text, topology bigint, made boolean, quiet boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format('select * from changefeed_log.make_tick_%s($1)', feed) using force;
end;
$$;
comment on function changefeed.tick(integer, boolean) is
    'Makes a tick if it can bring a change, or if forced, in a transaction of its own; answers the newest tick. '
    'quiet: only new numbers of the sequence can bring anything.';

-- No SET clause: a procedure with one could not commit, and each tick needs a transaction of its own.
create or replace procedure changefeed.tick_all()
language plpgsql
as $$
declare
    feed pg_catalog.int4;
begin
    for feed in select f.feed_id from changefeed.feeds f loop
        perform changefeed.tick(feed);
        commit;
    end loop;
end;
$$;
comment on procedure changefeed.tick_all() is 'Makes the ticks that are due, for all feeds: the cadence of idle feeds.';
