-- The change log and the documents feed as they were before their steps were regrouped.
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
insert into changefeed.migrations (set, version, name, checksum) values ('log', 1, 'feeds', '739be3d338337810aedcb6931e98233dd51332c585a020e39551db57ddc9fd5b');

-- Ticks: stored snapshots that cut the log into batches. Any replica may make one; the lock makes it one at a time.
-- topology: the last tick, up to this one, at which the physical partitions changed.
-- reached: the latest time of all ticks up to this one. Clocks step back; this does not, so an index finds a time by it.

-- Candidates are transactions that may still hold a number up to last_seq. Capture holds its xid before it draws a
-- number, and a tick allocates its own xid after it has read the sequence: so only ids below the tick's own that its
-- snapshot does not see.
-- Below a snapshot's xmax those are in its list. From xmax on, all were under way, so who is missing among those under
-- way now has ended: counted, not listed, because a transaction with many savepoints holds as many ids.
create function changefeed.candidate_has_ended(seen pg_snapshot, tick_xid xid8) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    with now as materialized (select pg_current_snapshot() as snapshot)
    select exists (select from pg_snapshot_xip(seen) x where x < tick_xid and pg_visible_in_snapshot(x, now.snapshot))
        or least(tick_xid, pg_snapshot_xmax(now.snapshot))::text::bigint - pg_snapshot_xmax(seen)::text::bigint
            > (select count(*) from pg_snapshot_xip(now.snapshot) x where x >= pg_snapshot_xmax(seen) and x < tick_xid)
    from now
$$;

create function changefeed.sees_candidates(seen pg_snapshot, tick_xid xid8) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select pg_snapshot_xmax(seen) >= tick_xid and not exists (select from pg_snapshot_xip(seen) x where x < tick_xid)
$$;

-- One function a feed, so that its statements are planned once.
create function changefeed.create_tick_function(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    execute format($function$
        create function changefeed_log.make_tick_%1$s(force boolean)
        returns table (id bigint, at timestamptz, last_seq bigint, xid text, snapshot text, topology bigint, made boolean, quiet boolean)
        language plpgsql security definer
        set search_path = pg_catalog, pg_temp
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
                perform pg_advisory_xact_lock(1667655785, %1$s);
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

create function changefeed.tick(feed integer, force boolean default false)
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
create procedure changefeed.tick_all()
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
insert into changefeed.migrations (set, version, name, checksum) values ('log', 2, 'ticks', '846a26e673ba01f538ff940b8c6c60e1f611d0978a42f2b0ffb2ce6a06613aed');

-- How keys are written as text.

-- The key types of the contract: what a consumer reads the text as.
create function changefeed.key_type(type regtype) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when t.oid = 'bool'::regtype then 'boolean'
        when t.oid = 'bytea'::regtype then 'binary'
        when t.typcategory = 'N' and t.oid <> 'money'::regtype and t.typname !~ '^reg' then 'number'
        else 'string'
    end
    from pg_type t where t.oid = type
$$;

-- SQL for one column of a row variable as exact text.
create function changefeed.column_text(row_name text, column_name text, type regtype) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case changefeed.key_type(type)
        when 'binary' then format('encode(%I.%I, ''base64'')', row_name, column_name)
        else format('%I.%I::text', row_name, column_name)
    end
$$;

-- SQL for a key of a row variable: one value stands for itself, unless it is a text that looks like a list.
create function changefeed.key_text(source regclass, row_name text, columns text[]) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    texts text[];
    type  regtype;
begin
    select array_agg(changefeed.column_text(row_name, a.attname, a.atttypid) order by c.place), min(a.atttypid)
        into strict texts, type
        from unnest(columns) with ordinality c (name, place)
        join pg_attribute a on a.attrelid = source and a.attname = c.name and not a.attisdropped;
    if cardinality(texts) > 1 then
        return format('to_json(array[%s])::text', array_to_string(texts, ', '));
    end if;
    if changefeed.key_type(type) in ('number', 'boolean', 'binary') or type = 'uuid'::regtype then
        return texts[1];
    end if;
    return format('case when starts_with(%1$s, ''['') then to_json(array[%1$s])::text else %1$s end', texts[1]);
end;
$$;
comment on function changefeed.key_text(regclass, text, text[]) is
    'SQL that writes the key of a row as text: one value stands for itself, several (or a text that begins with "[") '
    'are a JSON array of texts.';

-- One of 256, by a hash that no version of PostgreSQL changes: a key whose bucket changed would lose its order. No SET
-- clause, so that it is inlined.
create function changefeed.bucket(key text) returns smallint
language sql immutable strict parallel safe
as $$ select pg_catalog.get_byte(pg_catalog.decode(pg_catalog.left(pg_catalog.md5(key), 2), 'hex'), 0)::pg_catalog.int2 $$;
comment on function changefeed.bucket(text) is
    'The bucket of a key, 0 to 255: the first byte of its MD5. A physical partition is a range of buckets.';

-- By number, which a rename leaves as it is. A column that is gone is null.
create function changefeed.column_names(source oid, numbers smallint[]) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attname::text order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum and not a.attisdropped
$$;

-- A name that the table does not have is null.
create function changefeed.column_numbers(source oid, names text[]) returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attnum order by c.place)
    from unnest(names) with ordinality c (name, place)
    left join pg_attribute a on a.attrelid = source and a.attname = c.name and a.attnum > 0 and not a.attisdropped
$$;

-- A unique index on exactly these columns, the primary key if it is one; null if there is none.
create function changefeed.key_index(source oid, numbers smallint[]) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select i.indexrelid
        from pg_index i
        where i.indrelid = source and i.indisunique and i.indisvalid and i.indpred is null
            and (i.indkey::smallint[])[0:i.indnkeyatts - 1] @> numbers
            and (i.indkey::smallint[])[0:i.indnkeyatts - 1] <@ numbers
        order by i.indisprimary desc, i.indimmediate desc, i.indexrelid
        limit 1
    );
end;
$$;

-- By its schema: the pinned search_path does not see an extension's.
create function changefeed.equality(key_index oid, number smallint) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('operator(%I.%s)', s.nspname, o.oprname)
    from pg_index i
    cross join unnest(i.indkey::smallint[], i.indclass::oid[]) k (attnum, opclass)
    join pg_opclass c on c.oid = k.opclass
    join pg_amop m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
        and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
    join pg_operator o on o.oid = m.amopopr
    join pg_namespace s on s.oid = o.oprnamespace
    where i.indexrelid = key_index and k.attnum = number
$$;
comment on function changefeed.equality(oid, smallint) is 'The operator by which a unique index says that two values of a column are equal.';
insert into changefeed.migrations (set, version, name, checksum) values ('log', 3, 'keys', 'f34561dc0b866c5cac14d587ad169ffbd02242a651d1f39020b8bd795b14bd3d');

-- Capture: one trigger function a feed and event, with static SQL, in the transaction of the writer.

-- NOTIFY holds one lock of the whole cluster until its commit is flushed, so the bell rings at most once in 2 ms. The
-- mark is a sequence because it must count at once, for everybody, whatever becomes of the transaction. Whom a ring
-- comes too early for is found by the readers' polls.
create function changefeed.doorbell_sql(feed integer, doorbell text, partition_key_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case doorbell when 'poll' then '' else format($sql$
    beat := (extract(epoch from clock_timestamp()) * 500)::bigint;
    if beat is distinct from pg_sequence_last_value('changefeed_log.bell_%1$s'::regclass) then
        perform setval('changefeed_log.bell_%1$s', beat);
        perform pg_notify('changefeed', json_build_object(
            'feed', %1$s, 'seq', currval('changefeed_log.seq_%1$s'),
            'partition_key', (select k from (%2$s limit 1) s (k) where length(k) <= 1000))::text);
    end if;$sql$, feed, partition_key_sql) end
$$;
comment on function changefeed.doorbell_sql(integer, text, text) is
    'PL/pgSQL that rings the doorbell of a feed; needs a variable "beat bigint". partition_key_sql: a query of one text.';

-- What a transaction says of itself by set_config('changefeed.annotations', ..., true). Nothing of it is repeated in an
-- error: it may name a person.
create function changefeed.checked_annotations(annotations text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    found text;
begin
    if octet_length(annotations) > 1024 then
        raise exception 'changefeed.annotations has % bytes', octet_length(annotations)
            using errcode = 'invalid_parameter_value', hint = 'Set a JSON object of at most 1024 bytes.';
    end if;
    begin
        found := json_typeof(annotations::json);
    exception when invalid_text_representation then
        found := 'no JSON';
    end;
    if found <> 'object' then
        raise exception 'changefeed.annotations is %, not a JSON object', found
            using errcode = 'invalid_parameter_value',
                  hint = 'Set an object such as {"actor": "..."}, or an empty text for none.';
    end if;
    return annotations;
end;
$$;

-- Annotations in a subquery: looked at once a statement.
create function changefeed.append_sql(feed integer, changes_sql text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    insert into changefeed_log.log_%s (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_current_xact_id(), clock_timestamp(), changefeed.bucket(c.key), c.created, c.op, c.partition_key, c.key, c.image,
           (select case when current_setting('changefeed.annotations', true) <> ''
                then changefeed.checked_annotations(current_setting('changefeed.annotations', true)) end)
    from (%s) c (created, op, partition_key, key, image);$sql$, feed, changes_sql)
$$;
comment on function changefeed.append_sql(integer, text) is
    'SQL that appends changes to a log. changes_sql: a query of created, op, partition_key, key, image.';

create function changefeed.if_found(statements text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case statements when '' then '' else format($sql$
    if not found then
        return null;
    end if;%s$sql$, statements) end
$$;
comment on function changefeed.if_found(text) is
    'PL/pgSQL that goes on only if something was appended: statement triggers fire for statements without rows too.';

-- Text forms of these types depend on the session; a key or an image must not. Triggers once a row do not notice a column
-- that is added or retyped, so theirs are pinned always.
create function changefeed.pinned_settings(f changefeed.feeds) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'set search_path = pg_catalog, pg_temp' || case when f.capture = 'row' or exists (
        select from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = f.source and a.attnum > 0 and not a.attisdropped
            and (t.typtype = 'd' or t.typcategory not in ('N', 'B', 'S') or t.oid in ('money'::regtype, 'float4'::regtype, 'float8'::regtype))
            and t.oid not in ('uuid'::regtype, 'json'::regtype, 'jsonb'::regtype)
    ) then ' set timezone = ''UTC'' set datestyle = ''ISO'' set intervalstyle = ''postgres'''
           ' set bytea_output = ''hex'' set extra_float_digits = 1 set lc_monetary = ''C''' else '' end
$$;

-- SQL for parts of a change, from a row variable.

create function changefeed.key_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.key_numbers)) $$;

create function changefeed.partition_key_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.partition_key_numbers)) $$;

