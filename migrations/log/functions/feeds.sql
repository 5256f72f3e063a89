-- What a feed owns is made and dropped with it: a log, ticks, their days, a sequence and a doorbell.

-- xid comes first among the columns, so that it is assigned before a number is drawn: a tick between the two would
-- take the number for one that is already accounted for.
-- Sequences of the doorbell are unlogged: who is asleep is not worth a flush, and after a crash nobody is.
-- Three B-trees that grow with every change. Each names the statements that need it.
-- Buckets are 0 to 4095; marks (of a truncate, of a capture that stopped), which concern every reader, lie in bucket -1.
create or replace function changefeed.create_log(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($sql$
        create sequence changefeed_log.seq_%1$s as bigint cache 1;
        create sequence changefeed_log.day_%1$s as bigint minvalue 0 start 0 cache 1;
        create unlogged sequence changefeed_log.bell_%1$s as bigint increment 1000 minvalue 0 start 1000 cache 1;
        create unlogged sequence changefeed_log.rung_%1$s as bigint minvalue 0 start 1 cache 1;

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
        create index on changefeed_log.log_%1$s (seq);          -- page, page_of_buckets: the first arm; images
        create index on changefeed_log.log_%1$s (xid, seq);     -- page, page_of_buckets: the second arm; days_needed
        create index on changefeed_log.log_%1$s (bucket, seq);  -- page_of_few_buckets, range_of_few_buckets, page_of_key, range_of_key

        create table changefeed_log.tick_%1$s (
            id       bigint not null,
            at       timestamptz not null,
            last_seq bigint not null,
            xid      xid8 not null,
            snapshot pg_snapshot not null,
            topology bigint not null,
            reached  timestamptz not null,
            day      bigint,
            first_xid xid8
        ) partition by range (at);
        create index on changefeed_log.tick_%1$s (id);             -- make_tick, ticks_between, newest_tick, oldest_tick
        create index on changefeed_log.tick_%1$s (last_seq, id);   -- ticks_of, range_of_few_buckets, range_of_key
        create index on changefeed_log.tick_%1$s (reached, id);    -- tick_at
    $sql$, feed);
    perform changefeed.let_capture_append(feed);
    perform changefeed.create_locks(feed);
    perform changefeed.create_days(format('log_%s', feed), (now() at time zone 'UTC')::date, 4);
    perform changefeed.create_days(format('tick_%s', feed), (now() at time zone 'UTC')::date, 4);
end;
$$;

create or replace function changefeed.let_capture_append(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('grant insert on changefeed_log.log_%1$s to changefeed_capture; '
                   'grant usage on sequence changefeed_log.seq_%1$s, changefeed_log.day_%1$s, changefeed_log.bell_%1$s, '
                   'changefeed_log.rung_%1$s to changefeed_capture', feed);
end;
$$;

create or replace function changefeed.refuse_retention(retention interval) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if retention is null or retention not between '1 day' and '366 days' then
        raise exception 'retention is %', coalesce(quote_literal(retention), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Choose 1 day to 366 days: history is dropped by whole days, and the tokens of an idle feed move '
                         'once an hour.';
    end if;
end;
$$;

-- It must see nobody who may still write: not our own transaction either, which a snapshot counts as ended once a later
-- one has. Nor does it see the last one that has ended, as of which begin_epoch enters what it finds.
create or replace function changefeed.make_first_tick(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($sql$
        insert into changefeed_log.tick_%s (id, at, last_seq, xid, snapshot, topology, reached, first_xid)
        select 1, own.at, 0, own.xid,
               format('%%1$s:%%1$s:', pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::pg_snapshot,
               1, own.at, own.xid
        from (select pg_current_xact_id() as xid, clock_timestamp() as at) own
    $sql$, feed);
end;
$$;

create or replace function changefeed.create_feed(
    name text,
    source regclass,
    image_mode text,
    image_function text,
    key_columns text[],
    key_types text[],
    partition_key_columns text[],
    doorbell text
) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    feed integer;
begin
    insert into changefeed.feeds
        (name, source, image_mode, image_function, key_columns, key_types, partition_key_columns, doorbell)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    returning feed_id into feed;
    perform changefeed.create_log(feed);
    perform changefeed.create_tick_function(feed);
    perform changefeed.create_live_function(feed);
    perform changefeed.make_first_tick(feed);
    update changefeed.feeds f set home = changefeed.home(feed) where f.feed_id = feed;
    insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick) values (feed, '0-4095', 0, 4095, 1);
    return feed;
end;
$$;
comment on function changefeed.create_feed(text, regclass, text, text, text[], text[], text[], text) is
    'Makes a feed with its log and its first tick; capture is up to the caller. Answers the feed id.';

-- CASCADE takes the triggers of capture, those of partitions too. First of all they go, which locks their tables: whoever writes has
-- locked the sequences after his table, and a tick has read them before it comes to its own lock.
create or replace function changefeed.drop_feed(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
set client_min_messages = warning
as $$
declare
    capture  regprocedure;
    sequence text;
    watched  regclass := (select c.oid from changefeed.feeds f join pg_class c on c.oid = f.source where f.feed_id = feed);
begin
    if not exists (select from changefeed.feeds f where f.feed_id = feed) then
        raise exception 'there is no feed %', feed
            using errcode = 'undefined_object', hint = 'changefeed feeds lists what there is.';
    end if;
    begin
        execute format('lock table changefeed_log.lock_retention_%s in share update exclusive mode', feed);
    exception when lock_not_available then
        raise exception 'retention is at work on feed %', feed
            using errcode = 'lock_not_available', hint = 'Nothing was changed. Call it again when the run has ended.';
    end;
    delete from changefeed.feeds where feed_id = feed;
    for capture in
        select oid from pg_proc where pronamespace = 'changefeed_log'::regnamespace
            and starts_with(proname, format('capture_%s_', feed))
    loop
        execute format('drop function %s cascade', capture);
    end loop;
    -- Capture may read what is watched, and no more. Where somebody else gave it the right, it stays.
    if watched is not null and has_table_privilege('changefeed_capture', watched, 'select') then
        execute format('revoke select on table %s from changefeed_capture', watched);
    end if;
    foreach sequence in array array ['bell', 'rung', 'seq', 'day'] loop
        execute format('alter sequence changefeed_log.%I cache 1', sequence || '_' || feed);
    end loop;
    perform changefeed.lock_ticks(feed);
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    perform changefeed.drop_loose_days(feed);
    execute format('drop table changefeed_log.log_%1$s, changefeed_log.tick_%1$s, changefeed_log.lock_ticks_%1$s, '
                   'changefeed_log.lock_retention_%1$s', feed);
    execute format('drop sequence changefeed_log.seq_%1$s, changefeed_log.day_%1$s, changefeed_log.bell_%1$s, '
                   'changefeed_log.rung_%1$s', feed);
    execute format('drop function changefeed_log.make_tick_%1$s, changefeed_log.live_%1$s', feed);
    execute format('drop function if exists changefeed_log.items_%1$s, changefeed_log.places_%1$s', feed);
end;
$$;
comment on function changefeed.drop_feed(integer) is 'Removes a feed whole: its triggers, its log and its history.';
