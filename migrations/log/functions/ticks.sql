-- Ticks: stored snapshots that cut the log into batches. Any replica may make one; the lock makes it one at a time.
-- topology: the last tick, up to this one, at which the physical partitions changed.
-- reached: the latest time of all ticks up to this one. Clocks step back; this does not, so an index finds a time by it.
-- day: the day floor's value, read before the tick took its xid; see day_floor.sql.
-- first_xid: the xid of the earliest tick with the same last_seq.

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
    -- As a tick takes them: it has read the sequences, which locks them, when it comes to this lock.
    execute format($sql$
        select pg_sequence_last_value('changefeed_log.seq_%1$s'), pg_sequence_last_value('changefeed_log.day_%1$s');
        lock table changefeed_log.lock_ticks_%1$s in share update exclusive mode
    $sql$, feed);
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

-- PL/pgSQL that makes a tick if it can bring a change, or if forced. Takes force, arm, answered and known, the last number that
-- whoever asks knows of; leaves newest, made, quiet (only new numbers can bring anything) and armed. Told to arm, it arms the bell
-- if nothing is there, and also if known tells that it is one change: more are no lone one, and others are likely to follow.
create or replace function changefeed.tick_sql(feed integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
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
            -- Before anything is read, so that nobody who waits for it holds a lock on what it empties.
            if not changefeed.is_at_home(%1$s) then
                perform changefeed.adopt_log(%1$s);
            end if;
            -- The bell's lock before that of the sequence, as for those who end a feed.
            if arm then
                perform pg_sequence_last_value('changefeed_log.bell_%1$s');
            end if;
            -- P1: armed first, then the sequence is read; see doorbell.sql.
            if arm and coalesce(pg_sequence_last_value('changefeed_log.seq_%1$s'), 0) <= known + 1 then
                perform nextval('changefeed_log.bell_%1$s');
                armed := true;
            end if;
            -- There is news for certain: what is read without the lock would be read again. The day floor's own lock comes
            -- before that one, as for those who date a feed anew.
            if coalesce(pg_sequence_last_value('changefeed_log.seq_%1$s'), 0) > known then
                floor := pg_sequence_last_value('changefeed_log.day_%1$s');
                lock table changefeed_log.lock_ticks_%1$s in share update exclusive mode;
                locked := true;
            end if;
            loop
                floor := pg_sequence_last_value('changefeed_log.day_%1$s');
                starts := changefeed.day_start(floor);
                -- Every tick lies in the day that the floor had when it was made, and the floor never falls.
                select * into newest from changefeed_log.tick_%1$s t
                    where t.at >= starts and t.at < starts + '24:00' order by t.id desc limit 1;
                if not found then
                    select * into newest from changefeed_log.tick_%1$s t order by t.id desc limit 1;
                end if;
                -- Null before its first number is drawn.
                reading := coalesce(pg_sequence_last_value('changefeed_log.seq_%1$s'), 0);
                if newest.first_xid is null then
                    select t.xid into newest.first_xid from changefeed_log.tick_%1$s t
                        where t.last_seq = newest.last_seq order by t.id limit 1;
                end if;
                quiet := newest.last_seq = 0 or pg_snapshot_xmin(newest.snapshot) >= newest.first_xid;
                if not quiet then
                    quiet := changefeed.sees_candidates(newest.snapshot, newest.first_xid);
                end if;
                made := force or reading > newest.last_seq
                    -- Once an hour anyway: the tokens of a feed where nothing happens must not age.
                    or clock_timestamp() - newest.at > '1 hour';
                if not made and not quiet then
                    made := changefeed.candidate_has_ended(newest.snapshot, newest.first_xid);
                end if;
                exit when locked;
                if made then
                    lock table changefeed_log.lock_ticks_%1$s in share update exclusive mode;
                    locked := true;
                elsif arm and not armed then
                    -- P1: as above, and then all is read once more.
                    perform nextval('changefeed_log.bell_%1$s');
                    armed := true;
                else
                    exit;
                end if;
            end loop;
            if made then
                -- What a tick bounds is delivered as soon as it is visible; durable, it makes durable all that it sees.
                if current_setting('synchronous_commit') = 'off' then
                    perform set_config('synchronous_commit', 'on', true);
                end if;
                -- The order is the proof: the sequences were read, now the xid, then the snapshot.
                newest.xid := pg_current_xact_id();
                newest.snapshot := pg_current_snapshot();
                if pg_visible_in_snapshot(newest.xid, newest.snapshot) then
                    newest.snapshot := changefeed.as_under_way(newest.snapshot, newest.xid);
                end if;
                newest.id := newest.id + 1;
                newest.day := floor;
                if reading > newest.last_seq then
                    newest.first_xid := newest.xid;
                end if;
                newest.last_seq := reading;
                quiet := reading = 0 or pg_snapshot_xmin(newest.snapshot) >= newest.first_xid;
                if not quiet then
                    quiet := changefeed.sees_candidates(newest.snapshot, newest.first_xid);
                end if;
                newest.at := clock_timestamp();
                if floor is null or newest.at >= starts + '24:00' then
                    if floor is not null or changefeed.is_captured_by_day(%1$s) then
                        starts := changefeed.day_start(
                            setval('changefeed_log.day_%1$s', changefeed.day_of(newest.at) << 40));
                    end if;
                end if;
                newest.at := greatest(newest.at, starts);
                newest.reached := greatest(newest.reached, newest.at);
                insert into changefeed_log.tick_%1$s values (newest.*);
            end if;$sql$, feed)