-- Transition rows do not hold what a virtual generated column would be: the image goes without it.
create function changefeed.image_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when f.image_mode = 'none' then 'null::text'
        when f.image_numbers is null and bool_and(a.attgenerated <> 'v') then format('row_to_json(%I.*)::text', row_name)
        else format('(select row_to_json(i) from (select %s) i)::text',
            string_agg(format('%I.%I', row_name, a.attname), ', ' order by a.attnum)
                filter (where a.attgenerated <> 'v' and (f.image_numbers is null or a.attnum = any (f.image_numbers))))
    end
    from pg_attribute a where a.attrelid = f.source and a.attnum > 0 and not a.attisdropped
$$;

create function changefeed.create_capture_function(feed integer, event text, settings text, body text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $create$
begin
    execute format($function$
create or replace function changefeed_log.capture_%1$s_%2$s() returns trigger
language plpgsql security definer %3$s
as $body$
declare
    beat bigint;
    row_security_was text;
    settings_were text[];
begin%4$s
    return null;
end;
$body$
    $function$, feed, event, settings, body);
end;
$create$;
comment on function changefeed.create_capture_function(integer, text, text, text) is
    'Makes a trigger function changefeed_log.capture_<feed>_<event>. It runs as its owner, so that writers of the table need '
    'no rights on the log. settings: its SET clauses.';

-- A statement inside another one's triggers is captured before the outer one, whose transition rows are older by then.
-- Once that has happened in a transaction, its statements log their keys as the table shows them now.
create function changefeed.mark_nested_sql(feed integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    if pg_trigger_depth() > 1 then
        perform set_config('changefeed.nested_%s', 'on', true);
    end if;$sql$, feed)
$$;

-- row_security off: a table hidden by a policy is an error, not a table of deleted rows.
create function changefeed.unless_nested_sql(f changefeed.feeds, usual text, settled text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    if current_setting('changefeed.nested_%s', true) = 'on' then
        row_security_was := current_setting('row_security');
        perform set_config('row_security', 'off', true);%s
        beat := case when found then 1 end;
        perform set_config('row_security', row_security_was, true);
        if beat is null then
            return null;
        end if;
    else%s
    end if;$sql$, f.feed_id, settled, usual)
$$;

-- What to log of the touched keys as they stand now; old_rows, new_rows: what to select from, null for neither. LATERAL
-- with OFFSET 0: one index probe a key, whatever the size of the statement that the plan was first made for.
create function changefeed.settled_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $function$
declare
    unique_index oid := changefeed.key_index(f.source, f.key_numbers);
    columns text := (select string_agg(format('%I', c), ', ')
                     from unnest(changefeed.column_names(f.source, f.key_numbers)) c);
    same    text := (select string_agg(format('n.%1$I %2$s t.%1$I', c.name, changefeed.equality(unique_index, c.number)), ' and ')
                     from unnest(changefeed.column_names(f.source, f.key_numbers), f.key_numbers) c (name, number));
    touched text := concat_ws(' union all ',
        case when old_rows is not null then format('select o.*, %s as partition_key_, %s as key_, true as was_ from %s o',
            changefeed.partition_key_of(f, 'o'), changefeed.key_of(f, 'o'), old_rows) end,
        case when new_rows is not null then format('select n.*, %s as partition_key_, %s as key_, false as was_ from %s n',
            changefeed.partition_key_of(f, 'n'), changefeed.key_of(f, 'n'), new_rows) end);
begin
    return format($sql$
        with touched as (
            select %1$s, partition_key_, key_, bool_or(was_) as was_ from (%2$s) t group by %1$s, partition_key_, key_
        ), now as (
            select t.partition_key_ as touched_partition_key, t.key_ as touched_key, t.was_, n.partition_key, n.key, n.image
            from touched t left join lateral (
                select %3$s as partition_key, %4$s as key, %5$s as image from %6$s n where %7$s offset 0) n on true
        )
        select false, 'delete', touched_partition_key, touched_key, null
        from now where was_ and (partition_key, key) is distinct from (touched_partition_key, touched_key)
        union all
        select not bool_or(was_ and partition_key = touched_partition_key and key = touched_key), 'upsert',
               partition_key, key, min(image)
        from now where key is not null group by partition_key, key
    $sql$, columns, touched, changefeed.partition_key_of(f, 'n'), changefeed.key_of(f, 'n'),
        changefeed.image_of(f, 'n'), f.source::regclass, same);
end;
$function$;

-- Only in old: gone under that key. Only in new: came to be under it. A row whose partition key changed leaves one
-- logical partition and enters another; the delete comes first, or who mirrors by key alone would end without the row.
create function changefeed.paired_sql(pk_new text, pk_old text, key_new text, key_old text, image text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
        with pair as (
            select n.image, n.partition_key, n.key, o.partition_key as old_partition_key, o.key as old_key
            from (select %1$s as partition_key, %2$s as key, %3$s as image from new_rows n) n
            full join (select %4$s as partition_key, %5$s as key from old_rows o) o
                on o.key = n.key and o.partition_key = n.partition_key
        )
        select false, 'delete', p.old_partition_key, p.old_key, null from pair p where p.key is null
        union all
        select p.old_key is null, 'upsert', p.partition_key, p.key, p.image from pair p where p.key is not null
    $sql$, pk_new, key_new, image, pk_old, key_old)
$$;

-- The functions of one watched table. An update that changes no key, the usual one, needs no pairing of old and new rows:
-- a row trigger that fires only for changed keys tells the statement's function, for the rest of the transaction.
create function changefeed.create_statement_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    settings text := changefeed.pinned_settings(f);
    image    text := changefeed.image_of(f, 'n');
    key_new  text := changefeed.key_of(f, 'n');
    key_old  text := changefeed.key_of(f, 'o');
    pk_new   text := changefeed.partition_key_of(f, 'n');
    pk_old   text := changefeed.partition_key_of(f, 'o');
    bell_new text := changefeed.if_found(changefeed.mark_nested_sql(f.feed_id)
        || changefeed.doorbell_sql(f.feed_id, f.doorbell, format('select %s from new_rows n', pk_new)));
    bell_old text := changefeed.if_found(changefeed.mark_nested_sql(f.feed_id)
        || changefeed.doorbell_sql(f.feed_id, f.doorbell, format('select %s from old_rows o', pk_old)));
begin
    perform changefeed.create_capture_function(f.feed_id, 'insert', settings,
        changefeed.if_drifted_sql(f, null, 'new_rows') || changefeed.unless_nested_sql(f,
        changefeed.append_sql(f.feed_id,
            format('select true, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image)),
        changefeed.append_sql(f.feed_id, changefeed.settled_sql(f, null, 'new_rows'))) || bell_new);
    perform changefeed.create_capture_function(f.feed_id, 'delete', settings,
        changefeed.if_drifted_sql(f, 'old_rows', null) || changefeed.unless_nested_sql(f,
        changefeed.append_sql(f.feed_id,
            format('select false, ''delete'', %s, %s, null::text from old_rows o', pk_old, key_old)),
        changefeed.append_sql(f.feed_id, changefeed.settled_sql(f, 'old_rows', null))) || bell_old);
    perform changefeed.create_capture_function(f.feed_id, 'rekey', 'set search_path = pg_catalog, pg_temp', format($sql$
    perform set_config('changefeed.rekeyed_%s', 'on', true);$sql$, f.feed_id));
    perform changefeed.create_capture_function(f.feed_id, 'update', settings,
        changefeed.if_drifted_sql(f, 'old_rows', 'new_rows') || changefeed.unless_nested_sql(f, format($sql$
    if current_setting('changefeed.rekeyed_%s', true) = 'on' then%s
    else%s
    end if;$sql$, f.feed_id,
        changefeed.append_sql(f.feed_id, changefeed.paired_sql(pk_new, pk_old, key_new, key_old, image)),
        changefeed.append_sql(f.feed_id, format(
            'select false, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image))),
        changefeed.append_sql(f.feed_id, changefeed.settled_sql(f, 'old_rows', 'new_rows'))) || bell_new);
end;
$create$;

-- The same for triggers that fire once a row: on a partitioned table, whose own statement triggers do not see what is
-- written to a partition directly, and under logical replication, which fires no statement triggers.
create function changefeed.create_row_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    image   text := changefeed.image_of(f, 'new');
    key_new text := changefeed.key_of(f, 'new');
    key_old text := changefeed.key_of(f, 'old');
    pk_new  text := changefeed.partition_key_of(f, 'new');
    pk_old  text := changefeed.partition_key_of(f, 'old');
    moved   text := format('(%s, %s) is distinct from (%s, %s)', pk_old, key_old, pk_new, key_new);
    event   text;
    changes text;
    old_row text;
    new_row text;
begin
    for event, changes, old_row, new_row in values
        ('insert', format('select true, ''upsert'', %s, %s, %s', pk_new, key_new, image), null, '(select (new).*)'),
        ('delete', format('select false, ''delete'', %s, %s, null::text', pk_old, key_old), '(select (old).*)', null),
        ('update', format('select false, ''delete'', %s, %s, null::text where %s union all '
                          'select %s, ''upsert'', %s, %s, %s', pk_old, key_old, moved, moved, pk_new, key_new, image),
         '(select (old).*)', '(select (new).*)')
    loop
        perform changefeed.create_capture_function(f.feed_id, event, changefeed.pinned_settings(f),
            changefeed.if_drifted_row_sql(f, event)
            || changefeed.unless_nested_sql(f, changefeed.append_sql(f.feed_id, changes),
                changefeed.append_sql(f.feed_id, changefeed.settled_sql(f, old_row, new_row)))
            || changefeed.mark_nested_sql(f.feed_id)
            || changefeed.doorbell_sql(f.feed_id, f.doorbell,
                                       'select ' || case event when 'delete' then pk_old else pk_new end));
    end loop;
end;
$create$;

-- Capture runs as its owner, and looks at the table after a statement inside another one's triggers.
create function changefeed.let_capture_read(source regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner  constant name := 'changefeed_owner';
    schema text := (select s.nspname from pg_class c join pg_namespace s on s.oid = c.relnamespace where c.oid = source);
begin
    if not has_schema_privilege(owner, schema, 'usage') then
        execute format('grant usage on schema %I to %I', schema, owner);
    end if;
    if not has_table_privilege(owner, source, 'select') then
        execute format('grant select on table %s to %I', source, owner);
    end if;
    -- A role that may grant nothing is told so by a warning only.
    if not has_schema_privilege(owner, schema, 'usage') or not has_table_privilege(owner, source, 'select') then
        raise exception 'source: capture may not read %', source
            using errcode = 'insufficient_privilege',
                  hint = format('Have the owners call: grant usage on schema %I to %2$I; grant select on table %3$s to %2$I.',
                                schema, owner, source);
    end if;
end;
$$;

create function changefeed.create_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    f changefeed.feeds;
begin
    update changefeed.feeds u set shape = changefeed.shape(u), source_oid = u.source where u.feed_id = feed
        returning u.* into strict f;
    perform changefeed.create_capture_function(feed, 'truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, f.doorbell, 'select null::text'));
    if f.capture = 'row' then
        perform changefeed.create_row_capture(f);
    else
        perform changefeed.create_statement_capture(f);
    end if;
end;
$create$;
comment on function changefeed.create_capture(integer) is 'Writes the trigger functions of a watched table, anew if they are there.';

create function changefeed.create_triggers(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    event   text;
    -- By bytes: 1.0 and 1.00 are equal but are two texts.
    rekeyed text := (select format('pg_catalog.record_image_ne(row(%s), row(%s))', string_agg(format('old.%I', c), ', '),
                                   string_agg(format('new.%I', c), ', '))
                     from unnest(changefeed.column_names(f.source, f.key_numbers || f.partition_key_numbers)) u (c));
begin
    foreach event in array array ['insert', 'update', 'delete', 'truncate'] loop
        execute format('create or replace trigger changefeed_%1$s_%2$s after %2$s on %3$s %4$s '
                       'execute function changefeed_log.capture_%1$s_%2$s()',
                       f.feed_id, event, f.source::regclass,
                       case
                           when event = 'truncate' then 'for each statement'
                           when f.capture = 'row' then 'for each row'
                           when event = 'insert' then 'referencing new table as new_rows for each statement'
                           when event = 'update'
                               then 'referencing old table as old_rows new table as new_rows for each statement'
                           when event = 'delete' then 'referencing old table as old_rows for each statement'
                       end);
        if f.always then
            execute format('alter table %3$s enable always trigger changefeed_%1$s_%2$s', f.feed_id, event, f.source::regclass);
        end if;
    end loop;
    if f.capture = 'statement' then
        execute format('create or replace trigger changefeed_%1$s_rekey after update on %2$s for each row when (%3$s) '
                       'execute function changefeed_log.capture_%1$s_rekey()', f.feed_id, f.source::regclass, rekeyed);
    end if;
end;
$$;
insert into changefeed.migrations (set, version, name, checksum) values ('log', 4, 'capture', 'd0b7db50080b6ac30543e554443cb5e7c62ef51794159ea3e9463a7e1f69d871');

-- watch: makes a feed of a table. Each refusal names the argument, or the table, and what to do instead.

create function changefeed.refuse_unwatchable(source regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c    pg_class;
    part regclass;
begin
    select * into c from pg_class where oid = source;
    if c.oid is null then
        raise exception 'source: there is no such table'
            using errcode = 'undefined_table', hint = 'Name the table with its schema, such as public.orders.';
    elsif c.relnamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace, 'pg_catalog'::regnamespace,
                             'information_schema'::regnamespace) then
        raise exception 'source: % belongs to the change feeds or to PostgreSQL itself', source
            using errcode = 'wrong_object_type', hint = 'Watch a table of the application.';
    elsif c.relkind in ('v', 'm') then
        raise exception 'source: % is a view, not a table', source
            using errcode = 'wrong_object_type', hint = 'Watch the tables that the view reads.';
    elsif c.relkind = 'f' then
        raise exception 'source: % is a foreign table, not a table of this database', source
            using errcode = 'wrong_object_type', hint = 'Watch the table in the database that holds its rows.';
    elsif c.relkind not in ('r', 'p') then
        raise exception 'source: % is not a table', source
            using errcode = 'wrong_object_type', hint = 'Watch the table that holds the rows.';
    elsif c.relpersistence = 't' then
        raise exception 'source: % is a temporary table', source
            using errcode = 'wrong_object_type', hint = 'Watch a permanent table.';
    elsif c.relpersistence = 'u' then
        raise exception 'source: % is unlogged: a crash empties it without a change', source
            using errcode = 'wrong_object_type', hint = format('Run alter table %s set logged, then watch it.', source);
    elsif c.relispartition then
        raise exception 'source: % is a partition', source
            using errcode = 'wrong_object_type',
                  hint = format('Watch the whole table, %s: its feed has the changes of every partition.',
                                pg_partition_root(source));
    elsif c.relkind = 'r' and exists (select from pg_inherits where inhrelid = source or inhparent = source) then
        raise exception 'source: % takes part in inheritance, where no key is unique', source
            using errcode = 'feature_not_supported', hint = 'Make it a partitioned table, then watch it.';
    end if;
    select p.relid into part from pg_partition_tree(source) p join pg_class l on l.oid = p.relid
        where l.relkind not in ('r', 'p') or l.relpersistence <> 'p' limit 1;
    if found then
        raise exception 'source: the partition % is foreign, unlogged or temporary: its changes could be missed', part
            using errcode = 'wrong_object_type', hint = 'Detach it, or make it a permanent table, then watch the whole.';
    end if;
end;
$$;

-- The columns that an argument names, each checked.
create function changefeed.chosen_columns(source regclass, argument text, names text[]) returns smallint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    numbers smallint[] := changefeed.column_numbers(source, names);
    missing text;
begin
    if cardinality(names) = 0 or array_position(names, null) is not null
        or cardinality(names) > (select count(distinct n) from unnest(names) n) then
        raise exception '%: is empty, or names a column twice or null', argument
            using errcode = 'invalid_parameter_value', hint = 'Name each column once, or leave the argument out.';
    end if;
    select c.name into missing from unnest(names, numbers) c (name, number) where c.number is null limit 1;
    if found then
        raise exception '%: % has no column %', argument, source, quote_ident(missing)
            using errcode = 'undefined_column',
                  hint = format('Its columns are %s.', (select string_agg(quote_ident(attname), ', ' order by attnum)
                      from pg_attribute where attrelid = source and attnum > 0 and not attisdropped));
    end if;
    return numbers;
end;
$$;

create function changefeed.refuse_nullable(source regclass, argument text, numbers smallint[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    nullable text;
begin
    select quote_ident(attname) into nullable from pg_attribute
        where attrelid = source and attnum = any (numbers) and not attnotnull limit 1;
    if found then
        raise exception '%: the column % of % may be null', argument, nullable, source
            using errcode = 'invalid_parameter_value',
                  hint = format('Run alter table %s alter column %s set not null, or name other columns.', source, nullable);
    end if;
end;
$$;

create function changefeed.chosen_key(source regclass, key text[]) returns smallint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    numbers smallint[];
begin
    if key is null then
        numbers := (select (indkey::smallint[])[0:indnkeyatts - 1] from pg_index where indrelid = source and indisprimary);
        if numbers is null then
            raise exception 'key: % has no primary key', source
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Add a primary key, or name the columns of a unique index as key.';
        end if;
        return (select array_agg(n order by place) from unnest(numbers) with ordinality u (n, place));
    end if;
    numbers := changefeed.chosen_columns(source, 'key', key);
    perform changefeed.refuse_nullable(source, 'key', numbers);
    if changefeed.key_index(source, numbers) is null then
        raise exception 'key: no unique index of % is on exactly (%)', source, array_to_string(key, ', ')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run create unique index on %s (%s), without where, or name other columns.', source,
                                (select string_agg(quote_ident(k), ', ') from unnest(key) k));
    end if;
    return numbers;
end;
$$;

create function changefeed.refuse_options(source regclass, image text, image_columns text[], doorbell text, always boolean)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if image is null or image not in ('captured', 'none') then
        raise exception 'image is %', coalesce(quote_literal(image), 'null')
            using errcode = 'invalid_parameter_value', hint = 'Choose captured or none.';
    elsif doorbell is null or doorbell not in ('notify', 'poll') then
        raise exception 'doorbell is %', coalesce(quote_literal(doorbell), 'null')
            using errcode = 'invalid_parameter_value', hint = 'Choose notify or poll.';
    elsif always is null then
        raise exception 'always is null' using errcode = 'invalid_parameter_value', hint = 'Choose true or false.';
    elsif image = 'none' and image_columns is not null then
        raise exception 'image_columns: there is no image'
            using errcode = 'invalid_parameter_value', hint = 'Leave image_columns out, or choose image => ''captured''.';
    elsif image = 'captured' and exists (
        select from pg_attribute where attrelid = source and attgenerated = 'v' and not attisdropped
            and (image_columns is null or attname = any (image_columns))) then
        raise exception 'image: % has a virtual generated column, which triggers do not see', source
            using errcode = 'feature_not_supported',
                  hint = 'Make the column stored, or name the other columns as image_columns.';
    end if;
end;
$$;

create function changefeed.refuse_stopped(source regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known   changefeed.feeds;
    problem text;
begin
    select * into known from changefeed.feeds f where f.source = refuse_stopped.source;
    problem := changefeed.capture_problem(known);
    if known.feed_id is not null and problem is not null then
        raise exception '% has stopped, changes are missing: %', known.name, problem
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Call changefeed.unwatch, then changefeed.watch: the new feed refuses the tokens of the old one.';
    end if;
end;
$$;

create function changefeed.watch(
    source        regclass,
    partition_key text[] default null,
    image         text default 'captured',
    doorbell      text default 'notify',
    key           text[] default null,
    image_columns text[] default null,
    always        boolean default false,
    retention     interval default null
) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    wanted changefeed.feeds;
    feed   integer;
begin
    perform changefeed.refuse_stopped(watch.source);
    perform changefeed.refuse_unwatchable(watch.source);
    perform changefeed.refuse_options(watch.source, image, image_columns, doorbell, always);
    perform changefeed.refuse_retention(coalesce(retention, '7 days'));
    select format('%s.%s', n.nspname, c.relname), case when always or c.relkind = 'p' then 'row' else 'statement' end
        into wanted.name, wanted.capture
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = watch.source;
    wanted.source := watch.source;
    wanted.image_mode := image;
    wanted.doorbell := doorbell;
    wanted.always := always;
    wanted.key_numbers := changefeed.chosen_key(watch.source, key);
    wanted.partition_key_numbers := wanted.key_numbers;
    if partition_key is not null then
        wanted.partition_key_numbers := changefeed.chosen_columns(watch.source, 'partition_key', partition_key);
        perform changefeed.refuse_nullable(watch.source, 'partition_key', wanted.partition_key_numbers);
    end if;
    if image_columns is not null then
        wanted.image_numbers := changefeed.chosen_columns(watch.source, 'image_columns', image_columns);
    end if;
    feed := coalesce(changefeed.same_feed(wanted), changefeed.create_watched(wanted));
    if changefeed.has_drifted(feed, (select f.shape from changefeed.feeds f where f.feed_id = feed)) then
        perform changefeed.renew_capture(feed);
    end if;
    -- An UPDATE of no row takes a lock all the same.
    if retention <> (select f.retention from changefeed.feeds f where f.feed_id = feed) then
        update changefeed.feeds f set retention = watch.retention where f.feed_id = feed;
    end if;
    return feed;
end;
$$;
comment on function changefeed.watch(regclass, text[], text, text, text[], text[], boolean, interval) is
    'Makes a feed of a table and answers its id; again without harm. key: the primary key unless given. partition_key: the '
    'key unless given. image: captured or none. image_columns: all unless given. doorbell: notify or poll. always: under '
    'session_replication_role = replica too. retention: 7 days unless given.';

create function changefeed.create_watched(wanted changefeed.feeds) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    keys text[] := changefeed.column_names(wanted.source, wanted.key_numbers);
    feed integer;
begin
    -- Waits for writers under way before the feed begins: what they write is not captured.
    begin
        execute format('lock table %s in share row exclusive mode', wanted.source::regclass);
    exception when lock_not_available then
        raise exception 'source: % is being written to by a transaction that does not end', wanted.name
            using errcode = 'lock_not_available', hint = 'Nothing was changed. Watch it again when the transaction has ended.';
    end;
    -- Another call may have been first.
    feed := changefeed.same_feed(wanted);
    if feed is not null then
        return feed;
    end if;
    feed := changefeed.create_feed(
        wanted.name, wanted.source::regclass, wanted.image_mode, null, keys,
        (select array_agg(changefeed.key_type(a.atttypid) order by k.place)
         from unnest(wanted.key_numbers) with ordinality k (number, place)
         join pg_attribute a on a.attrelid = wanted.source and a.attnum = k.number),
        changefeed.column_names(wanted.source, wanted.partition_key_numbers), wanted.doorbell);
    update changefeed.feeds f
        set (capture, always, key_numbers, partition_key_numbers, image_numbers, image_columns, text_forms) = (
            wanted.capture, wanted.always, wanted.key_numbers, wanted.partition_key_numbers, wanted.image_numbers,
            changefeed.column_names(wanted.source, wanted.image_numbers),
            changefeed.text_forms(wanted.source, wanted.key_numbers || wanted.partition_key_numbers))
        where f.feed_id = feed returning f.* into wanted;
    perform changefeed.let_capture_read(wanted.source);
    perform changefeed.create_capture(feed);
    perform changefeed.create_triggers(wanted);
    return feed;
end;
$$;

-- For the table as it is now. Whoever writes meanwhile would find a trigger gone that his statement counts on.
create function changefeed.renew_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    f changefeed.feeds;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    execute format('lock table %s in share row exclusive mode', f.source::regclass);
    -- Two who write a function at once would fail.
    perform pg_advisory_xact_lock(1667655788, 0);
    perform changefeed.let_capture_read(f.source);
    perform changefeed.create_capture(feed);
    perform changefeed.create_triggers(f);
end;
$$;

-- The feed that is there already, or null. Looks only: who watches again at each start must not wait for anybody.
create function changefeed.same_feed(wanted changefeed.feeds) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known changefeed.feeds;
    other text;
begin
    select * into known from changefeed.feeds f where f.source = wanted.source or f.name = wanted.name
        order by f.source is distinct from wanted.source limit 1;
    if known.feed_id is null then
        return null;
    elsif known.source is distinct from wanted.source then
        raise exception 'the feed % belongs to another table of that name, which is gone or was renamed', known.name
            using errcode = 'duplicate_object',
                  hint = format('select changefeed.drop_feed(%s) removes it with its history; then watch again.', known.feed_id);
    end if;
    other := case
        when known.key_numbers <> wanted.key_numbers then 'key'
        when known.partition_key_numbers <> wanted.partition_key_numbers then 'partition_key'
        when known.image_mode <> wanted.image_mode then 'image'
        when known.image_numbers is distinct from wanted.image_numbers then 'image_columns'
        when known.doorbell <> wanted.doorbell then 'doorbell'
        when known.always <> wanted.always then 'always' end;
    if other is not null then
        raise exception '%: % is watched with another one', other, known.name
            using errcode = 'duplicate_object', hint = 'Call changefeed.unwatch first; this ends the old feed''s history.';
    end if;
    return known.feed_id;
end;
$$;

create function changefeed.unwatch(source regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    feed integer := (select feed_id from changefeed.feeds f where f.source = unwatch.source);
begin
    if feed is null then
        raise exception 'source: % is not watched', source
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists what is.';
    end if;
    perform changefeed.drop_feed(feed);
end;
$$;
comment on function changefeed.unwatch(regclass) is 'Ends the feed of a table: its triggers, its log and its history.';
insert into changefeed.migrations (set, version, name, checksum) values ('log', 5, 'watch', '82147a5651d2e3aaa533b64fe55e41b5cb26c9f90dd94570eb97a3b71cd316b0');

-- Physical partitions are split and merged between two batches: a tick of their own ends the parents and starts the
-- children, in one transaction. Who sees that tick sees the new partitions.

create function changefeed.replace_partitions(feed integer, parents text[], bounds smallint[])
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    tick bigint;
begin
    select t.id into tick from changefeed.tick(feed, true) t;
    execute format('update changefeed_log.tick_%s set topology = id where id = $1', feed) using tick;
    update changefeed.partitions p set end_tick = tick where p.feed_id = feed and p.partition_id = any (parents);
    perform pg_notify('changefeed', json_build_object('feed', feed)::text)
    from changefeed.feeds f where f.feed_id = feed and f.doorbell = 'notify';
    return query
        insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick)
        select feed, format('%s-%s@%s', b.low, b.next - 1, tick), b.low, b.next - 1, tick
        from (select u.low, lead(u.low) over (order by u.low) as next from unnest(bounds) u (low)) b
        where b.next is not null
        returning *;
end;
$$;

-- Takes the lock of the feed's ticks, so that nobody else changes its partitions until the transaction ends.
create function changefeed.lock_feed(name text) returns integer
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
    perform pg_advisory_xact_lock(1667655785, feed);
    return feed;
end;
$$;

create function changefeed.active_partition(feed integer, partition_id text) returns changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_one changefeed.partitions;
begin
    select p.* into found_one from changefeed.partitions p
        where p.feed_id = feed and p.partition_id = active_partition.partition_id;
    if found_one is null then
        raise exception 'there is no partition %', quote_nullable(partition_id)
            using errcode = 'undefined_object', hint = '`changefeed partitions list` names them.';
    elsif found_one.end_tick is not null then
        raise exception 'the partition % is retired', quote_literal(partition_id)
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'It was split or merged before: `changefeed partitions list` names its children.';
    end if;
    return found_one;
end;
$$;

create function changefeed.split_partition(feed text, partition_id text, first_bucket integer default null)
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    feed_id integer := changefeed.lock_feed(feed);
    parent  changefeed.partitions := changefeed.active_partition(feed_id, partition_id);
    middle  integer := coalesce(first_bucket, (parent.low + parent.high + 1) / 2);
begin
    if parent.low = parent.high then
        raise exception 'the partition % has one bucket only', quote_literal(partition_id)
            using errcode = 'invalid_parameter_value', hint = 'A bucket cannot be split: choose another partition.';
    elsif middle <= parent.low or middle > parent.high then
        raise exception 'first_bucket is %, outside of the partition %', middle, quote_literal(partition_id)
            using errcode = 'invalid_parameter_value',
                  hint = format('It is the first bucket of the upper part: choose %s to %s.', parent.low + 1, parent.high);
    end if;
    return query select * from changefeed.replace_partitions(
        feed_id, array [partition_id], array [parent.low, middle, parent.high + 1]::smallint[]);
end;
$$;
comment on function changefeed.split_partition(text, text, integer) is
    'Retires a physical partition and starts two in its place, the upper one from first_bucket on (default: the middle). '
    'Needs a transaction of its own. Answers the new ones.';

create function changefeed.merge_partitions(feed text, first_id text, second_id text)
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    feed_id integer := changefeed.lock_feed(feed);
    one     changefeed.partitions := changefeed.active_partition(feed_id, first_id);
    two     changefeed.partitions := changefeed.active_partition(feed_id, second_id);
begin
    if one.high + 1 <> two.low and two.high + 1 <> one.low then
        raise exception 'the partitions % and % are not neighbours', quote_literal(first_id), quote_literal(second_id)
            using errcode = 'invalid_parameter_value',
                  hint = 'Merge two partitions where one begins with the bucket after the other''s last.';
    end if;
    return query select * from changefeed.replace_partitions(
        feed_id, array [first_id, second_id],
        array [least(one.low, two.low), greatest(one.high, two.high) + 1]::smallint[]);
end;
$$;
comment on function changefeed.merge_partitions(text, text, text) is
    'Retires two neighbouring physical partitions and starts one in their place. Needs a transaction of its own.';
insert into changefeed.migrations (set, version, name, checksum) values ('log', 7, 'partitions', '2904d6972194e5a4c7a4e35f4a7bc94bea1a7491722c0dcda846e1ec118999b3');

-- Retention: what the gateway and `changefeed retention` need to know before they make days ahead and drop old ones.
-- They issue the DDL themselves: DETACH ... CONCURRENTLY runs in no function and no transaction.

create table changefeed.retention_runs (
    feed_id integer primary key references changefeed.feeds on delete cascade,
    ran_at  timestamptz not null,
    steps   integer not null,
    problem text
);
comment on table changefeed.retention_runs is 'The last retention run of each feed; problem is null when all was done.';

create function changefeed.set_retention(feed text, retention interval) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform changefeed.refuse_retention(retention);
    update changefeed.feeds f set retention = set_retention.retention where f.name = feed;
    if not found then
        raise exception 'there is no feed %', quote_literal(feed)
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists them.';
    end if;
end;
$$;
comment on function changefeed.set_retention(text, interval) is
    'How long the history of a feed is kept, 1 to 366 days. A shorter one lets the next retention run drop more.';

-- Who a session is, never what it runs.
create function changefeed.session(pid integer) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'pid ' || session.pid || coalesce(' ' || quote_literal(nullif(a.application_name, '')), '')
        || coalesce(', transaction since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI OF'), '')
    from (select) one left join pg_stat_activity a on a.pid = session.pid
$$;

create function changefeed.lock_holders(relation regclass) returns table (who text, since timestamptz, mode text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select distinct coalesce(
            'prepared transaction ' || quote_literal(p.gid) || ' of ' || to_char(p.prepared, 'YYYY-MM-DD HH24:MI OF'),
            changefeed.session(l.pid)),
        coalesce(p.prepared, a.xact_start), l.mode
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_locks t on l.pid is null and t.virtualtransaction = l.virtualtransaction
        and t.locktype = 'transactionid' and t.mode = 'ExclusiveLock'
    left join pg_prepared_xacts p on p.transaction = t.transactionid
    where l.locktype = 'relation' and l.relation = lock_holders.relation and l.granted
        and l.database = (select oid from pg_database where datname = current_database())
        and l.pid is distinct from pg_backend_pid()
$$;
comment on function changefeed.lock_holders(regclass) is
    'Open and prepared transactions that hold a lock on a table, by the mode of the lock. since is null where it is hidden '
    'from the caller, who needs pg_read_all_stats to see it.';

-- Who has inserted into a table and has not ended: the lock stays until then, prepared or not.
create function changefeed.writers(relation regclass) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(h.who order by h.who), '{}')
    from changefeed.lock_holders(relation) h where h.mode = 'RowExclusiveLock'
$$;

-- The partitions of a feed's log and ticks, and tables that were or should be some.
create function changefeed.days(feed integer)
returns table (
    part         text,
    name         text,
    state        text,
    starts       timestamptz,
    ends         timestamptz,
    bytes        bigint,
    empty        boolean,
    newest       timestamptz,
    first_tick   bigint,
    last_tick    bigint,
    next_tick_at timestamptz,
    writers      text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
declare
    day record;
begin
    for day in
        select p.part, c.oid, c.relname::text as name, coalesce(i.inhdetachpending, false) as pending,
               i.inhrelid is not null as attached, pg_get_expr(c.relpartbound, c.oid) as bound
        from (values ('tick'), ('log')) p (part)
        join pg_class c on c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and starts_with(c.relname, format('%s_%s_', p.part, feed))
        left join pg_inherits i on i.inhrelid = c.oid
        order by p.part desc, c.relname
    loop
        part := day.part;
        name := day.name;
        state := case when day.pending then 'leaving' when day.attached then 'attached' else 'detached' end;
        starts := substring(day.bound from 'FROM \(''([^'']+)''\)');
        ends := substring(day.bound from 'TO \(''([^'']+)''\)');
        begin
            -- Before the rows: who commits in between is found by one of the two.
            writers := changefeed.writers(day.oid);
            bytes := pg_total_relation_size(day.oid);
            execute format('select not exists (select from changefeed_log.%I)', day.name) into empty;
            newest := null;
            first_tick := null;
            last_tick := null;
            next_tick_at := null;
            if not empty and ends is null then
                execute format('select max(%I) from changefeed_log.%I',
                               case part when 'tick' then 'at' else 'changed_at' end, day.name) into newest;
            end if;
            if not empty and part = 'tick' then
                execute format('select min(id), max(id) from changefeed_log.%I', day.name) into first_tick, last_tick;
                -- One that claims a time to come was made by a clock that was wrong.
                execute format('select at from changefeed_log.tick_%s where id > $1 and at <= clock_timestamp() '
                               'order by id limit 1', feed) into next_tick_at using last_tick;
            end if;
        exception when undefined_table then
            continue;  -- A run at the same time has dropped it.
        end;
        return next;
    end loop;
end;
$$;
comment on function changefeed.days(integer) is
    'Every partition of a feed''s log and ticks, attached, leaving (its detach is not finished) or detached. Null as a '
    'bound: none. next_tick_at: time of the tick after its last one. writers: open transactions that wrote to it.';

-- By the index on (xid, seq): a day that nobody needs would be read whole otherwise.
create function changefeed.days_needed(feed integer, tick bigint) returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    day    text;
    seen   pg_snapshot;
    needed boolean;
begin
    execute format('select snapshot from changefeed_log.tick_%s where id = $1', feed) into seen using tick;
    for day in
        select c.relname from pg_class c
        where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and starts_with(c.relname, format('log_%s_', feed))
    loop
        begin
            execute format('select exists (select from changefeed_log.%1$I where xid >= pg_snapshot_xmax($1)) '
                           'or exists (select from pg_snapshot_xip($1) x join changefeed_log.%1$I l on l.xid = x)', day)
                into needed using seen;
        exception when undefined_table then
            continue;  -- As above.
        end;
        if needed is not false then
            return next day;
        end if;
    end loop;
end;
$$;
comment on function changefeed.days_needed(integer, bigint) is
    'The days of a log that hold a change which a tick does not see: one that is read from there on.';
insert into changefeed.migrations (set, version, name, checksum) values ('log', 8, 'retention', '9932206f9a41499db7cc54b31cf6fac08c07f16d8ad9a43f08eea55b9714cd2e');

-- A log means something only in the cluster, database and table that it was written in: its transaction ids and
-- snapshots are theirs. Restored from a dump, or copied to another database, its feed begins anew.

create function changefeed.home(feed integer) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s/%s/%s', c.system_identifier, d.oid, to_regclass('changefeed_log.log_' || feed)::oid)
    from pg_control_system() c, pg_database d where d.datname = current_database()
$$;
comment on function changefeed.home(integer) is 'Cluster, database and table of a feed''s log as they are now.';

-- What lies beyond the newest tick may have been written since: it becomes the first batch, as of one transaction. With
-- the log to ourselves all of it is visible, and each row's changes keep the order of their numbers.
create function changefeed.begin_epoch(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    perform pg_advisory_xact_lock(1667655785, feed);
    execute format('lock table changefeed_log.log_%s in access exclusive mode', feed);
    execute format('create temp table changefeed_unread as select * from changefeed_log.log_%1$s '
                   'where seq > (select coalesce(max(last_seq), 0) from changefeed_log.tick_%1$s)', feed);
    update pg_temp.changefeed_unread set xid = pg_current_xact_id();
    execute format('truncate changefeed_log.log_%1$s, changefeed_log.tick_%1$s', feed);
    execute format('insert into changefeed_log.log_%s select * from pg_temp.changefeed_unread', feed);
    drop table pg_temp.changefeed_unread;
    perform changefeed.make_first_tick(feed);
    delete from changefeed.partitions p where p.feed_id = feed and p.end_tick is not null;
    update changefeed.partitions p set start_tick = 1 where p.feed_id = feed;
    update changefeed.feeds f set home = changefeed.home(feed), incarnation = gen_random_uuid() where f.feed_id = feed;
end;
$$;
comment on function changefeed.begin_epoch(integer) is
    'Begins the history of a feed anew, without a loss of what no tick has bounded yet: all earlier tokens are refused. By '
    'itself after a restore; by hand on a physical clone whose readers shall not be mistaken for the original''s.';

-- Runs as its owner: whoever may make a tick may find out that the log has moved, and nobody can do more with it.
create function changefeed.adopt_log(feed integer) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform pg_advisory_xact_lock(1667655785, feed);
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.begin_epoch(feed);
    return true;
end;
$$;
comment on function changefeed.adopt_log(integer) is
    'Begins a feed anew if its log was restored from a dump or its database copied; answers whether it did.';
insert into changefeed.migrations (set, version, name, checksum) values ('log', 9, 'epoch', '66aa33ba8a654ede575391cdab0b6aac5c7a6342bbc421faf704f71638feb73e');

-- Three roles of the cluster, none of which can log in: the operator grants them to those who do. Another database of
-- the cluster may have made them before, or be making them now.

do $do$
declare
    role text;
begin
    foreach role in array array ['changefeed_owner', 'changefeed_operator', 'changefeed_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    -- A policy on a watched table must not hide rows from its capture. A right that is missing on a watched table would
    -- stop its feed: capture runs in the application's writes, as this role, also after the table has moved to another
    -- schema. Who may not give them goes on without: watch grants what it needs on its table.
    begin
        if not (select rolbypassrls from pg_roles where rolname = 'changefeed_owner') then
            alter role changefeed_owner bypassrls;
        end if;
    exception when insufficient_privilege then
        null;
    end;
    begin
        if not pg_has_role('changefeed_owner', 'pg_read_all_data', 'member') then
            grant pg_read_all_data to changefeed_owner;
        end if;
    exception when insufficient_privilege then
        null;
    end;
    -- What makes the objects must be able to give them away. Who made the role may administer it, and from 16 on do no
    -- more with it than give it, also to itself.
    if not pg_has_role(current_user, 'changefeed_owner', 'usage') then
        execute format('grant changefeed_owner to %I', current_user);
    end if;
    -- Only the owner of a log can detach its days, and DETACH ... CONCURRENTLY runs in no function.
    if not pg_has_role('changefeed_operator', 'changefeed_owner', 'member') then
        grant changefeed_owner to changefeed_operator;
    end if;
exception when insufficient_privilege then
    raise exception 'the roles of the change feeds cannot be made: %', sqlerrm
        using errcode = 'insufficient_privilege',
              hint = format('Migrate as a superuser, or have one create the roles changefeed_owner, changefeed_operator and '
                            'changefeed_reader, and: grant changefeed_owner to changefeed_operator, %I.', current_user);
end;
$do$;

-- For what a later migration makes too: it ends with a call.
create function changefeed.hand_over() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    item record;
begin
    for item in
        select s.nspname from pg_namespace s where s.nspname in ('changefeed', 'changefeed_log')
    loop
        execute format('alter schema %I owner to changefeed_owner', item.nspname);
    end loop;
    for item in
        select c.oid::regclass as name, c.relkind from pg_class c
        where c.relnamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace) and c.relkind in ('r', 'p', 'S')
            and c.relowner <> 'changefeed_owner'::regrole
            and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S')
    loop
        execute format('alter %s %s owner to changefeed_owner', case item.relkind when 'S' then 'sequence' else 'table' end,
                       item.name);
    end loop;
    for item in
        select p.oid::regprocedure as name, p.prosecdef, p.proowner <> 'changefeed_owner'::regrole as moves from pg_proc p
        where p.pronamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace)
    loop
        if item.moves then
            execute format('alter routine %s owner to changefeed_owner', item.name);
        end if;
        if item.prosecdef then
            execute format('revoke execute on routine %s from public', item.name);
        end if;
    end loop;
    grant select on all tables in schema changefeed, changefeed_log to changefeed_reader;
    grant select on all sequences in schema changefeed_log to changefeed_reader;
end;
$$;
comment on function changefeed.hand_over() is
    'Gives everything in the two schemas to changefeed_owner, keeps the public from what runs as its owner, and lets '
    'changefeed_reader read. Again without harm.';

select changefeed.hand_over();

grant usage on schema changefeed, changefeed_log to changefeed_reader;
-- Whoever opens a feed finds out first that it was restored.
grant execute on function changefeed.adopt_log(integer) to changefeed_reader;
-- What create_feed, create_capture_function and retention make later, as this role.
alter default privileges for role changefeed_owner in schema changefeed_log grant select on tables to changefeed_reader;
alter default privileges for role changefeed_owner in schema changefeed_log grant select on sequences to changefeed_reader;
-- Who could name a capture function in a trigger of a table of his own could write into the log.
alter default privileges for role changefeed_owner revoke execute on functions from public;
insert into changefeed.migrations (set, version, name, checksum) values ('log', 10, 'roles', 'a4c58660f142c09497d5ad23fbb9e85adc491605e06dd4eb9b64dac2b25d5a02');

-- Drift: what becomes of a feed when its table is altered. Capture follows, or it stops and says so in the log itself,
-- where every reader comes by. It never fails a write of the application.

-- Types whose texts of one value are the same: a key that changes between them stays the same key.
create function changefeed.text_form(type oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select case
            when type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) then 'integer'
            when type in ('text'::regtype, 'varchar'::regtype) then 'text'
            else format_type(type, null)
        end
    );
end;
$$;

create function changefeed.text_forms(source oid, numbers smallint[]) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(changefeed.text_form(a.atttypid) order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum
$$;

-- What stands in the way of capture, in the table itself.
create function changefeed.table_problem(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c pg_class;
    k record;
begin
    if f.source is null then
        return null;
    end if;
    select * into c from pg_class where oid = f.source;
    if c.oid is null then
        return 'the table was dropped';
    elsif c.relpersistence <> 'p' then
        return 'the table became unlogged: a crash empties it without a change';
    elsif f.capture = 'statement' and c.relispartition then
        return format('the table became a partition of %s', pg_partition_root(f.source));
    elsif c.relkind = 'r' and not c.relispartition and (exists (select from pg_inherits where inhrelid = f.source)
            or c.relhassubclass and exists (select from pg_inherits where inhparent = f.source)) then
        return 'the table takes part in inheritance, where no key is unique';
    elsif not has_schema_privilege('changefeed_owner', c.relnamespace, 'usage')
            or not has_table_privilege('changefeed_owner', c.oid, 'select') then
        return 'capture may not read the table';
    elsif f.source_oid <> f.source and changefeed.column_names(f.source, f.key_numbers || f.partition_key_numbers || f.image_numbers)
            is distinct from f.key_columns || f.partition_key_columns || f.image_columns then
        return 'the table was restored, and its columns are numbered anew';
    end if;
    for k in
        select u.name, u.form, a.attnum, a.attnotnull, a.atttypid
        from unnest(f.key_columns || f.partition_key_columns, f.key_numbers || f.partition_key_numbers, f.text_forms)
            u (name, number, form)
        left join lateral (
            select * from pg_attribute p where p.attrelid = f.source and p.attnum = u.number and not p.attisdropped offset 0
        ) a on true
    loop
        if k.attnum is null then
            return format('the column %I of its key was dropped', k.name);
        elsif not k.attnotnull then
            return format('the column %I of its key may be null', k.name);
        elsif changefeed.text_form(k.atttypid) <> k.form then
            return format('the column %I of its key became %s', k.name, format_type(k.atttypid, null));
        end if;
    end loop;
    if changefeed.key_index(f.source, f.key_numbers) is null then
        return format('no unique index is left on its key (%s)', array_to_string(f.key_columns, ', '));
    end if;
    return null;
end;
$$;

-- In PL/pgSQL, which keeps its plans: it is asked of every feed, again and again. The names begin with capture_<id>_,
-- and "`" follows "_". rekey is left out: without it, keys are looked up.
create function changefeed.trigger_problem(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select case
            when t.oid is null then format('the trigger %I is missing', replace(p.proname, 'capture_', 'changefeed_'))
            else format('the trigger %I of %s is disabled', t.tgname, t.tgrelid::regclass)
        end
        from pg_proc p
        left join pg_trigger t on t.tgfoid = p.oid
        where p.pronamespace = 'changefeed_log'::regnamespace and p.proname > format('capture_%s_', f.feed_id)::name
                and p.proname < format('capture_%s`', f.feed_id)::name
            and not (f.source is not null and p.proname = format('capture_%s_rekey', f.feed_id))
            and (t.oid is null or t.tgenabled not in ('A', case when f.always then 'A' else 'O' end))
        order by t.oid nulls first
        limit 1
    );
end;
$$;

create function changefeed.capture_problem(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(changefeed.table_problem(f), changefeed.trigger_problem(f));
end;
$$;
comment on function changefeed.capture_problem(changefeed.feeds) is 'Why changes are not captured; null if they are.';

-- All that the text of a capture function relies on.
create function changefeed.shape(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select md5(concat_ws(' ', c.oid, n.nspname, c.relname, changefeed.table_problem(f), (
            select string_agg(concat_ws(' ', attnum, quote_ident(attname), atttypid, attgenerated), ', ' order by attnum)
            from pg_attribute where attrelid = f.source and attnum > 0 and not attisdropped)))
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = f.source
    );
end;
$$;

-- Functions that name an object read the catalogue as it is; queries, as the transaction's snapshot shows it. SQL that
-- is made from an old one would fail.
create function changefeed.refuse_old_snapshot(f changefeed.feeds) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and not a.attisdropped
            and a.attnum = any (f.key_numbers || f.partition_key_numbers || f.image_numbers)
        where c.oid = f.source and (pg_identify_object('pg_class'::regclass, c.oid, a.attnum)).identity
            is distinct from format('%I.%I.%I', n.nspname, c.relname, a.attname)
    ) then
        raise exception '% was altered after this transaction took its snapshot', f.name
            using errcode = 'serialization_failure', hint = 'Try the transaction again.';
    end if;
end;
$$;

-- Called immutable, so that it is asked once, when a plan is made. PostgreSQL makes the plan anew after any change of the
-- table that the plan names, by the transition table.
create function changefeed.has_drifted(feed integer, shape text) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    f changefeed.feeds;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    perform changefeed.refuse_old_snapshot(f);
    return changefeed.shape(f) is distinct from shape
        or f.capture = 'statement' and not exists (
            select from pg_trigger where tgrelid = f.source and tgname = format('changefeed_%s_rekey', feed)
                and tgenabled in ('O', 'A'));
end;
$$;

-- From here on changes are missing: a mark in the log, in the place of the change, says so.
create function changefeed.stop_sql(feed integer, problem text, rows_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.append_sql(feed, format('select false, ''stopped'', '''', '''', %L::text from (%s limit 1) r',
                                              problem, rows_sql))
$$;

-- What a capture function runs instead of its own SQL when that does not fit the table or the transaction.
create function changefeed.settled_now_sql(feed integer, old_rows text, new_rows text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    f       changefeed.feeds;
    problem text;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    perform changefeed.refuse_old_snapshot(f);
    problem := coalesce(changefeed.capture_problem(f), (
        select 'a policy may hide rows from capture' from pg_class c, pg_roles o
        where c.oid = f.source and c.relrowsecurity and o.rolname = 'changefeed_owner' and not o.rolbypassrls));
    if problem is not null then
        return changefeed.stop_sql(feed, problem,
            concat_ws(' union all ', 'select 1 from ' || old_rows || ' o', 'select 1 from ' || new_rows || ' n'));
    end if;
    return changefeed.append_sql(feed, changefeed.settled_sql(f, old_rows, new_rows));
end;
$$;

create function changefeed.settle_sql(f changefeed.feeds, old_rows text, new_rows text, using_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
        settings_were := changefeed.pin_settings();
        execute changefeed.settled_now_sql(%1$s, %2$L, %3$L)%4$s;
        get diagnostics beat = row_count;
        perform changefeed.restore_settings(settings_were);
        if beat > 0 then%5$s
        end if;
        return null;$sql$, f.feed_id, old_rows, new_rows, using_sql,
        coalesce(nullif(changefeed.doorbell_sql(f.feed_id, f.doorbell, 'select null::text'), ''), ' null;'))
$$;

create function changefeed.if_drifted_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    if changefeed.has_drifted(%1$s, %2$L) or exists (select from %3$s where false) then%4$s
    end if;$sql$, f.feed_id, changefeed.shape(f), coalesce(new_rows, old_rows),
        changefeed.settle_sql(f, old_rows, new_rows, ''))
$$;
comment on function changefeed.if_drifted_sql(changefeed.feeds, text, text) is
    'PL/pgSQL that captures, in place of what follows, where the table is not as it was when the function was made.';

-- A row's plans name no table, so the names are compared at each row. What may be null is seen in the row.
create function changefeed.if_drifted_row_sql(f changefeed.feeds, event text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    if %1$s then%3$s
    end if;
    if %2$s then%3$s
    end if;$sql$,
        string_agg(format('(pg_identify_object(1259, %s, %s)).identity is distinct from %L', f.source::oid, u.number,
                          (pg_identify_object(1259, f.source, u.number)).identity), ' or '),
        string_agg(format('%I.%I is null', case event when 'delete' then 'old' else 'new' end, a.attname), ' or ')
            filter (where u.number = any (f.key_numbers || f.partition_key_numbers)),
        changefeed.settle_sql(f, case when event <> 'insert' then '(select ($1).*)' end,
                              case when event <> 'delete' then '(select ($2).*)' end, ' using old, new'))
    from (select distinct unnest(f.key_numbers || f.partition_key_numbers || f.image_numbers)) u (number)
    left join pg_attribute a on a.attrelid = f.source and a.attnum = u.number and not a.attisdropped
$$;

-- Settings that texts depend on, and row_security: a table hidden by a policy is an error, not one of deleted rows. No
-- SET clause: it would be undone at the end of the call.
create function changefeed.pin_settings() returns text[]
language plpgsql
as $$
declare
    were pg_catalog.text[] := array (select pg_catalog.current_setting(s.name) from pg_catalog.unnest(array [
        'timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits', 'lc_monetary', 'row_security']) s (name));
begin
    perform changefeed.restore_settings(array ['UTC', 'ISO', 'postgres', 'hex', '1', 'C', 'off']);
    return were;
end;
$$;

create function changefeed.restore_settings(were text[]) returns void
language plpgsql
as $$
begin
    perform pg_catalog.set_config(s.name, s.value, true)
        from rows from (
            pg_catalog.unnest(array ['timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits',
                'lc_monetary', 'row_security']),
            pg_catalog.unnest(were)) s (name, value);
end;
$$;

-- The lock keeps the table as it is until the functions are written. Where it is not to be had at once, next time.
create function changefeed.fit_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('lock table %s in access share mode nowait', f.source::regclass);
    if changefeed.table_problem(f) is null then
        perform changefeed.create_capture(f.feed_id);
    end if;
exception when lock_not_available or undefined_table then
    return;
end;
$$;

-- What no trigger can notice is noticed from outside: a dropped table, a disabled trigger. Capture that has drifted is
-- written anew for the table as it is.
create function changefeed.check_feeds() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    f       changefeed.feeds;
    problem text;
begin
    if pg_is_in_recovery() or not pg_try_advisory_xact_lock(1667655788, 0) then
        return;
    end if;
    for f in select * from changefeed.feeds loop
        problem := changefeed.capture_problem(f);
        if problem is distinct from f.stopped then
            update changefeed.feeds set stopped = problem
                where feed_id = f.feed_id and stopped is not distinct from f.stopped;
            if found and problem is not null then
                execute changefeed.stop_sql(f.feed_id, problem, 'select 1');
            end if;
        elsif problem is null and changefeed.shape(f) <> f.shape then
            perform changefeed.fit_capture(f);
        end if;
    end loop;
end;
$$;
comment on function changefeed.check_feeds() is
    'Marks the logs of feeds whose capture has stopped, and writes capture anew where its table has changed. Without harm.';

create function changefeed.feed_states()
returns table (
    feed_id integer, name text, source text, key text[], partition_key text[], image text, image_columns text[],
    doorbell text, capture text, always boolean, retention interval, state text, problem text, remedy text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select f.feed_id, f.name, c.oid::regclass::text, f.key_columns, f.partition_key_columns, f.image_mode,
        array_remove(changefeed.column_names(f.source, f.image_numbers), null), f.doorbell, f.capture, f.always, f.retention,
        case when p.problem is not null then 'stopped' when d.drifted or v.name is not null then 'drifted'
            else 'capturing' end,
        case when p.problem is not null then p.problem
            when d.drifted then 'the table was altered: capture follows more slowly'
            when v.name is not null then format('the images leave out the column %I, which is generated when it is read', v.name)
        end,
        case
            when p.problem is null and d.drifted then 
                'a gateway writes capture anew within 10 s; without one, call changefeed.watch again with the same options'
            when p.problem is null and v.name is not null then
                'make the column stored, or unwatch the table and name the others as image_columns'
            when p.problem = 'capture may not read the table' then
                format('grant select on table %s to changefeed_owner, and usage on its schema; then read the source again and '
                       'start from now: changes are missing', c.oid::regclass)
            when p.problem like '% is disabled' then
                'alter table ... enable ' || case when f.always then 'always ' else '' end || 'trigger, then read the source again and start from now: changes are missing'
            when p.problem is not null then format('changefeed unwatch %s ends the feed with its history; watch the table again, '
                'and read it once', f.name)
        end
    from changefeed.feeds f
    left join pg_class c on c.oid = f.source
    cross join lateral (select changefeed.capture_problem(f)) p (problem)
    cross join lateral (select f.source is not null and changefeed.has_drifted(f.feed_id, f.shape)) d (drifted)
    left join lateral (
        select min(a.attname) from pg_attribute a
        where a.attrelid = f.source and a.attgenerated = 'v' and not a.attisdropped and f.image_mode = 'captured'
            and (f.image_numbers is null or a.attnum = any (f.image_numbers))) v (name) on true
    order by f.name
$$;
comment on function changefeed.feed_states() is
    'Every feed, its options, and whether it is capturing, drifted (its table was altered; capture follows) or stopped.';

select changefeed.hand_over();
grant execute on function changefeed.check_feeds() to changefeed_reader;
insert into changefeed.migrations (set, version, name, checksum) values ('log', 11, 'drift', 'a2c71ba7965d4e52fdb22fc685469fa98465b527f8b6f5c405d4c5bca46e8c97');

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
insert into changefeed.migrations (set, version, name, checksum) values ('log', 12, 'locks', '705262a8ec4af43f8a1a9516ec68a6474556ae5e4cefd7de06f7e34f1feaeee1');

-- A feed's tables are its partitions, and those that were or should be some: a detached day is told by its name, and by a
-- mark of the epoch in which it was made. A dump carries detached days too; those of another epoch never come back.

create function changefeed.day_tables(feed integer)
returns table (part text, day oid, name text, state text, bound text, marked boolean)
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
    select p.part, c.oid, c.relname::text,
        case when i.inhdetachpending then 'leaving' when i.inhrelid is not null then 'attached' else 'detached' end,
        pg_get_expr(c.relpartbound, c.oid),
        obj_description(c.oid, 'pg_class') is not distinct from
            (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed)
    from (values ('tick'), ('log')) p (part)
    join pg_class c on c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
    left join pg_inherits i on i.inhrelid = c.oid
    where i.inhparent = to_regclass(format('changefeed_log.%s_%s', p.part, feed))
        or i.inhparent is null and starts_with(c.relname, format('%s_%s_', p.part, feed))
            and substr(c.relname, length(format('%s_%s_', p.part, feed)) + 1)
                ~ '^(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$'
$$;
comment on function changefeed.day_tables(integer) is
    'The partitions of a feed''s log and ticks, attached or leaving (a detach that is not finished), and the detached tables '
    'that are named as such. marked: carries the mark of the feed''s epoch.';

create function changefeed.mark_days(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    day text;
begin
    for day in select d.name from changefeed.day_tables(feed) d where d.state = 'attached' and not d.marked loop
        begin
            execute format('comment on table changefeed_log.%I is %L', day,
                           (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed));
        exception when insufficient_privilege then
            continue;  -- Made by hand and owned by another: once detached, retention leaves it alone.
        end;
    end loop;
end;
$$;
comment on function changefeed.mark_days(integer) is 'Gives the attached days of a feed the mark of its epoch.';

-- A missing day must not fail an application's write, and a DEFAULT partition would forbid DETACH CONCURRENTLY:
-- two ordinary partitions, past and future, hold what no day covers.
create or replace function changefeed.create_days(parent text, first_day date, days integer) returns void
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
    perform changefeed.mark_days(substring(parent from '\d+$')::integer);
end;
$$;

-- What lies beyond the newest tick may have been written since: it becomes the first batch, as of one transaction. With
-- the log to ourselves all of it is visible, and each row's changes keep the order of their numbers. TRUNCATE empties
-- attached days only; nobody attaches or detaches one while both tables are locked.
create or replace function changefeed.begin_epoch(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    perform changefeed.lock_ticks(feed);
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    execute format('create temp table changefeed_unread as select * from changefeed_log.log_%1$s '
                   'where seq > (select coalesce(max(last_seq), 0) from changefeed_log.tick_%1$s)', feed);
    update pg_temp.changefeed_unread set xid = pg_current_xact_id();
    perform changefeed.drop_loose_days(feed);
    execute format('truncate changefeed_log.log_%1$s, changefeed_log.tick_%1$s', feed);
    execute format('insert into changefeed_log.log_%s select * from pg_temp.changefeed_unread', feed);
    drop table pg_temp.changefeed_unread;
    perform changefeed.make_first_tick(feed);
    delete from changefeed.partitions p where p.feed_id = feed and p.end_tick is not null;
    update changefeed.partitions p set start_tick = 1 where p.feed_id = feed;
    update changefeed.feeds f set home = changefeed.home(feed), incarnation = gen_random_uuid() where f.feed_id = feed;
    perform changefeed.mark_days(feed);
end;
$$;

create function changefeed.drop_loose_days(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    day text;
begin
    for day in select d.name from changefeed.day_tables(feed) d where d.state <> 'attached' loop
        begin
            execute format('drop table changefeed_log.%I', day);
        exception when insufficient_privilege then
            continue;  -- As above; without the mark of the epoch it does not come back.
        end;
    end loop;
end;
$$;

-- CASCADE takes the triggers of capture, those of partitions too. All locks first, so that no day is on its way.
create or replace function changefeed.drop_feed(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
set client_min_messages = warning
as $$
declare
    capture regprocedure;
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
    perform changefeed.lock_ticks(feed);
    delete from changefeed.feeds where feed_id = feed;
    for capture in
        select oid from pg_proc where pronamespace = 'changefeed_log'::regnamespace
            and starts_with(proname, format('capture_%s_', feed))
    loop
        execute format('drop function %s cascade', capture);
    end loop;
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    perform changefeed.drop_loose_days(feed);
    execute format('drop table changefeed_log.log_%1$s, changefeed_log.tick_%1$s, changefeed_log.lock_ticks_%1$s, '
                   'changefeed_log.lock_retention_%1$s', feed);
    execute format('drop sequence changefeed_log.seq_%1$s, changefeed_log.bell_%1$s', feed);
    execute format('drop function changefeed_log.make_tick_%s(boolean)', feed);
end;
$$;

-- What retention looks at.
drop function changefeed.days(integer);
create function changefeed.days(feed integer)
returns table (
    part           text,
    name           text,
    state          text,
    marked         boolean,
    starts         timestamptz,
    ends           timestamptz,
    bytes          bigint,
    empty          boolean,
    newest         timestamptz,
    first_tick     bigint,
    last_tick      bigint,
    next_tick_at   timestamptz,
    overlaps_until timestamptz,
    writers        text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    day record;
begin
    for day in select * from changefeed.day_tables(feed) d order by d.part desc, d.name loop
        part := day.part;
        name := day.name;
        state := day.state;
        marked := day.marked;
        starts := substring(day.bound from 'FROM \(''([^'']+)''\)');
        ends := substring(day.bound from 'TO \(''([^'']+)''\)');
        newest := null;
        first_tick := null;
        last_tick := null;
        next_tick_at := null;
        overlaps_until := null;
        begin
            -- Before the rows: who commits in between is found by one of the two.
            writers := changefeed.writers(day.day);
            bytes := pg_total_relation_size(day.day);
            execute format('select not exists (select from changefeed_log.%I)', day.name) into empty;
            if not empty and ends is null and state <> 'detached' then
                execute format('select max(%I) from changefeed_log.%I',
                               case part when 'tick' then 'at' else 'changed_at' end, day.name) into newest;
            end if;
            -- A detached table without the mark may be anybody's, with any columns.
            if not empty and part = 'tick' and (marked or state <> 'detached') then
                execute format('select min(id), max(id) from changefeed_log.%I', day.name) into first_tick, last_tick;
                -- One that claims a time to come was made by a clock that was wrong.
                execute format('select at from changefeed_log.tick_%s where id > $1 and at <= clock_timestamp() '
                               'order by id limit 1', feed) into next_tick_at using last_tick;
                execute format('select max(at) from changefeed_log.tick_%s where id <= $1 and at >= $2 '
                               'and at <= clock_timestamp()', feed) into overlaps_until using last_tick, ends;
            end if;
        exception when undefined_table then
            continue;  -- A run at the same time has dropped it.
        end;
        return next;
    end loop;
end;
$$;
comment on function changefeed.days(integer) is
    'Every table of a feed''s log and ticks, as day_tables has them. Null as a bound: none. next_tick_at: time of the tick '
    'after its last one. overlaps_until: the latest time of a tick up to its last one that lies in a later day, because '
    'the clock stepped; null where none does. writers: open transactions that wrote to it.';

-- By the index on (xid, seq): a day that nobody needs would be read whole otherwise.
create or replace function changefeed.days_needed(feed integer, tick bigint) returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    day    text;
    seen   pg_snapshot;
    needed boolean;
begin
    execute format('select snapshot from changefeed_log.tick_%s where id = $1', feed) into seen using tick;
    for day in
        select d.name from changefeed.day_tables(feed) d where d.part = 'log' and (d.marked or d.state <> 'detached')
    loop
        begin
            execute format('select exists (select from changefeed_log.%1$I where xid >= pg_snapshot_xmax($1)) '
                           'or exists (select from pg_snapshot_xip($1) x join changefeed_log.%1$I l on l.xid = x)', day)
                into needed using seen;
        exception when undefined_table then
            continue;  -- As above.
        end;
        if needed is not false then
            return next day;
        end if;
    end loop;
end;
$$;

do $do$
declare
    feed integer;
begin
    for feed in select feed_id from changefeed.feeds loop
        perform changefeed.mark_days(feed);
    end loop;
end;
$do$;

select changefeed.hand_over();
insert into changefeed.migrations (set, version, name, checksum) values ('log', 13, 'days', '5d5ee93b421aefcb3e8367a12fc71d32f86a9e61c2ae80b08d6928cc4317ff83');

-- Documents of workspaces: files, their versions and tags, and the runs that read them.

create schema documents;

create table documents.workspaces (
    id         uuid primary key default gen_random_uuid(),
    name       text not null,
    created_at timestamptz not null default now()
);

create table documents.files (
    id           uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references documents.workspaces (id) on delete cascade,
    kind         text not null default 'document',
    title        text not null,
    metadata     jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    deleted_at   timestamptz
);
comment on column documents.files.kind is 'Documents are of kind "document"; other kinds are not part of the feed.';
comment on column documents.files.deleted_at is 'Set: deleted, may come back. Null: alive.';
create index on documents.files (workspace_id);

create table documents.file_versions (
    id           uuid primary key default gen_random_uuid(),
    file_id      uuid not null references documents.files (id) on delete cascade,
    version      integer not null check (version > 0),
    byte_size    bigint not null check (byte_size >= 0),
    content_type text not null,
    created_at   timestamptz not null default now(),
    unique (file_id, version)
);

create table documents.file_tags (
    file_id    uuid not null references documents.files (id) on delete cascade,
    tag        text not null,
    created_at timestamptz not null default now(),
    primary key (file_id, tag)
);

create table documents.runs (
    id                    uuid primary key default gen_random_uuid(),
    input_file_version_id uuid not null references documents.file_versions (id) on delete cascade,
    status                text not null default 'queued',
    started_at            timestamptz,
    completed_at          timestamptz,
    output                jsonb,
    error                 text,
    progress              real not null default 0,
    created_at            timestamptz not null default now()
);
comment on column documents.runs.progress is 'Changes often and is not part of a document: it makes no change.';
create index on documents.runs (input_file_version_id, created_at);

create table documents.run_fields (
    run_id uuid not null references documents.runs (id) on delete cascade,
    name   text not null,
    value  jsonb,
    primary key (run_id, name)
);

create table documents.run_table_columns (
    run_id      uuid not null references documents.runs (id) on delete cascade,
    table_name  text not null,
    column_name text not null,
    cells       jsonb not null default '[]',
    primary key (run_id, table_name, column_name)
);
comment on table documents.run_fields is 'Wide: written in the transaction that completes the run, and makes no change of its own.';
comment on table documents.run_table_columns is 'Wide, as run_fields.';
insert into changefeed.migrations (set, version, name, checksum) values ('documents', 1, 'documents', '8d01d61f151bcc00ecad496cc0d0d2ff8cf5b6be7d4c1d6b5bd334a33fe084c5');

-- The feed "documents": an upsert or a delete for every change of a file of kind "document", its tags or its runs.
-- The log holds ids; the image is read with the page, so that the last image a consumer sees holds everything committed
-- before it, without a lock among the writers of one document.

create function documents.documents_image(keys text[]) returns table (key text, partition_key text, image text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
    select f.id::text, f.workspace_id::text, row_to_json(d)::text
    from documents.files f
    left join lateral (
        select r.id, r.status, r.started_at, r.completed_at, r.output, r.error
        from documents.file_versions rv join documents.runs r on r.input_file_version_id = rv.id
        where rv.file_id = f.id order by r.created_at desc, r.id desc limit 1
    ) r on true
    cross join lateral (
        select f.id, f.workspace_id, f.title, f.metadata, f.created_at, f.updated_at,
               coalesce((select json_agg(t.tag order by t.tag) from documents.file_tags t where t.file_id = f.id), '[]') as tags,
               case when r.id is not null then row_to_json(r) end as last_run
    ) d
    where f.id = any (keys::uuid[]) and f.kind = 'document' and f.deleted_at is null
$$;
comment on function documents.documents_image(text[]) is
    'The documents of these ids that are alive now, as lists show them: the file, its tags, its last run.';

-- The gateway reads documents by this function only; capture reads the tables.
revoke execute on function documents.documents_image(text[]) from public;
grant execute on function documents.documents_image(text[]) to changefeed_reader;
grant usage on schema documents to changefeed_reader, changefeed_owner;
grant select on all tables in schema documents to changefeed_owner;

do $do$
declare
    feed     integer;
    files_of text;
    version_files text;
begin
    feed := changefeed.create_feed('documents', null, 'current', 'documents.documents_image',
                                   array ['id'], array ['string'], array ['workspace_id'], 'notify');

    perform changefeed.create_capture_function(feed, 'files_insert', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            select n.deleted_at is null, 'upsert', n.workspace_id::text, n.id::text, null::text
            from new_rows n where n.kind = 'document'
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select n.workspace_id::text from new_rows n')));

    perform changefeed.create_capture_function(feed, 'files_delete', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            select false, 'delete', o.workspace_id::text, o.id::text, null::text from old_rows o where o.kind = 'document'
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select o.workspace_id::text from old_rows o')));

    -- Leaving (another workspace, kind or id) is a delete there and comes before what arrives here. What arrives or is
    -- undeleted counts as created; deleted_at going from null is a delete, and anything else an update.
    perform changefeed.create_capture_function(feed, 'files_update', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            with pair as (
                select o.id as left_id, o.workspace_id as left_workspace, n.id, n.workspace_id,
                       o.deleted_at is not null as was_deleted, n.deleted_at is not null as is_deleted,
                       o.id is not distinct from n.id and o.workspace_id = n.workspace_id as stays
                from (select * from old_rows where kind = 'document') o
                full join (select * from new_rows where kind = 'document') n on n.id = o.id
            )
            select false, 'delete', p.left_workspace::text, p.left_id::text, null::text
            from pair p where p.left_id is not null and p.stays is not true
            union all
            select not p.is_deleted and (p.stays is not true or p.was_deleted),
                   case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                   p.workspace_id::text, p.id::text, null::text
            from pair p where p.id is not null
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select n.workspace_id::text from new_rows n')));

    perform changefeed.create_capture_function(feed, 'files_truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, 'notify', 'select null::text'));

    -- A file that is gone by now (a cascade) has made its own delete. Joins are LATERAL with OFFSET 0, and old is compared
    -- with new by grouping: a kept plan must fit the statement of one row and that of a million alike.
    files_of := $sql$
        select false, 'upsert', f.workspace_id::text, f.id::text, null::text
        from (select distinct u.file_id from (%s) u) s
        cross join lateral (select * from documents.files f where f.id = s.file_id offset 0) f where f.kind = 'document'
    $sql$;
    version_files := $sql$
        select v.file_id from (%s) r
        cross join lateral (select v.file_id from documents.file_versions v where v.id = r.version_id offset 0) v
    $sql$;
    perform changefeed.create_capture_function(feed, e.event, 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, format(files_of, e.file_ids))
        || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', format(
            'select c.partition_key from (%s) c (created, op, partition_key, key, image)', format(files_of, e.file_ids)))))
    from (values
        ('file_tags_insert', 'select n.file_id from new_rows n'),
        ('file_tags_delete', 'select o.file_id from old_rows o'),
        ('file_tags_update', 'select t.file_id from (select o.file_id, o.tag from old_rows o union all '
                             'select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag having count(*) = 1'),
        ('file_tags_truncate', 'select t.file_id from documents.file_tags t'),
        ('runs_insert', format(version_files, 'select n.input_file_version_id as version_id from new_rows n')),
        ('runs_delete', format(version_files, 'select o.input_file_version_id as version_id from old_rows o')),
        ('runs_truncate', format(version_files, 'select t.input_file_version_id as version_id from documents.runs t')),
        ('runs_update', format(version_files, $sql$
            select unnest(array_agg(distinct t.input_file_version_id)) as version_id
            from (select o.* from old_rows o union all select n.* from new_rows n) t
            group by t.id
            having count(distinct (t.input_file_version_id, t.status, t.started_at, t.completed_at, t.output, t.error)) > 1
        $sql$))
    ) e (event, file_ids);

    execute format($sql$
        create trigger changefeed_insert after insert on documents.files referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_insert();
        create trigger changefeed_update after update on documents.files
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_update();
        create trigger changefeed_delete after delete on documents.files referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_files_delete();
        create trigger changefeed_truncate after truncate on documents.files
            for each statement execute function changefeed_log.capture_%1$s_files_truncate();
        create trigger changefeed_insert after insert on documents.file_tags referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_insert();
        create trigger changefeed_delete after delete on documents.file_tags referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_delete();
        create trigger changefeed_update after update on documents.file_tags
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_update();
        create trigger changefeed_truncate before truncate on documents.file_tags
            for each statement execute function changefeed_log.capture_%1$s_file_tags_truncate();
        create trigger changefeed_truncate before truncate on documents.runs
            for each statement execute function changefeed_log.capture_%1$s_runs_truncate();
        create trigger changefeed_insert after insert on documents.runs referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_insert();
        create trigger changefeed_update after update on documents.runs
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_update();
        create trigger changefeed_delete after delete on documents.runs referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_delete();
    $sql$, feed);
end;
$do$;
insert into changefeed.migrations (set, version, name, checksum) values ('documents', 2, 'documents_feed', 'd8db0001d69308bad58fd7a3d1715b7bb05478008bff4421ca29d591c0e74649');

