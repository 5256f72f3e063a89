-- The feeds of a database, and what each of them owns: a log, ticks, their days, a sequence and a doorbell.

create schema changefeed;
comment on schema changefeed is 'Change feeds: what an operator calls.';

create schema changefeed_log;
comment on schema changefeed_log is 'Change feeds: the logs and ticks themselves. Written by capture, read by the gateway.';

create table changefeed.migrations (
    set        text not null,
    version    integer not null,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (set, version)
);
comment on table changefeed.migrations is 'What `changefeed migrate` applied, and the sha256 of each file.';

create table changefeed.feeds (
    feed_id               integer generated always as identity primary key,
    name                  text not null unique check (name <> ''),
    source                regclass,
    source_oid            oid,
    image_mode            text not null check (image_mode in ('captured', 'current', 'none')),
    image_function        text check ((image_mode = 'current') = (image_function is not null)),
    key_columns           text[] not null check (cardinality(key_columns) > 0),
    key_types             text[] not null check (key_types <@ array ['string', 'number', 'boolean', 'binary']),
    partition_key_columns text[] not null check (cardinality(partition_key_columns) > 0),
    doorbell              text not null check (doorbell in ('notify', 'poll')),
    capture               text not null default 'statement' check (capture in ('statement', 'row')),
    always                boolean not null default false,
    key_numbers           smallint[],
    partition_key_numbers smallint[],
    image_numbers         smallint[],
    image_columns         text[],
    text_forms            text[],
    shape                 text,
    stopped               text,
    retention             interval not null default '7 days' check (retention between '1 day' and '366 days'),
    incarnation           uuid not null default gen_random_uuid(),
    home                  text,
    created_at            timestamptz not null default clock_timestamp(),
    check (cardinality(key_columns) = cardinality(key_types))
);
comment on table changefeed.feeds is 'One row a feed; its log is changefeed_log.log_<feed_id>.';
comment on column changefeed.feeds.source is 'The watched table, which a dump names; null for a feed made of several.';
comment on column changefeed.feeds.source_oid is 'The table that the numbers of columns are of: a restored one has another.';
comment on column changefeed.feeds.image_mode is 'captured: the trigger stores the row; current: read with the page; none.';
comment on column changefeed.feeds.image_function is 'Takes text[] of keys, returns key, partition_key, image of those that exist now.';
comment on column changefeed.feeds.capture is 'Whether triggers fire once a statement or once a row.';
comment on column changefeed.feeds.always is 'Captured under session_replication_role = replica too.';
comment on column changefeed.feeds.key_numbers is 'attnum of the key columns, which a renamed column keeps; null without a source.';
comment on column changefeed.feeds.image_columns is 'The columns of the image when the table was watched; null for all.';
comment on column changefeed.feeds.image_numbers is 'attnum of the columns of the image; null for all.';
comment on column changefeed.feeds.text_forms is 'How the key columns, then the partition key columns, are written.';
comment on column changefeed.feeds.shape is 'The table that the capture functions were made for.';
comment on column changefeed.feeds.stopped is 'Why changes were not captured when check_feeds last looked; null if they were.';
comment on column changefeed.feeds.incarnation is 'A re-created feed has another one, and refuses the tokens of the first.';
comment on column changefeed.feeds.home is 'Where its log was made; elsewhere it is a copy, whose history begins anew.';

create table changefeed.partitions (
    feed_id      integer not null references changefeed.feeds on delete cascade,
    partition_id text not null,
    low          smallint not null check (low >= 0),
    high         smallint not null check (high between low and 255),
    start_tick   bigint not null,
    end_tick     bigint check (end_tick > start_tick),
    primary key (feed_id, partition_id)
);
comment on table changefeed.partitions is
    'Physical partitions: the changes of buckets low to high in the batches after start_tick, up to and including end_tick; '
    'null while it is active. At each tick the partitions cover every bucket once.';

-- A missing day must not fail an application's write, and a DEFAULT partition would forbid DETACH CONCURRENTLY:
-- two ordinary partitions, past and future, hold what no day covers.
create function changefeed.create_days(parent text, first_day date, days integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    day date;
begin
    execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (minvalue) to (%L)',
                   parent || '_past', parent, first_day::timestamptz);
    for day in select first_day + n from generate_series(0, days - 1) n loop
        execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (%L) to (%L)',
                       parent || to_char(day, '"_"YYYYMMDD'), parent, day::timestamptz, (day + 1)::timestamptz);
    end loop;
    execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (%L) to (maxvalue)',
                   parent || '_future', parent, (first_day + days)::timestamptz);
end;
$$;
comment on function changefeed.create_days(text, date, integer) is
    'Gives a new log or tick table its days (UTC) and the two partitions that hold what no day covers.';

-- xid comes first among the columns, so that it is assigned before a number is drawn: a tick between the two would
-- take the number for one that is already accounted for.
create function changefeed.create_log(feed integer) returns void
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
    perform changefeed.create_days(format('log_%s', feed), (now() at time zone 'UTC')::date, 14);
    perform changefeed.create_days(format('tick_%s', feed), (now() at time zone 'UTC')::date, 14);
end;
$$;

create function changefeed.refuse_retention(retention interval) returns void
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
-- one has.
create function changefeed.make_first_tick(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($sql$
        insert into changefeed_log.tick_%s (id, at, last_seq, xid, snapshot, topology, reached)
        select 1, own.at, 0, own.xid,
               format('%%1$s:%%1$s:', pg_snapshot_xmin(pg_current_snapshot()))::pg_snapshot, 1, own.at
        from (select pg_current_xact_id() as xid, clock_timestamp() as at) own
    $sql$, feed);
end;
$$;

create function changefeed.create_feed(
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
    perform changefeed.make_first_tick(feed);
    update changefeed.feeds f set home = changefeed.home(feed) where f.feed_id = feed;
    insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick) values (feed, '0-255', 0, 255, 1);
    return feed;
end;
$$;
comment on function changefeed.create_feed(text, regclass, text, text, text[], text[], text[], text) is
    'Makes a feed with its log and its first tick; capture is up to the caller. Answers the feed id.';

-- CASCADE takes the triggers of capture, those of partitions too.
create function changefeed.drop_feed(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
set client_min_messages = warning
as $$
declare
    capture regprocedure;
begin
    delete from changefeed.feeds where feed_id = feed;
    if not found then
        raise exception 'there is no feed %', feed
            using errcode = 'undefined_object', hint = 'changefeed feeds lists what there is.';
    end if;
    for capture in
        select oid from pg_proc where pronamespace = 'changefeed_log'::regnamespace
            and starts_with(proname, format('capture_%s_', feed))
    loop
        execute format('drop function %s cascade', capture);
    end loop;
    execute format('drop table changefeed_log.log_%1$s, changefeed_log.tick_%1$s', feed);
    execute format('drop sequence changefeed_log.seq_%1$s, changefeed_log.bell_%1$s', feed);
    execute format('drop function changefeed_log.make_tick_%s(boolean)', feed);
end;
$$;
comment on function changefeed.drop_feed(integer) is 'Removes a feed whole: its triggers, its log and its history.';