$$;

-- Who calls it meanwhile goes on with it, unless it was of another form before.
create or replace function changefeed.replace_function(signature text, definition text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- One of other arguments would be a second function.
    if to_regproc(split_part(signature, '(', 1)) is distinct from to_regprocedure(signature) then
        execute 'drop function ' || split_part(signature, '(', 1);
    end if;
    execute 'create or replace function ' || definition;
exception when invalid_function_definition then
    execute 'drop function ' || signature;
    execute 'create function ' || definition;
end;
$$;

-- One function a feed, so that its statements are planned once.
create or replace function changefeed.create_tick_function(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    perform changefeed.replace_function(format('changefeed_log.make_tick_%s(boolean,boolean,bigint)', feed), format($function$
        changefeed_log.make_tick_%1$s(
            force boolean, arm boolean default false, answered bigint default null,
            out id bigint, out at timestamptz, out last_seq bigint, out xid text, out snapshot text, out topology bigint,
            out day bigint, out made boolean, out quiet boolean, out armed boolean)
        language plpgsql security definer
        set search_path = pg_catalog, pg_temp
        -- Whoever asks is told in time, and asks again: an operator may have left a transaction open that has the lock.
        set lock_timeout = '3s'
        as $body$
        declare
            newest  changefeed_log.tick_%1$s;
            floor   bigint;
            starts  timestamptz;
            reading bigint;
            locked  boolean := false;
            known   constant bigint := null;
        begin
            armed := false;%2$s
            id := newest.id;
            at := newest.at;
            last_seq := newest.last_seq;
            xid := newest.xid::text;
            snapshot := newest.snapshot::text;
            topology := newest.topology;
            day := newest.day;
        end;
        $body$
    $function$, feed, changefeed.tick_sql(feed)));
    execute format('grant execute on function changefeed_log.make_tick_%s to changefeed_reader', feed);
end;
$create$;

-- The question of a gateway that is awake, in one round trip: a tick, and what follows the newest one that it knows. Both are
-- one transaction, and whoever asks has the answer when that has committed: P1, a tick is durable before what it bounds is
-- delivered.
--
-- base, base_xmax, base_xip: that tick; known: the number that it read. after: the number that the tick before it read,
-- base_floor: its reading of the day floor. base_day: the table of the log for that day. Answers the ticks after the base, or
-- the newest one; then, if all that follows the base lies in that one day, a row of nulls, and the changes up to one more
-- than most.
create or replace function changefeed.create_live_function(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    perform changefeed.replace_function(format(
        'changefeed_log.live_%s(boolean,bigint,bigint,xid8,xid8[],bigint,bigint,bigint,oid,integer)', feed), format($function$
        changefeed_log.live_%1$s(
            arm boolean, answered bigint, base bigint, base_xmax xid8, base_xip xid8[], known bigint, after bigint,
            base_floor bigint, base_day oid, most integer)
        returns table (
            id bigint, at timestamptz, last_seq bigint, tick_xid text, snapshot text, topology bigint, day bigint,
            quiet boolean, armed boolean,
            seq bigint, xid text, changed_at timestamptz, op text, created boolean, partition_key text, key text, image text,
            image_bytes integer, bucket smallint, annotations text)
        language plpgsql security definer
        set search_path = pg_catalog, pg_temp
        set lock_timeout = '3s'
        as $body$
        declare
            newest  changefeed_log.tick_%1$s;
            floor   bigint;
            starts  timestamptz;
            reading bigint;
            locked  boolean := false;
            force   constant boolean := false;
            made    boolean;
        begin
            armed := false;%2$s
            starts := changefeed.day_start(base_floor);
            if newest.id - base between 2 and 16 then
                for id, at, last_seq, tick_xid, snapshot, topology, day in
                    select t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology, t.day
                    from changefeed_log.tick_%1$s t
                    where t.id > base and t.id < newest.id and t.at >= starts and t.at < starts + '24:00' order by t.id
                loop
                    return next;
                end loop;
            end if;
            id := newest.id;
            at := newest.at;
            last_seq := newest.last_seq;
            tick_xid := newest.xid::text;
            snapshot := newest.snapshot::text;
            topology := newest.topology;
            day := newest.day;
            return next;
            -- Read after the snapshot: if it has not moved since the tick before the base, nothing was dated beyond its day.
            if newest.id - base not between 1 and 16
                or base_floor is distinct from pg_sequence_last_value('changefeed_log.day_%1$s') then
                return;
            end if;
            -- Something older has ended, which may lie anywhere.
            if base_xip <> '{}' and exists (
                select from unnest(base_xip) x where pg_visible_in_snapshot(x, newest.snapshot)) then
                return;
            end if;
            return query
                select null::bigint, null::timestamptz, null::bigint, null::text, null::text, null::bigint, null::bigint,
                    null::boolean, null::boolean, null::bigint, null::text, null::timestamptz, null::text, null::boolean,
                    null::text, null::text, null::text, null::integer, null::smallint, null::text
                from pg_inherits i
                where i.inhrelid = base_day and i.inhparent = 'changefeed_log.log_%1$s'::regclass
                    and not i.inhdetachpending
                union all
                (select null, null, null, null, null, null, null, null, null, l.seq, l.xid::text, l.changed_at, l.op, l.created,
                    l.partition_key, l.key, case when octet_length(l.image) <= 8192 then l.image end, octet_length(l.image),
                    l.bucket, l.annotations
                from changefeed_log.log_%1$s l
                where l.seq > after and l.xid >= base_xmax and pg_visible_in_snapshot(l.xid, newest.snapshot)
                    and l.changed_at >= starts and l.changed_at < starts + '24:00'
                order by l.seq limit most + 1);
        end;
        $body$
    $function$, feed, changefeed.tick_sql(feed)));
    execute format('grant execute on function changefeed_log.live_%s to changefeed_reader', feed);
end;
$create$;

create or replace function changefeed.tick(feed integer, force boolean default false)
returns table (id bigint, at timestamptz, last_seq bigint, xid text, snapshot text, topology bigint, made boolean, quiet boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format('select t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.made, t.quiet '
                                'from changefeed_log.make_tick_%s($1) t', feed) using force;
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
