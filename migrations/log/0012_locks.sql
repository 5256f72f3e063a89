-- The locks of a feed's ticks and of its retention are locks of tables. An advisory lock is anybody's to take, and to
-- keep: any login of the database could stop every feed. SHARE UPDATE EXCLUSIVE needs the right to write to the table,
-- which changefeed_owner alone has; it is in the way of its own kind only, and it takes no transaction id, which a tick
-- must not have before it has read the sequence.

create function changefeed.create_locks(feed integer) returns void
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

create function changefeed.lock_ticks(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('lock table changefeed_log.lock_ticks_%s in share update exclusive mode', feed);
end;
$$;

-- A snapshot counts its own transaction as ended once a later one has. What is written after a tick in the tick's own
-- transaction would then belong to the batch before it, and overtake what others committed meanwhile.
create function changefeed.as_under_way(seen pg_snapshot, xid xid8) returns pg_snapshot
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
    execute format($function$
        create or replace function changefeed_log.make_tick_%1$s(force boolean)
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
    execute format('grant execute on function changefeed_log.make_tick_%s(boolean) to changefeed_reader', feed);
end;
$create$;

create or replace function changefeed.create_log(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($sql$
        create sequence changefeed_log.seq_%1$s as bigint cache 1;
        create sequence changefeed_log.bell_%1$s as bigint cache 1;

        create table changefeed_log.log_%1$s (
            xid           xid8 not null,
            seq           bigint not null default nextval('changefeed_log.seq_%1$s'),
            changed_at    timestamptz not null,
            bucket        smallint not null,
            created       boolean not null,
            op            text not null,
            partition_key text not null,
            key           text not null,
            image         text,
            annotations   text
        ) partition by range (changed_at);
        create index on changefeed_log.log_%1$s (seq);
        create index on changefeed_log.log_%1$s (xid, seq);
        create index on changefeed_log.log_%1$s (partition_key, seq);
        create index on changefeed_log.log_%1$s (bucket, seq);
        create index on changefeed_log.log_%1$s (seq) where op in ('truncate', 'stopped');

        create table changefeed_log.tick_%1$s (
            id       bigint not null,
            at       timestamptz not null,
            last_seq bigint not null,
            xid      xid8 not null,
            snapshot pg_snapshot not null,
            topology bigint not null,
            reached  timestamptz not null
        ) partition by range (at);
        create index on changefeed_log.tick_%1$s (id);
        create index on changefeed_log.tick_%1$s (last_seq, id);
        create index on changefeed_log.tick_%1$s (reached, id);
    $sql$, feed);
    perform changefeed.create_locks(feed);
    perform changefeed.create_days(format('log_%s', feed), (now() at time zone 'UTC')::date, 14);
    perform changefeed.create_days(format('tick_%s', feed), (now() at time zone 'UTC')::date, 14);
end;
$$;

-- Takes the lock of the feed's ticks, so that nobody else changes its partitions until the transaction ends.
create or replace function changefeed.lock_feed(name text) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    feed integer;
begin
    select f.feed_id into feed from changefeed.feeds f where f.name = lock_feed.name;
    if feed is null then
        raise exception 'there is no feed %', quote_nullable(name)
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists them.';
    end if;
    perform changefeed.lock_ticks(feed);
    return feed;
end;
$$;

-- Runs as its owner: whoever may make a tick may find out that the log has moved, and nobody can do more with it.
create or replace function changefeed.adopt_log(feed integer) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.lock_ticks(feed);
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.begin_epoch(feed);
    return true;
end;
$$;

do $do$
declare
    feed integer;
begin
    for feed in select feed_id from changefeed.feeds loop
        perform changefeed.create_locks(feed);
        perform changefeed.create_tick_function(feed);
    end loop;
end;
$do$;

select changefeed.hand_over();
