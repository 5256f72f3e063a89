-- What the migrations make, without the days of the logs. Made by `make schema`; do not edit.


CREATE SCHEMA changefeed;

COMMENT ON SCHEMA changefeed IS 'Change feeds: what an operator calls.';

CREATE SCHEMA changefeed_log;

COMMENT ON SCHEMA changefeed_log IS 'Change feeds: the logs and ticks themselves. Written by capture, read by the gateway.';

CREATE SCHEMA documents;

CREATE TYPE changefeed.problem AS (
	code text,
	detail text
);

CREATE TABLE changefeed.partitions (
    feed_id integer NOT NULL,
    partition_id text NOT NULL,
    low smallint NOT NULL,
    high smallint NOT NULL,
    start_tick bigint NOT NULL,
    end_tick bigint,
    CONSTRAINT partitions_check CHECK (((high >= low) AND (high <= 4095))),
    CONSTRAINT partitions_check1 CHECK ((end_tick > start_tick)),
    CONSTRAINT partitions_low_check CHECK ((low >= 0))
);

COMMENT ON TABLE changefeed.partitions IS 'Physical partitions: the changes of buckets low to high in the batches after start_tick, up to and including end_tick; null while it is active. At each tick the partitions cover every bucket once.';

CREATE FUNCTION changefeed.active_partition(feed integer, partition_id text) RETURNS changefeed.partitions
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.adopt_log(feed integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.lock_day_floor(feed);
    perform changefeed.lock_ticks(feed);
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.begin_epoch(feed);
    return true;
end;
$$;

COMMENT ON FUNCTION changefeed.adopt_log(feed integer) IS 'Begins a feed anew if its log was restored from a dump or its database copied; answers whether it did.';

CREATE FUNCTION changefeed.append_mark_sql(feed integer, changes_sql text, said_sql text DEFAULT 'said'::text, changed_at_sql text DEFAULT 'moment'::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select changefeed.append_sql(feed, changes_sql, said_sql, changed_at_sql, '-1') $$;

CREATE FUNCTION changefeed.append_sql(feed integer, changes_sql text, said_sql text DEFAULT 'said'::text, changed_at_sql text DEFAULT 'moment'::text, bucket_sql text DEFAULT 'changefeed.bucket(c.partition_key)'::text, margin text DEFAULT '    '::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$
%6$sinsert into changefeed_log.log_%1$s (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
%6$sselect pg_catalog.pg_current_xact_id(), %4$s,
%6$s    %5$s, c.created, c.op, c.partition_key, c.key, c.image, %3$s
%6$sfrom (%2$s) c (created, op, partition_key, key, image)$sql$,
        feed, changes_sql, said_sql, changed_at_sql, bucket_sql, margin)
$_$;

COMMENT ON FUNCTION changefeed.append_sql(feed integer, changes_sql text, said_sql text, changed_at_sql text, bucket_sql text, margin text) IS 'SQL that appends changes to a log. changes_sql: a query of created, op, partition_key, key, image. said_sql, changed_at_sql, bucket_sql: expressions of the annotations, of the time and of the bucket. margin: before each line.';

CREATE FUNCTION changefeed.as_under_way(seen pg_snapshot, xid xid8) RETURNS pg_snapshot
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case when xid >= pg_snapshot_xmax(seen) then seen else format('%s:%s:%s',
        least(pg_snapshot_xmin(seen), xid), pg_snapshot_xmax(seen),
        (select string_agg(u.x::text, ',' order by u.x) from (select pg_snapshot_xip(seen) union select xid) u (x))
    )::pg_snapshot end
$$;

CREATE FUNCTION changefeed.base_type(type oid) RETURNS oid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    found pg_type;
begin
    loop
        select * into strict found from pg_type t where t.oid = type;
        exit when found.typtype <> 'd';
        type := found.typbasetype;
    end loop;
    return type;
end;
$$;

CREATE FUNCTION changefeed.begin_epoch(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $_$
begin
    perform changefeed.refuse_kept_snapshot();
    perform changefeed.lock_day_floor(feed);
    perform changefeed.lock_ticks(feed);
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    execute format('create unlogged table changefeed_log.unread_%1$s as select * from changefeed_log.log_%1$s '
                   'where seq > (select coalesce(max(last_seq), 0) from changefeed_log.tick_%1$s)', feed);
    perform changefeed.drop_loose_days(feed);
    execute format('truncate changefeed_log.log_%1$s, changefeed_log.tick_%1$s', feed);
    -- Not setval, which would count also if all this came to nothing. A clock that was ahead is forgotten.
    execute format('alter sequence changefeed_log.day_%s restart', feed);
    perform changefeed.make_first_tick(feed);
    -- P1: the first tick's own word for what it does not see; a snapshot taken now may say otherwise. The bucket, because in a
    -- database of another encoding it is another one.
    execute format($sql$
        insert into changefeed_log.log_%1$s
            (xid, seq, changed_at, bucket, created, op, partition_key, key, image, annotations)
        select pg_snapshot_xmax(t.snapshot), u.seq, least(u.changed_at, clock_timestamp()),
            case when u.bucket < 0 then u.bucket else changefeed.bucket(u.partition_key) end,
            u.created, u.op, u.partition_key, u.key, u.image, u.annotations
        from changefeed_log.unread_%1$s u, changefeed_log.tick_%1$s t;
        drop table changefeed_log.unread_%1$s
    $sql$, feed);
    delete from changefeed.partitions p where p.feed_id = feed and p.end_tick is not null;
    update changefeed.partitions p set start_tick = 1 where p.feed_id = feed;
    update changefeed.feeds f set home = changefeed.home(feed), incarnation = gen_random_uuid() where f.feed_id = feed;
    perform changefeed.mark_days(feed);
end;
$_$;

COMMENT ON FUNCTION changefeed.begin_epoch(feed integer) IS 'Begins the history of a feed anew, without a loss of what no tick has bounded yet: all earlier tokens are refused. By itself after a restore; by hand on a physical clone whose readers shall not be mistaken for the original''s.';

CREATE FUNCTION changefeed.bell_is_armed_sql(feed integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$pg_catalog.pg_sequence_last_value('changefeed_log.bell_%1$s'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_%1$s'::pg_catalog.regclass), 0)$sql$, feed)
$_$;

COMMENT ON FUNCTION changefeed.bell_is_armed_sql(feed integer) IS 'SQL that tells whether somebody sleeps; null where nobody ever did.';

CREATE FUNCTION changefeed.beyond_day(feed integer, at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    floor constant regclass := format('changefeed_log.day_%s', feed)::regclass;
begin
    if pg_sequence_last_value(floor) is null then
        return at;
    end if;
    return greatest(at, changefeed.day_start(nextval(floor)));
end;
$$;

CREATE FUNCTION changefeed.bucket(partition_key text) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select (pg_catalog.hashtext(partition_key collate pg_catalog."C") operator(pg_catalog.&) 4095)::pg_catalog.int2
$$;

COMMENT ON FUNCTION changefeed.bucket(partition_key text) IS 'The bucket of a partition key, 0 to 4095: twelve bits of a hash of its bytes. A physical partition is a range of buckets.';

CREATE FUNCTION changefeed.candidate_has_ended(seen pg_snapshot, tick_xid xid8) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    with now as materialized (select pg_current_snapshot() as snapshot)
    select exists (select from pg_snapshot_xip(seen) x where x < tick_xid and pg_visible_in_snapshot(x, now.snapshot))
        or least(tick_xid, pg_snapshot_xmax(now.snapshot))::text::bigint - pg_snapshot_xmax(seen)::text::bigint
            > (select count(*) from pg_snapshot_xip(now.snapshot) x where x >= pg_snapshot_xmax(seen) and x < tick_xid)
    from now
$$;

CREATE FUNCTION changefeed.capture_body(feed integer, rare_test_sql text, rare_sql text, usual_sql text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($body$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if %2$s
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_%1$s'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := %5$s;
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_%1$s', true);%3$s
    end if;%4$s
    return null;
end
$body$, feed, rare_test_sql, rare_sql, usual_sql, changefeed.changed_at_sql(feed))
$_$;

COMMENT ON FUNCTION changefeed.capture_body(feed integer, rare_test_sql text, rare_sql text, usual_sql text) IS 'The body of a capture function. rare_test_sql: an expression; where it is true, rare_sql runs before usual_sql, PL/pgSQL both.';

CREATE TABLE changefeed.feeds (
    feed_id integer NOT NULL,
    name text NOT NULL,
    source regclass,
    source_oid oid,
    image_mode text NOT NULL,
    image_function text,
    key_columns text[] NOT NULL,
    key_types text[] NOT NULL,
    partition_key_columns text[] NOT NULL,
    doorbell text NOT NULL,
    capture text DEFAULT 'statement'::text NOT NULL,
    always boolean DEFAULT false NOT NULL,
    key_numbers smallint[],
    partition_key_numbers smallint[],
    image_numbers smallint[],
    image_columns text[],
    text_forms text[],
    shape text,
    stopped text,
    retention interval DEFAULT '7 days'::interval NOT NULL,
    incarnation uuid DEFAULT gen_random_uuid() NOT NULL,
    home text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    capture_function text,
    generator text,
    renewal_problem text,
    triggers text,
    CONSTRAINT feeds_capture_check CHECK ((capture = ANY (ARRAY['statement'::text, 'row'::text]))),
    CONSTRAINT feeds_check CHECK (((image_mode = 'current'::text) = (image_function IS NOT NULL))),
    CONSTRAINT feeds_check1 CHECK ((cardinality(key_columns) = cardinality(key_types))),
    CONSTRAINT feeds_doorbell_check CHECK ((doorbell = ANY (ARRAY['notify'::text, 'poll'::text]))),
    CONSTRAINT feeds_image_mode_check CHECK ((image_mode = ANY (ARRAY['captured'::text, 'current'::text, 'none'::text]))),
    CONSTRAINT feeds_key_columns_check CHECK ((cardinality(key_columns) > 0)),
    CONSTRAINT feeds_key_types_check CHECK ((key_types <@ ARRAY['string'::text, 'number'::text, 'boolean'::text, 'binary'::text])),
    CONSTRAINT feeds_name_check CHECK ((name <> ''::text)),
    CONSTRAINT feeds_partition_key_columns_check CHECK ((cardinality(partition_key_columns) > 0)),
    CONSTRAINT feeds_retention_check CHECK (((retention >= '1 day'::interval) AND (retention <= '366 days'::interval)))
);

COMMENT ON TABLE changefeed.feeds IS 'One row a feed; its log is changefeed_log.log_<feed_id>.';

COMMENT ON COLUMN changefeed.feeds.source IS 'The watched table, which a dump names; null for a feed made of several.';

COMMENT ON COLUMN changefeed.feeds.source_oid IS 'The table that the numbers of columns are of: a restored one has another.';

COMMENT ON COLUMN changefeed.feeds.image_mode IS 'captured: the trigger stores the row; current: read with the page; none.';

COMMENT ON COLUMN changefeed.feeds.image_function IS 'Takes text[] of keys, returns key, partition_key, image of those that exist now.';

COMMENT ON COLUMN changefeed.feeds.capture IS 'Whether triggers fire once a statement or once a row.';

COMMENT ON COLUMN changefeed.feeds.always IS 'Captured under session_replication_role = replica too.';

COMMENT ON COLUMN changefeed.feeds.key_numbers IS 'attnum of the key columns, which a renamed column keeps; null without a source.';

COMMENT ON COLUMN changefeed.feeds.image_numbers IS 'attnum of the columns of the image; null for all.';

COMMENT ON COLUMN changefeed.feeds.image_columns IS 'The columns of the image when the table was watched; null for all.';

COMMENT ON COLUMN changefeed.feeds.text_forms IS 'How the key columns, then the partition key columns, are written.';

COMMENT ON COLUMN changefeed.feeds.shape IS 'The table that the capture functions were made for.';

COMMENT ON COLUMN changefeed.feeds.stopped IS 'Why changes were not captured when check_feeds last looked; null if they were.';

COMMENT ON COLUMN changefeed.feeds.incarnation IS 'A re-created feed has another one, and refuses the tokens of the first.';

COMMENT ON COLUMN changefeed.feeds.home IS 'Where its log was made; elsewhere it is a copy, whose history begins anew.';

COMMENT ON COLUMN changefeed.feeds.capture_function IS 'Takes a feed id and writes its capture functions; null for a watched table, whose are made from its columns.';

COMMENT ON COLUMN changefeed.feeds.generator IS 'Which text of changefeed.generator made the capture functions.';

COMMENT ON COLUMN changefeed.feeds.renewal_problem IS 'Why check_feeds could not write capture anew.';

COMMENT ON COLUMN changefeed.feeds.triggers IS 'Which text of changefeed.create_triggers made the triggers.';

CREATE FUNCTION changefeed.capture_problem(f changefeed.feeds) RETURNS changefeed.problem
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    problem changefeed.problem := changefeed.table_problem(f);
begin
    return case when problem.code is null then changefeed.trigger_problem(f) else problem end;
end;
$$;

COMMENT ON FUNCTION changefeed.capture_problem(f changefeed.feeds) IS 'Why changes are not captured, as a code, which never changes, and a sentence; null if they are.';

CREATE FUNCTION changefeed.captured_feed(feed integer) RETURNS changefeed.feeds
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f changefeed.feeds;
begin
    select * into f from changefeed.feeds where feed_id = feed;
    if not found then
        raise exception 'the table was watched after this transaction took its snapshot'
            using errcode = 'serialization_failure', hint = 'Try the transaction again.';
    end if;
    perform changefeed.refuse_old_snapshot(f);
    return f;
end;
$$;

CREATE FUNCTION changefeed.changed_at_sql(feed integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$(
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(%1$s, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_%1$s'::pg_catalog.regclass)) as day offset 0) d)$sql$,
        feed)
$_$;

CREATE FUNCTION changefeed.check_feed(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    problem text;
begin
    problem := (changefeed.capture_problem(f)).detail;
    if problem is distinct from f.stopped then
        update changefeed.feeds set stopped = problem
            where feed_id = f.feed_id and stopped is not distinct from f.stopped;
        if found and problem is not null then
            execute changefeed.stop_sql(f.feed_id, problem, 'select 1');
        end if;
    elsif problem is null then
        if (changefeed.shape(f), changefeed.generator()) is distinct from (f.shape, f.generator) then
            perform changefeed.fit_capture(f);
        end if;
    end if;
exception when others then
    -- Whatever it is, it is this feed's, and the others are looked at all the same.
    perform changefeed.note_renewal_problem(f, sqlstate || ' ' || sqlerrm);
end;
$$;

CREATE FUNCTION changefeed.check_feeds() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f changefeed.feeds;
begin
    if pg_is_in_recovery() then
        return;
    end if;
    -- Two who write a function at once would fail.
    lock table changefeed.functions in share update exclusive mode nowait;
    perform changefeed.check_feed(u) from changefeed.feeds u;
    -- Whoever writes to the table waits until this transaction ends: so one a call, as the last thing.
    for f in select * from changefeed.feeds_to_renew() loop
        exit when changefeed.renew_triggers(f);
    end loop;
exception when lock_not_available then
    return;
end;
$$;

COMMENT ON FUNCTION changefeed.check_feeds() IS 'Marks the logs of feeds whose capture has stopped, and writes capture anew where its table or its generator has changed, its triggers too where the owner of the feeds may make them. Without harm.';

CREATE FUNCTION changefeed.checked_annotations(annotations text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    found text;
begin
    if annotations = '' then
        return null;
    end if;
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

CREATE FUNCTION changefeed.chosen_columns(source regclass, argument text, names text[]) RETURNS smallint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.chosen_key(source regclass, key text[]) RETURNS smallint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
        numbers := (select array_agg(n order by place) from unnest(numbers) with ordinality u (n, place));
        if changefeed.key_index(source, numbers) is null then
            raise exception 'key: the primary key of % is checked after its statement (DEFERRABLE), or is not valid: writers of one key do not wait for each other', source
                using errcode = 'feature_not_supported',
                      hint = format('Run alter table %s add unique (%s), which is checked at once, or name other columns as key.', source,
                                    (select string_agg(quote_ident(k), ', ') from unnest(changefeed.column_names(source, numbers)) k));
        end if;
        return numbers;
    end if;
    numbers := changefeed.chosen_columns(source, 'key', key);
    perform changefeed.refuse_unfit_key(source, 'key', numbers);
    if changefeed.key_index(source, numbers) is null then
        raise exception 'key: no unique index of % is on exactly (%) and checked at once', source, array_to_string(key, ', ')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run create unique index on %s (%s), without where, or name other columns.', source,
                                (select string_agg(quote_ident(k), ', ') from unnest(key) k));
    end if;
    return numbers;
end;
$$;

CREATE FUNCTION changefeed.clearing_body(feed integer, doorbell text, rest_sql text DEFAULT ''::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select changefeed.capture_body(feed, 'true', '',
        changefeed.append_mark_sql(feed, 'select false, ''truncate'', '''', '''', null::pg_catalog.text') || ';' || rest_sql
        || changefeed.written_sql(feed, doorbell, 'found', 'null::pg_catalog.text'))
$$;

CREATE FUNCTION changefeed.column_names(source oid, numbers smallint[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select array_agg(a.attname::text order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum and not a.attisdropped
$$;

CREATE FUNCTION changefeed.column_numbers(source oid, names text[]) RETURNS smallint[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select array_agg(a.attnum order by c.place)
    from unnest(names) with ordinality c (name, place)
    left join pg_attribute a on a.attrelid = source and a.attname = c.name and a.attnum > 0 and not a.attisdropped
$$;

CREATE FUNCTION changefeed.column_text(row_name text, column_name text, type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select format(
        case
            when changefeed.key_type(type) = 'binary' then '(pg_catalog.encode(%I.%I, ''base64'') collate pg_catalog."C")'
            when changefeed.is_built_in(type) then '(%I.%I::pg_catalog.text collate pg_catalog."C")'
            else '(pg_catalog.concat(%I.%I) collate pg_catalog."C")'
        end, row_name, column_name)
$$;

CREATE FUNCTION changefeed.create_capture(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    f changefeed.feeds;
begin
    update changefeed.feeds u
        set shape = changefeed.shape(u), source_oid = u.source, generator = changefeed.generator(), renewal_problem = null
        where u.feed_id = feed returning u.* into strict f;
    if f.capture_function is not null then
        execute format('select %s($1)', f.capture_function) using feed;
        return;
    end if;
    perform changefeed.create_snapshot_functions(f);
    perform changefeed.create_capture_function(feed, 'truncate', '', changefeed.table_clearing_body(f));
    if f.capture = 'row' then
        perform changefeed.create_row_capture(f);
    else
        perform changefeed.create_statement_capture(f);
    end if;
end;
$_$;

COMMENT ON FUNCTION changefeed.create_capture(feed integer) IS 'Writes the trigger functions of a feed, anew if they are there.';

CREATE FUNCTION changefeed.create_capture_function(feed integer, event text, settings text, body text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    name text := format('capture_%s_%s', feed, event);
begin
    lock table changefeed.functions in share update exclusive mode;
    execute format('create or replace function changefeed_log.%I() returns trigger language plpgsql security definer %sas %L',
                   name, settings, body);
    if (select proowner from pg_proc where oid = format('changefeed_log.%I()', name)::regprocedure)
        <> 'changefeed_capture'::regrole then
        execute format('revoke execute on function changefeed_log.%I() from public', name);
        grant create on schema changefeed_log to changefeed_capture;
        execute format('alter function changefeed_log.%I() owner to changefeed_capture', name);
        revoke create on schema changefeed_log from changefeed_capture;
    end if;
end;
$$;

COMMENT ON FUNCTION changefeed.create_capture_function(feed integer, event text, settings text, body text) IS 'Makes a trigger function changefeed_log.capture_<feed>_<event>. It runs as changefeed_capture, so that writers of the table need no rights on the log. settings: its SET clauses.';

CREATE FUNCTION changefeed.create_days(parent text, first_day date, days integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
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
$_$;

COMMENT ON FUNCTION changefeed.create_days(parent text, first_day date, days integer) IS 'Gives a new log or tick table its days (UTC) and the two partitions that hold what no day covers.';

CREATE FUNCTION changefeed.create_feed(name text, source regclass, image_mode text, image_function text, key_columns text[], key_types text[], partition_key_columns text[], doorbell text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

COMMENT ON FUNCTION changefeed.create_feed(name text, source regclass, image_mode text, image_function text, key_columns text[], key_types text[], partition_key_columns text[], doorbell text) IS 'Makes a feed with its log and its first tick; capture is up to the caller. Answers the feed id.';

CREATE FUNCTION changefeed.create_items_function(feed integer, settings text, body text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform changefeed.create_snapshot_function(
        format('items_%s', feed),
        'after text, size bigint, max_bytes bigint, max_item_bytes bigint, only_partition_key text, with_bucket boolean',
        format('returns table (key text, partition_key text, bucket smallint, version text, wanted boolean, bytes integer, '
               'image text, problem text) language plpgsql security definer set row_security = off '
               'set max_parallel_workers_per_gather = 0 %sas %L', settings, body));
end;
$$;

CREATE FUNCTION changefeed.create_live_function(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION changefeed.create_locks(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    execute format('create table changefeed_log.lock_ticks_%1$s (); create table changefeed_log.lock_retention_%1$s ()', feed);
    execute format('comment on table changefeed_log.lock_ticks_%s is %L', feed,
                   'Its lock (SHARE UPDATE EXCLUSIVE): one makes a tick at a time.');
    execute format('comment on table changefeed_log.lock_retention_%s is %L', feed,
                   'Its lock (SHARE UPDATE EXCLUSIVE): one changes the days at a time.');
end;
$_$;

CREATE FUNCTION changefeed.create_log(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION changefeed.create_places_function(feed integer, settings text, body text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform changefeed.create_snapshot_function(
        format('places_%s', feed), 'keys text[], low text, high text',
        format('returns smallint[] language plpgsql security definer %sas %L', settings, body));
end;
$$;

CREATE FUNCTION changefeed.create_rekey_function(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    perform changefeed.create_capture_function(feed, 'rekey', '', format($body$
begin
    if coalesce(pg_catalog.current_setting('changefeed.mode_%1$s', true), '') operator(pg_catalog.<>) 'nested' then
        perform pg_catalog.set_config('changefeed.mode_%1$s', 'rekeyed', true);
    end if;
    return null;
end
$body$, feed));
end;
$_$;

CREATE FUNCTION changefeed.create_row_capture(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    settings text := changefeed.pinned_settings(f);
    image    text := changefeed.image_of(f, 'new');
    key_new  text := changefeed.key_of(f, 'new');
    key_old  text := changefeed.key_of(f, 'old');
    pk_new   text := changefeed.partition_key_of(f, 'new');
    pk_old   text := changefeed.partition_key_of(f, 'old');
    moved    text := format('(%s operator(pg_catalog.<>) %s or %s operator(pg_catalog.<>) %s)', pk_old, pk_new, key_old, key_new);
begin
    perform changefeed.create_capture_function(f.feed_id, 'insert', settings, changefeed.table_body(
        f, 'insert', format('select true, ''upsert'', %s, %s, %s', pk_new, key_new, image), null, 'select ' || pk_new));
    perform changefeed.create_capture_function(f.feed_id, 'update', settings, changefeed.table_body(
        f, 'update', format('select false, ''delete'', %s, %s, null::pg_catalog.text where %s union all '
                            'select %s, ''upsert'', %s, %s, %s', pk_old, key_old, moved, moved, pk_new, key_new, image), null, 'select ' || pk_new));
    perform changefeed.create_capture_function(f.feed_id, 'delete', settings, changefeed.table_body(
        f, 'delete', format('select false, ''delete'', %s, %s, null::pg_catalog.text', pk_old, key_old), null, 'select ' || pk_old));
end;
$$;

CREATE FUNCTION changefeed.create_snapshot_function(name text, arguments text, definition text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    lock table changefeed.functions in share update exclusive mode;
    execute format('create or replace function changefeed_log.%I(%s) %s', name, arguments, definition);
    if (select proowner from pg_proc where oid = to_regproc(format('changefeed_log.%I', name))) <> 'changefeed_capture'::regrole then
        execute format('revoke execute on function changefeed_log.%I from public', name);
        execute format('grant execute on function changefeed_log.%I to changefeed_reader', name);
        grant create on schema changefeed_log to changefeed_capture;
        execute format('alter function changefeed_log.%I owner to changefeed_capture', name);
        revoke create on schema changefeed_log from changefeed_capture;
    end if;
end;
$$;

CREATE FUNCTION changefeed.create_snapshot_functions(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    settings constant text := 'set search_path = pg_catalog, pg_temp set timezone = ''UTC'' set datestyle = ''ISO'' '
        'set intervalstyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = 1 set lc_monetary = ''C'' '
        'set constraint_exclusion = off ';
    drifted  constant text := format('(case when $1 is null or $1 is not null then %L::pg_catalog.regclass end) is null '
        'or changefeed.has_drifted(%s, %L) or changefeed.supplied_function(%L::pg_catalog.oid) is not null',
        f.source::oid, f.feed_id, f.shape, f.source::oid);
begin
    if changefeed.snapshot_index(f) is null then
        execute format('drop function if exists changefeed_log.items_%1$s, changefeed_log.places_%1$s', f.feed_id);
        return;
    end if;
    perform changefeed.create_items_function(f.feed_id, settings, format($body$
begin
    if %s then
        return query execute changefeed.items_now_sql(%s, $1 is null) using $1, $2, $3, $4, $5, $6;
    elsif $1 is null then
        return query %s;
    else
        return query %s;
    end if;
end
$body$, drifted, f.feed_id, changefeed.table_items_sql(f, true), changefeed.table_items_sql(f, false)));
    perform changefeed.create_places_function(f.feed_id, settings, format($body$
declare
    places pg_catalog.int2[];
begin
    if %s then
        execute changefeed.places_now_sql(%s) into places using $1, $2, $3;
    else
        places := (%s);
    end if;
    return places;
end
$body$, drifted, f.feed_id, changefeed.table_places_sql(f)));
end;
$_$;

COMMENT ON FUNCTION changefeed.create_snapshot_functions(f changefeed.feeds) IS 'Writes the functions that snapshots of a watched table are read with, anew if they are there; none where nothing gives its key an order.';

CREATE FUNCTION changefeed.create_statement_capture(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    settings text := changefeed.pinned_settings(f);
    paired   text := changefeed.paired_sql(f, 'old_rows', 'new_rows');
    updated  text := format('select false, ''upsert'', %s, %s, %s from new_rows n', changefeed.partition_key_of(f, 'n'),
                            changefeed.key_of(f, 'n'), changefeed.image_of(f, 'n'));
    unseen   boolean := changefeed.may_rekey_unseen(f.source);
    any_key  text := 'select ' || changefeed.partition_key_of(f, 'r') || ' from ';
begin
    perform changefeed.create_capture_function(f.feed_id, 'insert', settings, changefeed.table_body(
        f, 'insert', changefeed.inserted_sql(f, 'new_rows'), null, any_key || 'new_rows r limit 1'));
    perform changefeed.create_capture_function(f.feed_id, 'update', settings, changefeed.table_body(
        f, 'update', case when unseen then paired else updated end, case when not unseen then paired end,
        any_key || 'new_rows r limit 1'));
    perform changefeed.create_capture_function(f.feed_id, 'delete', settings, changefeed.table_body(
        f, 'delete', changefeed.deleted_sql(f, 'old_rows'), null, any_key || 'old_rows r limit 1'));
    perform changefeed.create_rekey_function(f.feed_id);
end;
$$;

CREATE FUNCTION changefeed.create_tick_function(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION changefeed.create_triggers(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    event text;
    keys  text[] := (select array_agg(distinct u.name) from unnest(
                         changefeed.column_names(f.source, f.key_numbers || f.partition_key_numbers)) u (name));
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
    -- By bytes: 1.0 and 1.00 are equal but are two texts.
    if f.capture = 'statement' then
        execute format('create or replace trigger changefeed_%1$s_rekey after update of %2$s on %3$s for each row '
                       'when (pg_catalog.record_image_ne(row(%4$s), row(%5$s))) '
                       'execute function changefeed_log.capture_%1$s_rekey()', f.feed_id,
                       (select string_agg(quote_ident(k), ', ') from unnest(keys) k), f.source::regclass,
                       (select string_agg(format('old.%I', k), ', ') from unnest(keys) k),
                       (select string_agg(format('new.%I', k), ', ') from unnest(keys) k));
    end if;
    update changefeed.feeds u set triggers = changefeed.trigger_maker() where u.feed_id = f.feed_id;
end;
$_$;

CREATE FUNCTION changefeed.create_watched(wanted changefeed.feeds) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.date_anew(feed integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $_$
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
$_$;

COMMENT ON FUNCTION changefeed.date_anew(feed integer) IS 'Dates what a clock that was ahead has written, as of now; tokens stay good. Call it when the clock is right.';

CREATE FUNCTION changefeed.day_facts(feed integer, names text[]) RETURNS TABLE(part text, name text, state text, marked boolean, starts timestamp with time zone, ends timestamp with time zone, bytes bigint, empty boolean, newest timestamp with time zone, first_tick bigint, last_tick bigint, writers text[])
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
declare
    day  record;
    held jsonb;
begin
    -- Who has inserted into a table and has not ended has its lock until then, prepared or not. Before the rows: who commits in
    -- between is found by one of the two.
    select jsonb_object_agg(h.relation, h.who) into held from (
        select l.relation::text, jsonb_agg(l.who order by l.who) as who
        from changefeed.holders_of(array (
            select d.day from changefeed.day_tables(feed) d where names is null or d.name = any (names))) l
        where l.mode = 'RowExclusiveLock' group by l.relation) h;
    for day in
        select * from changefeed.day_tables(feed) d where names is null or d.name = any (names) order by d.part desc, d.name
    loop
        part := day.part;
        name := day.name;
        state := day.state;
        marked := day.marked;
        starts := substring(day.bound from 'FROM \(''([^'']+)''\)');
        ends := substring(day.bound from 'TO \(''([^'']+)''\)');
        newest := null;
        first_tick := null;
        last_tick := null;
        begin
            writers := array (select jsonb_array_elements_text(held -> day.day::text));
            bytes := pg_total_relation_size(day.day);
            execute format('select not exists (select from changefeed_log.%I)', day.name) into empty;
            if not empty and ends is null and state <> 'detached' then
                execute format('select max(%I) from changefeed_log.%I',
                               case part when 'tick' then 'at' else 'changed_at' end, day.name) into newest;
            end if;
            -- A detached table without the mark may be anybody's, with any columns.
            if not empty and part = 'tick' and (marked or state <> 'detached') then
                execute format('select min(id), max(id) from changefeed_log.%I', day.name) into first_tick, last_tick;
            end if;
        exception when undefined_table then
            continue;  -- A run at the same time has dropped it.
        end;
        return next;
    end loop;
end;
$$;

CREATE FUNCTION changefeed.day_of(at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    AS $$ select pg_catalog.floor(extract(epoch from at) operator(pg_catalog./) 86400)::pg_catalog.int8 $$;

COMMENT ON FUNCTION changefeed.day_of(at timestamp with time zone) IS 'The number of its day (UTC), counted from 1970.';

CREATE FUNCTION changefeed.day_start(value bigint) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE
    AS $$ select pg_catalog.to_timestamp((value operator(pg_catalog.>>) 40) operator(pg_catalog.*) 86400) $$;

COMMENT ON FUNCTION changefeed.day_start(value bigint) IS 'The beginning (UTC) of the day that a value of a day floor stands for.';

CREATE FUNCTION changefeed.day_tables(feed integer) RETURNS TABLE(part text, day oid, name text, state text, bound text, marked boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO'
    AS $_$
    with parts (part, parent, prefix) as (
        select p.part, to_regclass(format('changefeed_log.%s_%s', p.part, feed)), format('%s_%s_', p.part, feed)
        from (values ('tick'), ('log')) p (part)
    ), tables (part, day, state) as (
        select p.part, i.inhrelid, case when i.inhdetachpending then 'leaving' else 'attached' end
        from parts p join pg_inherits i on i.inhparent = p.parent
        union all
        -- By the index on names: with many feeds the schema has many tables.
        select p.part, c.oid, 'detached'
        from parts p join pg_class c on c.relname >= p.prefix::name and c.relname < (left(p.prefix, -1) || '`')::name
        where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and substr(c.relname, length(p.prefix) + 1) ~ '^(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$'
            and not exists (select from pg_inherits i where i.inhrelid = c.oid)
    )
    select t.part, c.oid, c.relname::text, t.state, pg_get_expr(c.relpartbound, c.oid),
        obj_description(c.oid, 'pg_class') is not distinct from
            (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed)
    from tables t join pg_class c on c.oid = t.day and c.relkind = 'r'
$_$;

COMMENT ON FUNCTION changefeed.day_tables(feed integer) IS 'The partitions of a feed''s log and ticks, attached or leaving (a detach that is not finished), and the detached tables that are named as such. marked: carries the mark of the feed''s epoch.';

CREATE FUNCTION changefeed.days(feed integer, names text[] DEFAULT NULL::text[]) RETURNS TABLE(part text, name text, state text, marked boolean, starts timestamp with time zone, ends timestamp with time zone, bytes bigint, empty boolean, newest timestamp with time zone, first_tick bigint, last_tick bigint, next_tick_at timestamp with time zone, overlaps_until timestamp with time zone, writers text[])
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $_$
begin
    return query execute format($sql$
        with days as materialized (
            select d.*, d.last_tick is not null and d.ends <= clock_timestamp() - f.retention as is_over
            from changefeed.day_facts($1, $2) d, changefeed.feeds f where f.feed_id = $1
        )
        -- A tick that claims a time to come was made by a clock that was wrong.
        select d.part, d.name, d.state, d.marked, d.starts, d.ends, d.bytes, d.empty, d.newest, d.first_tick, d.last_tick,
            case when d.is_over then (select t.at from changefeed_log.tick_%1$s t
                                   where t.id > d.last_tick and t.at <= clock_timestamp() order by t.id limit 1) end,
            case when d.is_over then (select max(t.at) from changefeed_log.tick_%1$s t
                                   where t.id <= d.last_tick and t.at >= d.ends and t.at <= clock_timestamp()) end,
            d.writers
        from days d
    $sql$, feed) using feed, names;
end;
$_$;

COMMENT ON FUNCTION changefeed.days(feed integer, names text[]) IS 'Every table of a feed''s log and ticks, as day_tables has them, or those of some names. Null as a bound: none. Of days whose time is over: next_tick_at, time of the tick after its last one; overlaps_until, the latest time of a tick up to its last one that lies in a later day, because the clock stepped, null where none does. writers: open transactions that wrote to it.';

CREATE FUNCTION changefeed.days_needed(feed integer, tick bigint, names text[] DEFAULT NULL::text[]) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $_$
declare
    day    text;
    seen   pg_snapshot;
    needed boolean;
begin
    execute format('select snapshot from changefeed_log.tick_%s where id = $1', feed) into seen using tick;
    for day in
        select d.name from changefeed.day_tables(feed) d
        where d.part = 'log' and (d.marked or d.state <> 'detached') and (names is null or d.name = any (names))
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
$_$;

COMMENT ON FUNCTION changefeed.days_needed(feed integer, tick bigint, names text[]) IS 'The days of a log, or those of some names, that hold a change which a tick does not see: one that is read from there on.';

CREATE FUNCTION changefeed.deleted_sql(f changefeed.feeds, old_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select format('select false, ''delete'', %s, %s, null::pg_catalog.text from %s o', changefeed.partition_key_of(f, 'o'),
                  changefeed.key_of(f, 'o'), old_rows)
$$;

CREATE FUNCTION changefeed.drop_feed(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    SET client_min_messages TO 'warning'
    AS $_$
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
$_$;

COMMENT ON FUNCTION changefeed.drop_feed(feed integer) IS 'Removes a feed whole: its triggers, its log and its history.';

CREATE FUNCTION changefeed.drop_loose_days(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.end_migration() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    watched regclass;
begin
    for watched in select source from changefeed.feeds where source is not null loop
        begin
            perform changefeed.let_capture_read(watched);
        exception when insufficient_privilege then
            continue;  -- The feed's state says so.
        end;
    end loop;
    perform changefeed.create_tick_function(f.feed_id), changefeed.create_live_function(f.feed_id),
        changefeed.let_capture_append(f.feed_id) from changefeed.feeds f;
    perform changefeed.hand_over();
    -- Marks go where readers look for them, whatever keeps the rest of a feed's capture from being written anew.
    perform changefeed.create_capture_function(f.feed_id, 'truncate', '', changefeed.table_clearing_body(f))
        from changefeed.feeds f where f.capture_function is null;
    perform changefeed.check_feed(f) from changefeed.feeds f;
    perform changefeed.renew_triggers(f) from changefeed.feeds_to_renew() f;
end;
$$;

COMMENT ON FUNCTION changefeed.end_migration() IS 'What `changefeed migrate` calls last: existing feeds get what is made for each of them.';

CREATE FUNCTION changefeed.feed_states() RETURNS TABLE(feed_id integer, name text, source text, key text[], partition_key text[], image text, image_columns text[], doorbell text, capture text, always boolean, retention interval, state text, problem text, remedy text, code text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select f.feed_id, f.name, c.oid::regclass::text, f.key_columns, f.partition_key_columns, f.image_mode,
        array_remove(changefeed.column_names(f.source, f.image_numbers), null), f.doorbell, f.capture, f.always, f.retention,
        case when (p.stopped).code is not null then 'stopped' when w.code is not null then 'drifted' else 'capturing' end,
        coalesce((p.stopped).detail, w.detail),
        changefeed.remedy(f, coalesce((p.stopped).code, w.code)),
        coalesce((p.stopped).code, w.code)
    from changefeed.feeds f
    left join pg_class c on c.oid = f.source
    cross join lateral (select changefeed.capture_problem(f) as stopped, changefeed.read_problem(f) as read,
        changefeed.look_problem(f) as look) p
    left join lateral (
        select min(a.attname) as name from pg_attribute a
        where a.attrelid = f.source and a.attgenerated = 'v' and not a.attisdropped and f.image_mode = 'captured'
            and (f.image_numbers is null or a.attnum = any (f.image_numbers))) v on true
    left join lateral (
        select u.code, u.detail from (values
            (1, 'renewal_failed', 'capture could not be written anew: ' || f.renewal_problem),
            (2, 'altered', case when f.source is not null and changefeed.has_drifted(f.feed_id, f.shape)
                then 'the table was altered: capture follows more slowly' end),
            (3, (p.read).code, (p.read).detail),
            (6, (p.look).code, (p.look).detail || ': no snapshot can be read, and capture would stop at a statement inside another one''s triggers'),
            (4, 'image_incomplete', 'the images leave out the column ' || quote_ident(v.name)
                                     || ', which is generated when it is read'),
            (5, 'triggers_older', case when f.source is not null and f.triggers is distinct from changefeed.trigger_maker()
                then 'its triggers are of an older version, and may cost its writers more' end)
        ) u (place, code, detail)
        where u.detail is not null and (p.stopped).code is null
        order by u.place limit 1) w on true
    order by f.name
$$;

COMMENT ON FUNCTION changefeed.feed_states() IS 'Every feed, its options, and whether it is capturing, drifted (capture follows, with a problem) or stopped. code: which problem it is; never changes.';

CREATE FUNCTION changefeed.feeds_due(fewest_ahead integer) RETURNS SETOF integer
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO'
    AS $_$
    with days as materialized (
        select f.feed_id, f.retention, p.part, i.inhrelid, i.inhdetachpending,
            substring(b.bound from 'FROM \(''([^'']+)''\)')::timestamptz as starts,
            substring(b.bound from 'TO \(''([^'']+)''\)')::timestamptz as ends
        from changefeed.feeds f
        cross join (values ('tick'), ('log')) p (part)
        left join pg_inherits i on i.inhparent = to_regclass(format('changefeed_log.%s_%s', p.part, f.feed_id))
        left join pg_class c on c.oid = i.inhrelid
        cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b
    ), places as (
        select d.*, lag(d.ends) over (partition by d.feed_id, d.part order by d.starts nulls first) as before,
            lead(true) over (partition by d.feed_id, d.part order by d.starts nulls first) as has_next
        from days d
    )
    select p.feed_id from places p
    where p.inhrelid is null or p.inhdetachpending
        -- A hole, or an end.
        or p.starts is distinct from p.before or p.ends is null and p.has_next or p.ends is not null and p.has_next is null
        -- A catch-all that holds something, or comes too soon.
        or (p.starts is null or p.ends is null) and pg_relation_size(p.inhrelid) > 0
        or p.ends is null and p.starts < date_trunc('day', clock_timestamp()) + make_interval(days => fewest_ahead + 1)
        -- A day that is over.
        or p.starts is not null and p.ends <= clock_timestamp() - p.retention
    union
    -- A table that was left behind.
    select substring(c.relname from '\d+')::integer from pg_class c
    where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
        and c.relname ~ '^(log|tick)_\d{1,9}_(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$'
        and not exists (select from pg_inherits i where i.inhrelid = c.oid)
$_$;

COMMENT ON FUNCTION changefeed.feeds_due(fewest_ahead integer) IS 'The feeds in which a retention run has something to do or to say; fewest_ahead: whole days after today that must be there.';

CREATE FUNCTION changefeed.feeds_to_renew() RETURNS SETOF changefeed.feeds
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select f.* from changefeed.feeds f
    where f.triggers is distinct from changefeed.trigger_maker() and changefeed.may_make_triggers(f)
$$;

COMMENT ON FUNCTION changefeed.feeds_to_renew() IS 'Feeds with triggers of an older version on tables of which who calls it may make triggers.';

CREATE FUNCTION changefeed.fit_capture(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if f.source is not null then
        execute format('lock table %s in access share mode nowait', f.source::regclass);
    end if;
    if (changefeed.table_problem(f)).code is null then
        perform changefeed.create_capture(f.feed_id);
    end if;
exception when lock_not_available or undefined_table then
    return;
end;
$$;

CREATE FUNCTION changefeed.generator() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select encode(sha256(string_agg(f.checksum, ' ' order by f.set, f.topic)::bytea), 'hex')
    from changefeed.functions f where (f.set, f.topic) in (('log', 'capture'), ('log', 'keys'), ('log', 'snapshot'), ('documents', 'feed'))
$$;

COMMENT ON FUNCTION changefeed.generator() IS 'The text of what makes capture functions, as one number: feeds.generator tells which one made those of a feed.';

CREATE FUNCTION changefeed.hand_over() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
    alter type changefeed.problem owner to changefeed_owner;
    -- Capture functions have an owner of their own.
    for item in
        select p.oid::regprocedure as name, p.prosecdef, p.proowner <> 'changefeed_owner'::regrole as moves from pg_proc p
        where p.pronamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace)
            and p.proowner <> 'changefeed_capture'::regrole
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
    -- Whoever opens a feed finds out first that it was restored.
    grant execute on function changefeed.adopt_log(integer), changefeed.check_feeds() to changefeed_reader;
end;
$$;

COMMENT ON FUNCTION changefeed.hand_over() IS 'Gives everything in the two schemas to changefeed_owner, keeps the public from what runs as its owner, and lets changefeed_reader read. Again without harm.';

CREATE FUNCTION changefeed.has_built_in_json(type oid) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    base    oid := changefeed.base_type(type);
    element oid := (select t.typelem from pg_type t where t.oid = base and t.typsubscript = 'array_subscript_handler'::regproc);
begin
    return base < 16384 or element is not null and changefeed.has_built_in_json(element);
end;
$$;

CREATE FUNCTION changefeed.has_drifted(feed integer, shape text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f changefeed.feeds := changefeed.captured_feed(feed);
begin
    return changefeed.shape(f) is distinct from shape
        or f.capture = 'statement' and not exists (
            -- It fires where the trigger of updates does, under session_replication_role = replica too.
            select from pg_trigger r join pg_trigger u on u.tgrelid = r.tgrelid and u.tgname = format('changefeed_%s_update', feed)
            where r.tgrelid = f.source and r.tgname = format('changefeed_%s_rekey', feed)
                and u.tgenabled in ('O', 'A') and r.tgenabled in ('A', u.tgenabled));
end;
$$;

CREATE FUNCTION changefeed.holders_of(relations oid[]) RETURNS TABLE(relation oid, who text, since timestamp with time zone, mode text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select distinct l.relation, coalesce(
            'prepared transaction ' || quote_literal(p.gid) || ' of ' || to_char(p.prepared, 'YYYY-MM-DD HH24:MI OF'),
            changefeed.session(l.pid)),
        coalesce(p.prepared, a.xact_start), l.mode
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_locks t on l.pid is null and t.virtualtransaction = l.virtualtransaction
        and t.locktype = 'transactionid' and t.mode = 'ExclusiveLock'
    left join pg_prepared_xacts p on p.transaction = t.transactionid
    where l.locktype = 'relation' and l.relation = any (relations) and l.granted
        and l.database = (select oid from pg_database where datname = current_database())
        and l.pid is distinct from pg_backend_pid()
$$;

CREATE FUNCTION changefeed.home(feed integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select format('%s/%s/%s', c.system_identifier, d.oid, to_regclass('changefeed_log.log_' || feed)::oid)
    from pg_control_system() c, pg_database d where d.datname = current_database()
$$;

COMMENT ON FUNCTION changefeed.home(feed integer) IS 'Cluster, database and table of a feed''s log as they are now.';

CREATE FUNCTION changefeed.image_of(f changefeed.feeds, row_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select case
        when f.image_mode = 'none' then 'null::pg_catalog.text'
        when f.image_numbers is null and f.capture = 'statement'
            and bool_and(a.attgenerated <> 'v' and changefeed.has_built_in_json(a.atttypid))
            then format('pg_catalog.row_to_json(%I.*)::pg_catalog.text', row_name)
        else format('(select pg_catalog.row_to_json(i.*) from (select %s) i)::pg_catalog.text',
            string_agg(format(
                case when changefeed.has_built_in_json(a.atttypid) then '%1$I.%2$I'
                    else 'case when %1$I.%2$I is distinct from null then pg_catalog.concat(%1$I.%2$I) end as %2$I' end,
                row_name, a.attname), ', ' order by a.attnum)
                filter (where a.attgenerated <> 'v' and (f.image_numbers is null or a.attnum = any (f.image_numbers))))
    end
    from pg_attribute a where a.attrelid = f.source and a.attnum > 0 and not a.attisdropped
$_$;

CREATE FUNCTION changefeed.index_columns_sql(f changefeed.feeds, index oid, row_name text, text_name text, named boolean DEFAULT false) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select string_agg(
        case when text_name is null then format('%I.%I', row_name, a.attname)
            else changefeed.value_sql(f.source, a.attnum, changefeed.key_part_sql(f, a.attnum, a.atttypid, text_name)) end
        || case when k.sorted_by <> 0 then format(' collate %I.%I', s.nspname, c.collname) else '' end
        || case when named then format(' as k%s', k.place) else '' end, ', ' order by k.place)
    from pg_index i
    cross join unnest(i.indkey::smallint[], i.indcollation::oid[]) with ordinality k (attnum, sorted_by, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    left join pg_collation c on c.oid = k.sorted_by
    left join pg_namespace s on s.oid = c.collnamespace
    where i.indexrelid = index and k.place <= i.indnkeyatts
$$;

CREATE FUNCTION changefeed.inserted_sql(f changefeed.feeds, new_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select format('select true, ''upsert'', %s, %s, %s from %s n', changefeed.partition_key_of(f, 'n'),
                  changefeed.key_of(f, 'n'), changefeed.image_of(f, 'n'), new_rows)
$$;

CREATE FUNCTION changefeed.is_at_home(feed integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) $$;

CREATE FUNCTION changefeed.is_built_in(type oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select changefeed.base_type(type) < 16384 $$;

CREATE FUNCTION changefeed.is_captured_by_day(feed integer) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select exists (select from changefeed.feeds f where f.feed_id = feed and f.generator = changefeed.generator()) $$;

CREATE FUNCTION changefeed.is_gone_sql(f changefeed.feeds, key_text text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select coalesce(key_text || ' is not null and (' || string_agg(
        changefeed.value_sql(f.source, a.attnum, changefeed.key_part_sql(f, a.attnum, a.atttypid, key_text)) || ' is null',
        ' or ' order by a.attnum) || ')', 'false')
    from pg_attribute a
    where a.attrelid = f.source and a.attnum = any (f.key_numbers) and changefeed.is_plain_enum(a.atttypid)
$$;

CREATE FUNCTION changefeed.is_plain_enum(type oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select exists (select from pg_type t where t.oid = type and t.typtype = 'e'
        and not exists (select from pg_cast c where c.castsource = t.oid and c.castcontext = 'i'))
$$;

CREATE FUNCTION changefeed.is_set_sql(setting text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$ select format($sql$pg_catalog.current_setting(%L, true) operator(pg_catalog.<>) ''$sql$, setting) $_$;

CREATE FUNCTION changefeed.items_now_sql(feed integer, first boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f       changefeed.feeds;
    problem text;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    problem := changefeed.snapshot_problem(f);
    return case when problem is null then changefeed.table_items_sql(f, first) else format(
        'select null::pg_catalog.text, null::pg_catalog.text, null::pg_catalog.int2, null::pg_catalog.text, '
        'null::pg_catalog.bool, null::pg_catalog.int4, null::pg_catalog.text, %L::pg_catalog.text', problem) end;
end;
$$;

CREATE FUNCTION changefeed.items_sql(feed integer, rows_sql text, columns integer, problem text DEFAULT 'null'::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$
        select pg_catalog.pg_current_snapshot()::pg_catalog.text, null::pg_catalog.text, null::pg_catalog.int2,
            coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.seq_%5$s'), 0)::pg_catalog.text,
            null::pg_catalog.bool, null::pg_catalog.int4, null::pg_catalog.text, (%4$s)::pg_catalog.text
        union all
        (select w.key, w.partition_key, case when $6 then changefeed.bucket(w.partition_key) end, w.version, w.wanted, w.bytes,
            case when w.bytes operator(pg_catalog.<=) $4 then w.image end, null::pg_catalog.text
        from (
            select r.*, pg_catalog.sum(r.weight) over (order by %2$s rows unbounded preceding) as total
            from (select s.*, pg_catalog.octet_length(s.image) as bytes,
                    case when pg_catalog.octet_length(s.image) operator(pg_catalog.<=) $4
                        then pg_catalog.octet_length(s.image) else 0 end as weight
                from (%1$s) s) r
        ) w
        where w.total operator(pg_catalog.<=) $3 or w.total operator(pg_catalog.=) w.weight
        order by %3$s)$sql$,
        rows_sql,
        (select string_agg(format('r.k%s', n), ', ') from generate_series(1, columns) n),
        (select string_agg(format('w.k%s', n), ', ') from generate_series(1, columns) n), problem, feed)
$_$;

CREATE FUNCTION changefeed.key_index(source oid, numbers smallint[]) RETURNS oid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (
        select i.indexrelid
        from pg_index i
        where i.indrelid = source and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
            and (i.indkey::smallint[])[0:i.indnkeyatts - 1] @> numbers
            and (i.indkey::smallint[])[0:i.indnkeyatts - 1] <@ numbers
        order by i.indisprimary desc, i.indexrelid
        limit 1
    );
end;
$$;

CREATE FUNCTION changefeed.key_of(f changefeed.feeds, row_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.key_numbers)) $$;

CREATE FUNCTION changefeed.key_part_sql(f changefeed.feeds, number smallint, type oid, key_text text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select case
        when cardinality(f.key_numbers) > 1 then format('(%s::pg_catalog.json operator(pg_catalog.->>) %s)', key_text,
                                                        array_position(f.key_numbers, number) - 1)
        when changefeed.key_type(type) in ('number', 'boolean', 'binary') or type = 'uuid'::regtype then key_text
        else format('case when pg_catalog.starts_with(%1$s, ''['') then %1$s::pg_catalog.json operator(pg_catalog.->>) 0 '
                    'else %1$s end', key_text)
    end
$_$;

CREATE FUNCTION changefeed.key_text(source regclass, row_name text, columns text[]) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    texts text[];
    type  oid;
begin
    select array_agg(changefeed.column_text(row_name, a.attname, a.atttypid) order by c.place), min(a.atttypid)
        into strict texts, type
        from unnest(columns) with ordinality c (name, place)
        join pg_attribute a on a.attrelid = source and a.attname = c.name and not a.attisdropped;
    if cardinality(texts) > 1 then
        return format('pg_catalog.to_json(array[%s])::pg_catalog.text', array_to_string(texts, ', '));
    end if;
    if changefeed.key_type(type) in ('number', 'boolean', 'binary') or type = 'uuid'::regtype then
        return texts[1];
    end if;
    return format('case when pg_catalog.starts_with(%1$s, ''['') then pg_catalog.to_json(array[%1$s])::pg_catalog.text '
                  'else %1$s end', texts[1]);
end;
$_$;

COMMENT ON FUNCTION changefeed.key_text(source regclass, row_name text, columns text[]) IS 'SQL that writes the key of a row as text: one value stands for itself, several (or a text that begins with "[") are a JSON array of texts.';

CREATE FUNCTION changefeed.key_type(type regtype) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case
        when t.oid = 'bool'::regtype then 'boolean'
        when t.oid = 'bytea'::regtype then 'binary'
        when t.typcategory = 'N' and t.oid <> 'money'::regtype and t.typname !~ '^reg' then 'number'
        else 'string'
    end
    from pg_type t where t.oid = type
$$;

CREATE FUNCTION changefeed.left_now_sql(feed integer) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    f       changefeed.feeds := changefeed.captured_feed(feed);
    problem changefeed.problem := changefeed.slow_problem(f, true);
begin
    if problem.code is not null then
        return changefeed.stop_sql(feed, problem.detail, 'select 1');
    end if;
    return changefeed.append_sql(feed, changefeed.inserted_sql(f, f.source::regclass::text), '$1', changefeed.changed_at_sql(feed));
end;
$_$;

CREATE FUNCTION changefeed.let_capture_append(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    execute format('grant insert on changefeed_log.log_%1$s to changefeed_capture; '
                   'grant usage on sequence changefeed_log.seq_%1$s, changefeed_log.day_%1$s, changefeed_log.bell_%1$s, '
                   'changefeed_log.rung_%1$s to changefeed_capture', feed);
end;
$_$;

CREATE FUNCTION changefeed.let_capture_read(source regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    role constant name := 'changefeed_capture';
    schema text := (select s.nspname from pg_class c join pg_namespace s on s.oid = c.relnamespace where c.oid = source);
begin
    if not has_schema_privilege(role, schema, 'usage') then
        execute format('grant usage on schema %I to %I', schema, role);
    end if;
    if not has_table_privilege(role, source, 'select') then
        execute format('grant select on table %s to %I', source, role);
    end if;
    -- A role that may grant nothing is told so by a warning only.
    if not has_schema_privilege(role, schema, 'usage') or not has_table_privilege(role, source, 'select') then
        raise exception 'source: capture may not read %', source
            using errcode = 'insufficient_privilege',
                  hint = format('Have the owners call: grant usage on schema %I to %2$I; grant select on table %3$s to %2$I.',
                                schema, role, source);
    end if;
end;
$_$;

CREATE FUNCTION changefeed.lock_day_floor(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    execute format('alter sequence changefeed_log.day_%s cache 1', feed);
end;
$$;

CREATE FUNCTION changefeed.lock_feed(name text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.lock_holders(relation regclass) RETURNS TABLE(who text, since timestamp with time zone, mode text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select h.who, h.since, h.mode from changefeed.holders_of(array [relation::oid]) h $$;

COMMENT ON FUNCTION changefeed.lock_holders(relation regclass) IS 'Open and prepared transactions that hold a lock on a table, by the mode of the lock. since is null where it is hidden from the caller, who needs pg_read_all_stats to see it.';

CREATE FUNCTION changefeed.lock_ticks(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    -- As a tick takes them: it has read the sequences, which locks them, when it comes to this lock.
    execute format($sql$
        select pg_sequence_last_value('changefeed_log.seq_%1$s'), pg_sequence_last_value('changefeed_log.day_%1$s');
        lock table changefeed_log.lock_ticks_%1$s in share update exclusive mode
    $sql$, feed);
end;
$_$;

CREATE FUNCTION changefeed.look_problem(f changefeed.feeds) RETURNS changefeed.problem
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select row('table_expression', format('an expression of the table calls %s, which is not a superuser''s', s.function))::changefeed.problem
    from (select changefeed.supplied_function(f.source) as function) s where s.function is not null
$$;

CREATE FUNCTION changefeed.make_first_tick(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    execute format($sql$
        insert into changefeed_log.tick_%s (id, at, last_seq, xid, snapshot, topology, reached, first_xid)
        select 1, own.at, 0, own.xid,
               format('%%1$s:%%1$s:', pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::pg_snapshot,
               1, own.at, own.xid
        from (select pg_current_xact_id() as xid, clock_timestamp() as at) own
    $sql$, feed);
end;
$_$;

CREATE FUNCTION changefeed.mark_days(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    day text;
begin
    for day in select d.name from changefeed.day_tables(feed) d where d.state = 'attached' and not d.marked loop
        begin
            execute format('comment on table changefeed_log.%I is %L', day,
                           (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed));
            -- Where a publication has all tables, nobody may change or delete rows without it: a split, date_anew, retention.
            execute format('alter table changefeed_log.%I replica identity full', day);
        exception when insufficient_privilege then
            continue;  -- Made by hand and owned by another: once detached, retention leaves it alone.
        end;
    end loop;
end;
$$;

COMMENT ON FUNCTION changefeed.mark_days(feed integer) IS 'Gives the attached days of a feed the mark of its epoch.';

CREATE FUNCTION changefeed.may_be_null(source oid, number smallint) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (
        select not a.attnotnull or exists (
            select from pg_constraint c
            where c.conrelid = source and c.contype = 'n' and not c.convalidated and number = any (c.conkey))
        from pg_attribute a where a.attrelid = source and a.attnum = number
    );
end;
$$;

CREATE FUNCTION changefeed.may_make_triggers(f changefeed.feeds) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select has_table_privilege(c.oid, 'trigger') and (not f.always or pg_has_role(c.relowner, 'usage'))
    from pg_class c where c.oid = f.source
$$;

CREATE FUNCTION changefeed.may_rekey_unseen(source oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    -- 19: for each row, before, update.
    select exists (select from pg_trigger t where t.tgrelid = source and not t.tgisinternal and t.tgtype & 19 = 19)
$$;

CREATE FUNCTION changefeed.may_see_old_triggers(source regclass) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return current_setting('transaction_isolation') not in ('read committed', 'read uncommitted');
end;
$$;

CREATE FUNCTION changefeed.merge_partitions(feed text, first_id text, second_id text) RETURNS SETOF changefeed.partitions
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
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

COMMENT ON FUNCTION changefeed.merge_partitions(feed text, first_id text, second_id text) IS 'Retires two neighbouring physical partitions and starts one in their place. Needs a transaction of its own.';

CREATE FUNCTION changefeed.note_renewal_problem(f changefeed.feeds, problem text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    update changefeed.feeds set renewal_problem = problem
        where feed_id = f.feed_id and renewal_problem is distinct from problem
$$;

CREATE FUNCTION changefeed.paired_sql(f changefeed.feeds, old_rows text, new_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$
            with pair as (
                select n.image, n.partition_key, n.key, o.partition_key as old_partition_key, o.key as old_key
                from (select %1$s as partition_key, %2$s as key, %3$s as image from %6$s n) n
                full join (select %4$s as partition_key, %5$s as key from %7$s o) o
                    on o.key operator(pg_catalog.=) n.key and o.partition_key operator(pg_catalog.=) n.partition_key
            )
            select false, 'delete', p.old_partition_key, p.old_key, null::pg_catalog.text from pair p where p.key is null
            union all
            select p.old_key is null, 'upsert', p.partition_key, p.key, p.image from pair p where p.key is not null
        $sql$, changefeed.partition_key_of(f, 'n'), changefeed.key_of(f, 'n'), changefeed.image_of(f, 'n'),
        changefeed.partition_key_of(f, 'o'), changefeed.key_of(f, 'o'), new_rows, old_rows)
$_$;

CREATE FUNCTION changefeed.partition_key_of(f changefeed.feeds, row_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.partition_key_numbers)) $$;

CREATE FUNCTION changefeed.pin_settings() RETURNS text[]
    LANGUAGE plpgsql
    AS $$
declare
    were pg_catalog.text[] := array (select pg_catalog.current_setting(s.name) from pg_catalog.unnest(array [
        'timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits', 'lc_monetary', 'search_path',
        'row_security', 'constraint_exclusion']) s (name));
begin
    perform changefeed.restore_settings(array ['UTC', 'ISO', 'postgres', 'hex', '1', 'C', 'pg_catalog, pg_temp', 'off', 'off']);
    return were;
end;
$$;

CREATE FUNCTION changefeed.pinned_settings(f changefeed.feeds) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select coalesce(string_agg(format('set %s = %s ', p.name, p.value), '' order by p.place), '')
    from unnest(array ['timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits', 'lc_monetary',
                       'search_path'],
                array ['''UTC''', '''ISO''', '''postgres''', '''hex''', '1', '''C''', 'pg_catalog, pg_temp'])
        with ordinality p (name, value, place)
    where exists (
        select from pg_attribute a
        where a.attrelid = f.source and a.attnum > 0 and not a.attisdropped
            and (p.name = any (changefeed.settings_of(a.atttypid, true))
                     and a.attnum = any (f.key_numbers || f.partition_key_numbers)
                 or p.name = any (changefeed.settings_of(a.atttypid, not changefeed.has_built_in_json(a.atttypid)))
                     and f.image_mode = 'captured' and (f.image_numbers is null or a.attnum = any (f.image_numbers))))
$$;

CREATE FUNCTION changefeed.places_now_sql(feed integer) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f       changefeed.feeds;
    problem text;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    problem := changefeed.snapshot_problem(f);
    if problem is not null then
        raise exception 'the keys of % have no order: %', f.name, problem using errcode = 'object_not_in_prerequisite_state';
    end if;
    return changefeed.table_places_sql(f);
end;
$$;

CREATE FUNCTION changefeed.read_problem(f changefeed.feeds) RETURNS changefeed.problem
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case
        when not has_schema_privilege('changefeed_capture', c.relnamespace, 'usage')
                or not has_table_privilege('changefeed_capture', c.oid, 'select')
            then row('table_unreadable', 'capture may not read the table')::changefeed.problem
        when c.relrowsecurity and not (select r.rolbypassrls from pg_roles r where r.rolname = 'changefeed_capture')
            then row('table_policy', 'a policy may hide rows from capture')::changefeed.problem
    end
    from pg_class c where c.oid = f.source
$$;

CREATE FUNCTION changefeed.refuse_kept_snapshot() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'this needs a transaction at READ COMMITTED: at % it would not see all of the log',
            upper(current_setting('transaction_isolation')) using errcode = 'active_sql_transaction';
    end if;
end;
$$;

CREATE FUNCTION changefeed.refuse_old_snapshot(f changefeed.feeds) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.refuse_options(source regclass, image text, image_columns text[], doorbell text, always boolean) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.refuse_retention(retention interval) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if retention is null or retention not between '1 day' and '366 days' then
        raise exception 'retention is %', coalesce(quote_literal(retention), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Choose 1 day to 366 days: history is dropped by whole days, and the tokens of an idle feed move '
                         'once an hour.';
    end if;
end;
$$;

CREATE FUNCTION changefeed.refuse_stopped(source regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    known   changefeed.feeds;
    problem text;
begin
    select * into known from changefeed.feeds f where f.source = refuse_stopped.source;
    problem := (changefeed.capture_problem(known)).detail;
    if known.feed_id is not null and problem is not null then
        raise exception '% has stopped, changes are missing: %', known.name, problem
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Call changefeed.unwatch, then changefeed.watch: the new feed refuses the tokens of the old one.';
    end if;
end;
$$;

CREATE FUNCTION changefeed.refuse_unfit_key(source regclass, argument text, numbers smallint[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    nullable text;
    unseen   text;
begin
    select quote_ident(attname) into unseen from pg_attribute
        where attrelid = source and attnum = any (numbers) and attgenerated = 'v' limit 1;
    if found then
        raise exception '%: the column % of % is generated when it is read, and triggers do not see it', argument, unseen, source
            using errcode = 'feature_not_supported', hint = 'Make it stored, or name other columns.';
    end if;
    select quote_ident(attname) into nullable from pg_attribute
        where attrelid = source and attnum = any (numbers) and changefeed.may_be_null(source, attnum) limit 1;
    if found then
        raise exception '%: the column % of % may be null', argument, nullable, source
            using errcode = 'invalid_parameter_value',
                  hint = format('Run alter table %s alter column %s set not null, or name other columns.', source, nullable);
    end if;
end;
$$;

CREATE FUNCTION changefeed.refuse_unwatchable(source regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.remedy(f changefeed.feeds, code text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case
        when code = 'altered' then
            'a gateway writes capture anew within 10 s; without one, call changefeed.watch again with the same options'
        when code = 'triggers_older' then
            'call changefeed.watch again with the same options, as a role that may make triggers on the table'
        when code = 'table_expression' then
            'give the function to a superuser, or take it out of the table''s indexes, statistics and partition key'
        when code = 'renewal_failed' then 'remove what the message names; a gateway tries again every 10 s'
        when code = 'image_incomplete' then
            'make the column stored, or unwatch the table and name the others as image_columns'
        when code in ('table_unreadable', 'table_policy') then format(
            'grant select on table %s to changefeed_capture, and usage on its schema; let that role bypass row level security', c.oid::regclass)
        when code = 'trigger_disabled' then format('alter table ... enable %strigger, then start from a snapshot, or '
            'from now and read the source after that: changes are missing', case when f.always then 'always ' end)
        when code is not null then format('changefeed unwatch %s ends the feed with its history; watch the table again, '
            'and read it once', f.name)
    end
    from (select) one left join pg_class c on c.oid = f.source
$$;

CREATE FUNCTION changefeed.renew_capture(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    f changefeed.feeds;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    execute format('lock table %s in share row exclusive mode', f.source::regclass);
    perform changefeed.let_capture_read(f.source);
    perform changefeed.create_capture(feed);
    perform changefeed.create_triggers(f);
end;
$$;

CREATE FUNCTION changefeed.renew_triggers(f changefeed.feeds) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    AS $$
begin
    if (changefeed.capture_problem(f)).code is not null then
        return false;
    end if;
    perform changefeed.create_triggers(f);
    return true;
exception
    when lock_not_available then
        return false;
    when others then
        perform changefeed.note_renewal_problem(f, sqlstate || ' ' || sqlerrm);
        return false;
end;
$$;

CREATE FUNCTION changefeed.replace_function(signature text, definition text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.replace_partitions(feed integer, parents text[], bounds smallint[]) RETURNS SETOF changefeed.partitions
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION changefeed.restore_settings(were text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform pg_catalog.set_config(s.name, s.value, true)
        from rows from (
            pg_catalog.unnest(array ['timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits',
                'lc_monetary', 'search_path', 'row_security', 'constraint_exclusion']),
            pg_catalog.unnest(were)) s (name, value);
end;
$$;

CREATE FUNCTION changefeed.ring(feed integer, partition_key text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform nextval(format('changefeed_log.rung_%s', feed)::regclass);
    perform pg_notify('changefeed', json_build_object(
        'feed', feed, 'seq', currval(format('changefeed_log.seq_%s', feed)::regclass),
        'partition_key', case when length(partition_key) <= 1000 then partition_key end,
        'bell', pg_sequence_last_value(format('changefeed_log.bell_%s', feed)::regclass))::text);
end;
$$;

COMMENT ON FUNCTION changefeed.ring(feed integer, partition_key text) IS 'Wakes the gateways that sleep, when the transaction commits.';

CREATE FUNCTION changefeed.rows_sql(f changefeed.feeds, old_rows text, new_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case when old_rows is null then changefeed.inserted_sql(f, new_rows)
        when new_rows is null then changefeed.deleted_sql(f, old_rows)
        else changefeed.paired_sql(f, old_rows, new_rows) end
$$;

CREATE FUNCTION changefeed.same_feed(wanted changefeed.feeds) RETURNS integer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION changefeed.same_sql(key_index oid, number smallint, one text, other text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select case
        when changefeed.is_built_in(a.atttypid) or changefeed.base_type(a.atttypid) = all (array [o.oprleft, o.oprright])
            then format('%s operator(%I.%s) %s', one, s.nspname, o.oprname, other)
        else format('pg_catalog.concat(%s) operator(pg_catalog.=) pg_catalog.concat(%s)', one, other)
    end
    from pg_index i
    cross join unnest(i.indkey::smallint[], i.indclass::oid[]) k (attnum, opclass)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    join pg_opclass c on c.oid = k.opclass
    join pg_amop m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
        and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
    join pg_operator o on o.oid = m.amopopr
    join pg_namespace s on s.oid = o.oprnamespace
    where i.indexrelid = key_index and k.attnum = number
$$;

CREATE FUNCTION changefeed.sees_candidates(seen pg_snapshot, tick_xid xid8) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select pg_snapshot_xmax(seen) >= tick_xid and not exists (select from pg_snapshot_xip(seen) x where x < tick_xid)
$$;

CREATE FUNCTION changefeed.session(pid integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select 'pid ' || session.pid || coalesce(' ' || quote_literal(nullif(a.application_name, '')), '')
        || coalesce(', transaction since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI OF'), '')
    from (select) one left join pg_stat_activity a on a.pid = session.pid
$$;

CREATE FUNCTION changefeed.set_retention(feed text, retention interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform changefeed.refuse_retention(retention);
    update changefeed.feeds f set retention = set_retention.retention where f.name = feed;
    if not found then
        raise exception 'there is no feed %', quote_literal(feed)
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists them.';
    end if;
end;
$$;

COMMENT ON FUNCTION changefeed.set_retention(feed text, retention interval) IS 'How long the history of a feed is kept, 1 to 366 days. A shorter one lets the next retention run drop more.';

CREATE FUNCTION changefeed.settings_of(type oid, of_key boolean) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    base oid := changefeed.base_type(type);
    element oid := (select t.typelem from pg_type t where t.oid = base and t.typsubscript = 'array_subscript_handler'::regproc);
begin
    if element is not null then
        return changefeed.settings_of(element, of_key);
    end if;
    return case
        when base in ('bool'::regtype, '"char"'::regtype, 'bpchar'::regtype, 'name'::regtype, 'text'::regtype,
                      'varchar'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype,
                      'numeric'::regtype, 'uuid'::regtype, 'json'::regtype, 'jsonb'::regtype, 'bit'::regtype,
                      'varbit'::regtype, 'inet'::regtype, 'cidr'::regtype, 'macaddr'::regtype, 'macaddr8'::regtype,
                      'xml'::regtype, 'tsvector'::regtype, 'tsquery'::regtype, 'pg_lsn'::regtype, 'xid'::regtype,
                      'xid8'::regtype, 'cid'::regtype, 'tid'::regtype)
            or (select t.typtype = 'e' from pg_type t where t.oid = base) then '{}'
        when base = 'timestamptz'::regtype then case when of_key then '{timezone,datestyle}' else '{timezone}' end
        when base in ('date'::regtype, 'timestamp'::regtype) then case when of_key then '{datestyle}' else '{}' end
        when base in ('float4'::regtype, 'float8'::regtype) then '{extra_float_digits}'
        when base = 'bytea'::regtype then '{bytea_output}'
        when base = 'interval'::regtype then '{intervalstyle}'
        when base = 'money'::regtype then '{lc_monetary}'
        else '{timezone,datestyle,intervalstyle,bytea_output,extra_float_digits,lc_monetary,search_path}'
    end;
end;
$$;

CREATE FUNCTION changefeed.settled_now_sql(feed integer, old_rows text, new_rows text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    f       changefeed.feeds := changefeed.captured_feed(feed);
    problem changefeed.problem;
    nested  constant boolean := coalesce(current_setting(format('changefeed.mode_%s', feed), true) = 'nested', false);
begin
    problem := changefeed.slow_problem(f, nested);
    if problem.code is not null then
        return changefeed.stop_sql(feed, problem.detail,
            concat_ws(' union all ', 'select 1 from ' || old_rows || ' o', 'select 1 from ' || new_rows || ' n'));
    end if;
    return changefeed.append_sql(feed, case when nested then changefeed.settled_sql(f, old_rows, new_rows)
        else changefeed.rows_sql(f, old_rows, new_rows) end, '$1', changefeed.changed_at_sql(feed));
end;
$_$;

CREATE FUNCTION changefeed.settled_sql(f changefeed.feeds, old_rows text, new_rows text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    names   text[] := changefeed.column_names(f.source, f.key_numbers);
    index   oid := changefeed.key_index(f.source, f.key_numbers);
    columns text := (select string_agg(format('r.%I as k%s', c.name, c.place), ', ')
                     from unnest(names) with ordinality c (name, place));
    groups  text := (select string_agg(format('t.k%s', c.place), ', ') from unnest(names) with ordinality c (name, place));
    same    text := (select string_agg(changefeed.same_sql(index, c.number, format('n.%I', c.name), format('t.k%s', c.place)), ' and ')
                     from unnest(names, f.key_numbers) with ordinality c (name, number, place));
    touched text := (select string_agg(format('select %s, %s as partition_key, %s as key, %L::pg_catalog.bool as was from %s r',
                                              columns, changefeed.partition_key_of(f, 'r'), changefeed.key_of(f, 'r'), u.was, u.rows),
                                       ' union all ')
                     from (values (old_rows, true), (new_rows, false)) u (rows, was) where u.rows is not null);
begin
    return format($sql$
        with touched as (
            select %1$s, t.partition_key, t.key, pg_catalog.bool_or(t.was) as was
            from (%2$s) t group by %1$s, t.partition_key, t.key
        ), now as (
            select t.partition_key as touched_partition_key, t.key as touched_key, t.was, n.partition_key, n.key, n.image,
                n.partition_key operator(pg_catalog.=) t.partition_key and n.key operator(pg_catalog.=) t.key as stays
            from touched t left join lateral (
                select %3$s as partition_key, %4$s as key, %5$s as image from %6$s n where %7$s offset 0) n on true
        )
        select false, 'delete', s.touched_partition_key, s.touched_key, null::pg_catalog.text
        from now s where s.was and s.stays is not true
        union all
        select not pg_catalog.bool_or(s.was and s.stays), 'upsert', s.partition_key, s.key, pg_catalog.min(s.image)
        from now s where s.key is not null group by s.partition_key, s.key
    $sql$, groups, touched, changefeed.partition_key_of(f, 'n'), changefeed.key_of(f, 'n'), changefeed.image_of(f, 'n'),
        f.source::regclass, same);
end;
$_$;

CREATE FUNCTION changefeed.shape(f changefeed.feeds) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
begin
    return (
        select encode(sha256(convert_to(concat_ws(' ', c.oid, (changefeed.table_problem(f)).detail,
            changefeed.may_rekey_unseen(c.oid), (
                select string_agg(concat_ws(' ', attnum, quote_ident(attname), atttypid, attgenerated), ', ' order by attnum)
                from pg_attribute where attrelid = f.source and attnum > 0 and not attisdropped)),
            getdatabaseencoding())), 'hex')
        from pg_class c where c.oid = f.source
    );
end;
$$;

CREATE FUNCTION changefeed.slow_problem(f changefeed.feeds, looks boolean) RETURNS changefeed.problem
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    problem changefeed.problem := changefeed.capture_problem(f);
begin
    if problem.code is null then
        problem := changefeed.read_problem(f);
    end if;
    if problem.code is null and looks then
        problem := changefeed.look_problem(f);
    end if;
    return problem;
end;
$$;

CREATE FUNCTION changefeed.slow_way_sql(f changefeed.feeds, old_rows text, new_rows text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(%1$s, %2$L, %3$L)%4$s;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);%5$s
            return null;$sql$, f.feed_id, old_rows, new_rows,
        case f.capture when 'row' then ' using said, old, new' else ' using said' end,
        changefeed.written_sql(f.feed_id, f.doorbell, 'written operator(pg_catalog.>) 0', 'null::pg_catalog.text',
                               '            '))
$_$;

CREATE FUNCTION changefeed.snapshot_index(f changefeed.feeds) RETURNS oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select i.indexrelid
    from pg_index i
    where i.indrelid = f.source and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
        and (i.indkey::smallint[])[0:i.indnkeyatts - 1] @> f.key_numbers
        and (i.indkey::smallint[])[0:i.indnkeyatts - 1] <@ f.key_numbers
        and not exists (
            select from unnest(i.indkey::smallint[], i.indclass::oid[], i.indoption::smallint[]) k (attnum, opclass, option)
            left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
            left join pg_opclass c on c.oid = k.opclass
            where k.opclass is not null and (k.option <> 0 or not c.opcdefault or c.opcnamespace <> 'pg_catalog'::regnamespace
                or not (changefeed.is_built_in(a.atttypid) or changefeed.is_plain_enum(a.atttypid))))
    order by i.indisprimary desc, i.indexrelid
    limit 1
$$;

CREATE FUNCTION changefeed.snapshot_problem(f changefeed.feeds) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    problem changefeed.problem := changefeed.slow_problem(f, true);
begin
    perform changefeed.refuse_old_snapshot(f);
    return coalesce(problem.detail, case when changefeed.snapshot_index(f) is null
        then 'no unique index on the key has the default order of types of PostgreSQL''s own, or of enums' end);
end;
$$;

CREATE FUNCTION changefeed.split_partition(feed text, partition_id text, first_bucket integer DEFAULT NULL::integer) RETURNS SETOF changefeed.partitions
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
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

COMMENT ON FUNCTION changefeed.split_partition(feed text, partition_id text, first_bucket integer) IS 'Retires a physical partition and starts two in its place, the upper one from first_bucket on (default: the middle). Needs a transaction of its own. Answers the new ones.';

CREATE FUNCTION changefeed.stop_sql(feed integer, problem text, rows_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select changefeed.append_mark_sql(
        feed, format('select false, ''stopped'', '''', '''', %L::pg_catalog.text from (%s limit 1) r', problem, rows_sql),
        'null::pg_catalog.text', changefeed.changed_at_sql(feed))
$$;

CREATE FUNCTION changefeed.supplied_function(source oid) RETURNS regprocedure
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (
        with tables as (
            select source as oid union select p.relid from pg_partition_tree(source) p
        ), planned as (
            select 'pg_class'::regclass as class, t.oid from tables t
            union all
            select 'pg_class'::regclass, i.indexrelid from tables t join pg_index i on i.indrelid = t.oid
            union all
            select 'pg_statistic_ext'::regclass, s.oid from tables t join pg_statistic_ext s on s.stxrelid = t.oid
        )
        select p.oid::regprocedure
        from planned n
        join pg_depend d on d.classid = n.class and d.objid = n.oid
            and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
        left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
        join pg_proc p on p.oid = coalesce(o.oprcode::oid, d.refobjid)
        join pg_roles r on r.oid = p.proowner
        where not r.rolsuper
        order by p.oid limit 1
    );
end;
$$;

CREATE FUNCTION changefeed.table_body(f changefeed.feeds, event text, usual_sql text, rekeyed_sql text, partition_key_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select changefeed.capture_body(f.feed_id,
        changefeed.unusual_sql(f, changefeed.is_set_sql('changefeed.mode_' || f.feed_id)
                                  || E'\n                or ' || changefeed.is_set_sql('changefeed.annotations')
                                  || case when rekeyed_sql is not null then E'\n                or ' || old.triggers else '' end),
        format($sql$
        if %s
        then%s
        end if;%s$sql$,
            changefeed.unusual_sql(f, $sql$mode operator(pg_catalog.=) 'nested'$sql$),
            changefeed.slow_way_sql(
                f,
                case when event <> 'insert' then case f.capture when 'row' then '(select ($2).*)' else 'old_rows' end end,
                case when event <> 'delete' then case f.capture when 'row' then '(select ($3).*)' else 'new_rows' end end),
            case when rekeyed_sql is not null then format($sql$
        if mode operator(pg_catalog.=) 'rekeyed' or %s then%s;%s
            return null;
        end if;$sql$, old.triggers, changefeed.append_sql(f.feed_id, rekeyed_sql, margin => '            '),
                changefeed.written_sql(f.feed_id, f.doorbell, 'found', partition_key_sql, '            ')) end),
        changefeed.append_sql(f.feed_id, usual_sql) || ';'
        || changefeed.written_sql(f.feed_id, f.doorbell, 'found', partition_key_sql))
    from format($sql$changefeed.may_see_old_triggers('%s'::pg_catalog.regclass)$sql$, f.source::oid) old (triggers)
$_$;

CREATE FUNCTION changefeed.table_clearing_body(f changefeed.feeds) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select changefeed.clearing_body(f.feed_id, f.doorbell, format($sql$
    if mode operator(pg_catalog.=) 'nested' then
        were := changefeed.pin_settings();
        execute changefeed.left_now_sql(%s) using said;
        perform changefeed.restore_settings(were);
    end if;$sql$, f.feed_id))
$_$;

CREATE FUNCTION changefeed.table_items_sql(f changefeed.feeds, first boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    index   oid := changefeed.snapshot_index(f);
    columns text := changefeed.index_columns_sql(f, index, 'n', null);
    count   integer := cardinality(f.key_numbers);
begin
    return changefeed.items_sql(f.feed_id, format($sql$
                select %7$s, n.xmin::pg_catalog.text as version, %2$s as key, %3$s as partition_key,
                    ($5 is null or %3$s operator(pg_catalog.=) $5) as wanted,
                    case when $5 is null or %3$s operator(pg_catalog.=) $5 then %4$s end as image
                from %5$s n %6$s
                order by %1$s limit $2$sql$,
        columns, changefeed.key_of(f, 'n'), changefeed.partition_key_of(f, 'n'), changefeed.image_of(f, 'n'),
        f.source::regclass,
        case when not first then format('where row(%s) operator(pg_catalog.>) row(%s)', columns,
                                        changefeed.index_columns_sql(f, index, null, '$1')) end,
        changefeed.index_columns_sql(f, index, 'n', null, true)), count,
        format('case when %s then ''a value of the key''''s type is gone or has another name'' end',
               changefeed.is_gone_sql(f, '$1')));
end;
$_$;

CREATE FUNCTION changefeed.table_places_sql(f changefeed.feeds) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$
        select case when not (%4$s or %5$s) then pg_catalog.array_agg(case
                when $2 is not null and row(%1$s) operator(pg_catalog.<=) row(%2$s) then 0::pg_catalog.int2
                when $3 is null or row(%1$s) operator(pg_catalog.<=) row(%3$s) then 1::pg_catalog.int2
                else 2::pg_catalog.int2 end order by u.place) end
        from pg_catalog.unnest($1) with ordinality u (key, place)$sql$,
        changefeed.index_columns_sql(f, i.index, null, 'u.key'), changefeed.index_columns_sql(f, i.index, null, '$2'),
        changefeed.index_columns_sql(f, i.index, null, '$3'),
        changefeed.is_gone_sql(f, '$2'), changefeed.is_gone_sql(f, '$3'))
    from (select changefeed.snapshot_index(f) as index) i
$_$;

CREATE FUNCTION changefeed.table_problem(f changefeed.feeds) RETURNS changefeed.problem
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    c pg_class;
    k record;
begin
    if f.source is null then
        return null;
    end if;
    select * into c from pg_class where oid = f.source;
    if c.oid is null then
        return ('table_dropped', 'the table was dropped')::changefeed.problem;
    elsif c.relpersistence <> 'p' then
        return ('table_unlogged', 'the table became unlogged: a crash empties it without a change')::changefeed.problem;
    elsif c.relkind = 'p' and exists (
            select from pg_partition_tree(f.source) p join pg_class l on l.oid = p.relid where l.relpersistence <> 'p') then
        return ('partition_unlogged', 'a partition of the table is unlogged: a crash empties it without a change')::changefeed.problem;
    elsif f.capture = 'statement' and c.relispartition then
        return ('table_became_partition', format('the table became a partition of %s', pg_partition_root(f.source)))::changefeed.problem;
    elsif c.relkind = 'r' and not c.relispartition and (exists (select from pg_inherits where inhrelid = f.source)
            or c.relhassubclass and exists (select from pg_inherits where inhparent = f.source)) then
        return ('table_inherits', 'the table takes part in inheritance, where no key is unique')::changefeed.problem;
    elsif f.source_oid <> f.source and changefeed.column_names(f.source, f.key_numbers || f.partition_key_numbers || f.image_numbers)
            is distinct from f.key_columns || f.partition_key_columns || f.image_columns then
        return ('table_renumbered', 'the table was restored, and its columns are numbered anew')::changefeed.problem;
    end if;
    for k in
        select u.name, u.form, a.attnum, a.atttypid
        from unnest(f.key_columns || f.partition_key_columns, f.key_numbers || f.partition_key_numbers, f.text_forms)
            u (name, number, form)
        left join lateral (
            select * from pg_attribute p where p.attrelid = f.source and p.attnum = u.number and not p.attisdropped offset 0
        ) a on true
    loop
        if k.attnum is null then
            return ('key_column_dropped', format('the column %I of its key was dropped', k.name))::changefeed.problem;
        elsif changefeed.may_be_null(f.source, k.attnum) then
            return ('key_column_nullable', format('the column %I of its key may be null', k.name))::changefeed.problem;
        elsif changefeed.text_form(k.atttypid) <> k.form then
            return ('key_column_retyped', format('the column %I of its key became %s', k.name, format_type(k.atttypid, null)))::changefeed.problem;
        end if;
    end loop;
    if changefeed.key_index(f.source, f.key_numbers) is null then
        return ('key_not_unique', format('no unique index that is checked at once is left on its key (%s)', array_to_string(f.key_columns, ', ')))::changefeed.problem;
    end if;
    return null;
end;
$$;

CREATE FUNCTION changefeed.tell(feed integer, partition_key text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if pg_trigger_depth() > 1 then
        perform set_config(format('changefeed.mode_%s', feed), 'nested', true);
    end if;
    if pg_sequence_last_value(format('changefeed_log.bell_%s', feed)::regclass)
        > coalesce(pg_sequence_last_value(format('changefeed_log.rung_%s', feed)::regclass), 0) then
        perform changefeed.ring(feed, partition_key);
    end if;
end;
$$;

COMMENT ON FUNCTION changefeed.tell(feed integer, partition_key text) IS 'Lets later statements of the transaction know that one ran inside another''s triggers, and rings the bell of those who sleep.';

CREATE FUNCTION changefeed.text_form(type oid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET quote_all_identifiers TO 'off'
    AS $$
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

CREATE FUNCTION changefeed.text_forms(source oid, numbers smallint[]) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select array_agg(changefeed.text_form(a.atttypid) order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum
$$;

CREATE FUNCTION changefeed.tick(feed integer, force boolean DEFAULT false) RETURNS TABLE(id bigint, at timestamp with time zone, last_seq bigint, xid text, snapshot text, topology bigint, made boolean, quiet boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
    return query execute format('select t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.made, t.quiet '
                                'from changefeed_log.make_tick_%s($1) t', feed) using force;
end;
$_$;

COMMENT ON FUNCTION changefeed.tick(feed integer, force boolean) IS 'Makes a tick if it can bring a change, or if forced, in a transaction of its own; answers the newest tick. quiet: only new numbers of the sequence can bring anything.';

CREATE PROCEDURE changefeed.tick_all()
    LANGUAGE plpgsql
    AS $$
declare
    feed pg_catalog.int4;
begin
    for feed in select f.feed_id from changefeed.feeds f loop
        perform changefeed.tick(feed);
        commit;
    end loop;
end;
$$;

COMMENT ON PROCEDURE changefeed.tick_all() IS 'Makes the ticks that are due, for all feeds: the cadence of idle feeds.';

CREATE FUNCTION changefeed.tick_sql(feed integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

CREATE FUNCTION changefeed.trigger_maker() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select encode(sha256(convert_to(prosrc, getdatabaseencoding())), 'hex')
    from pg_proc where oid = 'changefeed.create_triggers'::regproc
$$;

COMMENT ON FUNCTION changefeed.trigger_maker() IS 'The text of what makes triggers, as one number: feeds.triggers tells which one made those of a feed.';

CREATE FUNCTION changefeed.trigger_problem(f changefeed.feeds) RETURNS changefeed.problem
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return (
        select case
            when t.oid is null then row('trigger_missing', format('the trigger %I is missing',
                replace(p.proname, 'capture_', 'changefeed_')))::changefeed.problem
            else row('trigger_disabled', format('the trigger %I of %s is disabled', t.tgname, t.tgrelid::regclass))::changefeed.problem
        end
        from pg_proc p
        left join pg_trigger t on t.tgfoid = p.oid
        where p.pronamespace = 'changefeed_log'::regnamespace and p.proname > format('capture_%s_', f.feed_id)::name
                and p.proname < format('capture_%s`', f.feed_id)::name
            and p.proname <> format('capture_%s_rekey', f.feed_id)
            and (t.oid is null or t.tgenabled not in ('A', case when f.always then 'A' else 'O' end))
        order by t.oid nulls first
        limit 1
    );
end;
$$;

CREATE FUNCTION changefeed.unusual_sql(f changefeed.feeds, tests_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format($sql$(case when %s then null
            else '%s'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(%s, %L)$sql$, tests_sql, f.source::oid, f.feed_id, f.shape)
$_$;

CREATE FUNCTION changefeed.unwatch(source regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
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

COMMENT ON FUNCTION changefeed.unwatch(source regclass) IS 'Ends the feed of a table: its triggers, its log and its history.';

CREATE FUNCTION changefeed.value_sql(source oid, number smallint, written text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format(
        case
            when changefeed.is_plain_enum(a.atttypid) then
                '(select e.v from pg_catalog.unnest(pg_catalog.enum_range((select t.%3$I from %4$s t limit 0))) e (v) '
                'where (pg_catalog.concat(e.v) collate pg_catalog."C") operator(pg_catalog.=) %1$s)'
            when changefeed.key_type(a.atttypid) = 'binary' then 'pg_catalog.decode(%1$s, ''base64'')'
            else '(%1$s)::%2$s'
        end,
        -- With -1: the name without a length means a length of 1 for some.
        written, format_type(changefeed.base_type(a.atttypid), -1), a.attname, source::regclass)
    from pg_attribute a where a.attrelid = source and a.attnum = number
$_$;

CREATE FUNCTION changefeed.watch(source regclass, partition_key text[] DEFAULT NULL::text[], image text DEFAULT 'captured'::text, doorbell text DEFAULT 'notify'::text, key text[] DEFAULT NULL::text[], image_columns text[] DEFAULT NULL::text[], always boolean DEFAULT false, retention interval DEFAULT NULL::interval) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '5s'
    AS $$
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
        perform changefeed.refuse_unfit_key(watch.source, 'partition_key', wanted.partition_key_numbers);
    end if;
    if image_columns is not null then
        wanted.image_numbers := changefeed.chosen_columns(watch.source, 'image_columns', image_columns);
    end if;
    feed := coalesce(changefeed.same_feed(wanted), changefeed.create_watched(wanted));
    if (select changefeed.has_drifted(feed, f.shape) or f.generator is distinct from changefeed.generator()
            or f.triggers is distinct from changefeed.trigger_maker()
        from changefeed.feeds f where f.feed_id = feed) then
        perform changefeed.renew_capture(feed);
    end if;
    -- An UPDATE of no row takes a lock all the same.
    if retention <> (select f.retention from changefeed.feeds f where f.feed_id = feed) then
        update changefeed.feeds f set retention = watch.retention where f.feed_id = feed;
    end if;
    return feed;
end;
$$;

COMMENT ON FUNCTION changefeed.watch(source regclass, partition_key text[], image text, doorbell text, key text[], image_columns text[], always boolean, retention interval) IS 'Makes a feed of a table and answers its id; again without harm. key: the primary key unless given. partition_key: the key unless given. image: captured or none. image_columns: all unless given. doorbell: notify or poll. always: under session_replication_role = replica too. retention: 7 days unless given.';

CREATE FUNCTION changefeed.written_sql(feed integer, doorbell text, written_test_sql text, partition_key_sql text, margin text DEFAULT '    '::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    select format(case doorbell
        when 'notify' then $sql$
%5$sif %2$s and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or %3$s) then
%5$s    perform changefeed.tell(%1$s, (%4$s));
%5$send if;$sql$
        else $sql$
%5$sif %2$s and pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 then
%5$s    perform pg_catalog.set_config('changefeed.mode_%1$s', 'nested', true);
%5$send if;$sql$ end, feed, written_test_sql, changefeed.bell_is_armed_sql(feed), partition_key_sql, margin)
$_$;

COMMENT ON FUNCTION changefeed.written_sql(feed integer, doorbell text, written_test_sql text, partition_key_sql text, margin text) IS 'PL/pgSQL that follows where changes were appended. written_test_sql: whether there were some. partition_key_sql: a query of one text. margin: before each line.';

CREATE FUNCTION changefeed_log.capture_1_file_tags_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select o.file_id from old_rows o) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select o.file_id from old_rows o) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_file_tags_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select n.file_id from new_rows n) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select n.file_id from new_rows n) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_file_tags_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if true
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from documents.file_tags t) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from documents.file_tags t) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_file_tags_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from (select o.file_id, o.tag from old_rows o union all select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag having pg_catalog.count(*) operator(pg_catalog.=) 1) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from (select o.file_id, o.tag from old_rows o union all select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag having pg_catalog.count(*) operator(pg_catalog.=) 1) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_file_versions_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select o.file_id from old_rows o) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select o.file_id from old_rows o) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_file_versions_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from (select o.id, o.file_id from old_rows o union all select n.id, n.file_id from new_rows n) t group by t.id, t.file_id having pg_catalog.count(*) operator(pg_catalog.=) 1) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (select t.file_id from (select o.id, o.file_id from old_rows o union all select n.id, n.file_id from new_rows n) t group by t.id, t.file_id having pg_catalog.count(*) operator(pg_catalog.=) 1) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_files_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) '' or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if mode operator(pg_catalog.=) 'nested' then
            insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
            select pg_catalog.pg_current_xact_id(), moment,
                changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
            from (
            with now as (
                select t.was, t.alive, t.id as touched_id, t.workspace_id as touched_workspace, f.id, f.workspace_id,
                    f.deleted_at is not null as is_deleted,
                    f.workspace_id operator(pg_catalog.=) t.workspace_id as stays
                from (select o.id, o.workspace_id, true as was, o.deleted_at is null as alive from old_rows o where o.kind operator(pg_catalog.=) 'document') t left join lateral (
                    select f.id, f.workspace_id, f.deleted_at from documents.files f
                    where f.id operator(pg_catalog.=) t.id and f.kind operator(pg_catalog.=) 'document' offset 0) f on true
            )
            select false, 'delete', s.touched_workspace::pg_catalog.text, s.touched_id::pg_catalog.text, null::pg_catalog.text
            from now s where s.was and s.stays is not true
            union all
            select not s.is_deleted and not pg_catalog.bool_or(s.was and s.alive and s.stays),
                case when s.is_deleted then 'delete' else 'upsert' end,
                s.workspace_id::pg_catalog.text, s.id::pg_catalog.text, null::pg_catalog.text
            from now s where s.id is not null group by s.id, s.workspace_id, s.is_deleted
        ) c (created, op, partition_key, key, image);
            if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from old_rows r limit 1));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'delete', o.workspace_id::pg_catalog.text, o.id::pg_catalog.text, null::pg_catalog.text
            from old_rows o where o.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from old_rows r limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_files_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) '' or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if mode operator(pg_catalog.=) 'nested' then
            insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
            select pg_catalog.pg_current_xact_id(), moment,
                changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
            from (
            with now as (
                select t.was, t.alive, t.id as touched_id, t.workspace_id as touched_workspace, f.id, f.workspace_id,
                    f.deleted_at is not null as is_deleted,
                    f.workspace_id operator(pg_catalog.=) t.workspace_id as stays
                from (select n.id, n.workspace_id, false as was, false as alive from new_rows n where n.kind operator(pg_catalog.=) 'document') t left join lateral (
                    select f.id, f.workspace_id, f.deleted_at from documents.files f
                    where f.id operator(pg_catalog.=) t.id and f.kind operator(pg_catalog.=) 'document' offset 0) f on true
            )
            select false, 'delete', s.touched_workspace::pg_catalog.text, s.touched_id::pg_catalog.text, null::pg_catalog.text
            from now s where s.was and s.stays is not true
            union all
            select not s.is_deleted and not pg_catalog.bool_or(s.was and s.alive and s.stays),
                case when s.is_deleted then 'delete' else 'upsert' end,
                s.workspace_id::pg_catalog.text, s.id::pg_catalog.text, null::pg_catalog.text
            from now s where s.id is not null group by s.id, s.workspace_id, s.is_deleted
        ) c (created, op, partition_key, key, image);
            if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from new_rows r limit 1));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select n.deleted_at is null, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from new_rows r limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_files_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if true
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        -1, c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'truncate', '', '', null::pg_catalog.text) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (null::pg_catalog.text));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_files_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) '' or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' or documents.may_rekey_unseen('documents.files'::pg_catalog.regclass)
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if mode operator(pg_catalog.=) 'nested' then
            insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
            select pg_catalog.pg_current_xact_id(), moment,
                changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
            from (
            with now as (
                select t.was, t.alive, t.id as touched_id, t.workspace_id as touched_workspace, f.id, f.workspace_id,
                    f.deleted_at is not null as is_deleted,
                    f.workspace_id operator(pg_catalog.=) t.workspace_id as stays
                from (select o.id, o.workspace_id, true as was, o.deleted_at is null as alive from old_rows o where o.kind operator(pg_catalog.=) 'document' union all select n.id, n.workspace_id, false as was, false as alive from new_rows n where n.kind operator(pg_catalog.=) 'document') t left join lateral (
                    select f.id, f.workspace_id, f.deleted_at from documents.files f
                    where f.id operator(pg_catalog.=) t.id and f.kind operator(pg_catalog.=) 'document' offset 0) f on true
            )
            select false, 'delete', s.touched_workspace::pg_catalog.text, s.touched_id::pg_catalog.text, null::pg_catalog.text
            from now s where s.was and s.stays is not true
            union all
            select not s.is_deleted and not pg_catalog.bool_or(s.was and s.alive and s.stays),
                case when s.is_deleted then 'delete' else 'upsert' end,
                s.workspace_id::pg_catalog.text, s.id::pg_catalog.text, null::pg_catalog.text
            from now s where s.id is not null group by s.id, s.workspace_id, s.is_deleted
        ) c (created, op, partition_key, key, image);
            if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from new_rows r limit 1));
            end if;
            return null;
        end if;
        if mode operator(pg_catalog.=) 'rekeyed' or documents.may_rekey_unseen('documents.files'::pg_catalog.regclass) then
            insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
            select pg_catalog.pg_current_xact_id(), moment,
                changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
            from (
            with pair as (
                select o.id as left_id, o.workspace_id as left_workspace, n.id, n.workspace_id,
                    o.deleted_at is not null as was_deleted, n.deleted_at is not null as is_deleted,
                    o.workspace_id operator(pg_catalog.=) n.workspace_id as stays
                from (select r.* from old_rows r where r.kind operator(pg_catalog.=) 'document') o
                full join (select r.* from new_rows r where r.kind operator(pg_catalog.=) 'document') n
                    on n.id operator(pg_catalog.=) o.id
            )
            select false, 'delete', p.left_workspace::pg_catalog.text, p.left_id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.left_id is not null and p.stays is not true
            union all
            select not p.is_deleted and (p.stays is not true or p.was_deleted),
                case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                p.workspace_id::pg_catalog.text, p.id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.id is not null
        ) c (created, op, partition_key, key, image);
            if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from new_rows r limit 1));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select r.workspace_id::pg_catalog.text from new_rows r limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_rekey() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
begin
    if coalesce(pg_catalog.current_setting('changefeed.mode_1', true), '') operator(pg_catalog.<>) 'nested' then
        perform pg_catalog.set_config('changefeed.mode_1', 'rekeyed', true);
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_runs_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    perform from (select o.input_file_version_id as version_id from old_rows o) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0 for key share) v;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select o.input_file_version_id as version_id from old_rows o) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select o.input_file_version_id as version_id from old_rows o) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_runs_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    perform from (select n.input_file_version_id as version_id from new_rows n) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0 for key share) v;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select n.input_file_version_id as version_id from new_rows n) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select n.input_file_version_id as version_id from new_rows n) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_runs_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if true
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    perform from (select t.input_file_version_id as version_id from documents.runs t) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0 for key share) v;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select t.input_file_version_id as version_id from documents.runs t) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (select t.input_file_version_id as version_id from documents.runs t) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) r.version_id offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.capture_1_runs_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    AS $$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    perform from (
                    select o.input_file_version_id as was_of, n.input_file_version_id as is_of
                    from old_rows o full join new_rows n on n.id operator(pg_catalog.=) o.id
                    where pg_catalog.record_image_ne(
                        row(o.input_file_version_id, o.created_at, o.status, o.started_at, o.completed_at, o.output, o.error),
                        row(n.input_file_version_id, n.created_at, n.status, n.started_at, n.completed_at, n.output, n.error))
                ) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) any (array [r.was_of, r.is_of]) offset 0 for key share) v;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (
                    select o.input_file_version_id as was_of, n.input_file_version_id as is_of
                    from old_rows o full join new_rows n on n.id operator(pg_catalog.=) o.id
                    where pg_catalog.record_image_ne(
                        row(o.input_file_version_id, o.created_at, o.status, o.started_at, o.completed_at, o.output, o.error),
                        row(n.input_file_version_id, n.created_at, n.status, n.started_at, n.completed_at, n.output, n.error))
                ) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) any (array [r.was_of, r.is_of]) offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select c.partition_key from (
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (
                select v.file_id from (
                    select o.input_file_version_id as was_of, n.input_file_version_id as is_of
                    from old_rows o full join new_rows n on n.id operator(pg_catalog.=) o.id
                    where pg_catalog.record_image_ne(
                        row(o.input_file_version_id, o.created_at, o.status, o.started_at, o.completed_at, o.output, o.error),
                        row(n.input_file_version_id, n.created_at, n.status, n.started_at, n.completed_at, n.output, n.error))
                ) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) any (array [r.was_of, r.is_of]) offset 0) v
    ) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        ) c (created, op, partition_key, key, image) limit 1));
    end if;
    return null;
end
$$;

CREATE FUNCTION changefeed_log.items_1(after text, size bigint, max_bytes bigint, max_item_bytes bigint, only_partition_key text, with_bucket boolean) RETURNS TABLE(key text, partition_key text, bucket smallint, version text, wanted boolean, bytes integer, image text, problem text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET row_security TO 'off'
    SET max_parallel_workers_per_gather TO '0'
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
begin
    if $1 is null then
        return query 
        select pg_catalog.pg_current_snapshot()::pg_catalog.text, null::pg_catalog.text, null::pg_catalog.int2,
            coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.seq_1'), 0)::pg_catalog.text,
            null::pg_catalog.bool, null::pg_catalog.int4, null::pg_catalog.text, (null)::pg_catalog.text
        union all
        (select w.key, w.partition_key, case when $6 then changefeed.bucket(w.partition_key) end, w.version, w.wanted, w.bytes,
            case when w.bytes operator(pg_catalog.<=) $4 then w.image end, null::pg_catalog.text
        from (
            select r.*, pg_catalog.sum(r.weight) over (order by r.k1 rows unbounded preceding) as total
            from (select s.*, pg_catalog.octet_length(s.image) as bytes,
                    case when pg_catalog.octet_length(s.image) operator(pg_catalog.<=) $4
                        then pg_catalog.octet_length(s.image) else 0 end as weight
                from (
                with raw as materialized (
                    select f.id, f.workspace_id, f.xmin::pg_catalog.text as version,
                        f.kind operator(pg_catalog.=) 'document' and f.deleted_at is null
                            and ($5 is null or f.workspace_id::pg_catalog.text operator(pg_catalog.=) $5) as wanted
                    from documents.files f  order by f.id limit $2
                )
                select r.id as k1, r.version, r.id::pg_catalog.text as key, r.workspace_id::pg_catalog.text as partition_key,
                    r.wanted, i.image
                from raw r left join documents.documents_image(array (select w.id::pg_catalog.text from raw w where w.wanted)) i
                    on i.key operator(pg_catalog.=) r.id::pg_catalog.text
        ) s) r
        ) w
        where w.total operator(pg_catalog.<=) $3 or w.total operator(pg_catalog.=) w.weight
        order by w.k1);
    else
        return query 
        select pg_catalog.pg_current_snapshot()::pg_catalog.text, null::pg_catalog.text, null::pg_catalog.int2,
            coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.seq_1'), 0)::pg_catalog.text,
            null::pg_catalog.bool, null::pg_catalog.int4, null::pg_catalog.text, (null)::pg_catalog.text
        union all
        (select w.key, w.partition_key, case when $6 then changefeed.bucket(w.partition_key) end, w.version, w.wanted, w.bytes,
            case when w.bytes operator(pg_catalog.<=) $4 then w.image end, null::pg_catalog.text
        from (
            select r.*, pg_catalog.sum(r.weight) over (order by r.k1 rows unbounded preceding) as total
            from (select s.*, pg_catalog.octet_length(s.image) as bytes,
                    case when pg_catalog.octet_length(s.image) operator(pg_catalog.<=) $4
                        then pg_catalog.octet_length(s.image) else 0 end as weight
                from (
                with raw as materialized (
                    select f.id, f.workspace_id, f.xmin::pg_catalog.text as version,
                        f.kind operator(pg_catalog.=) 'document' and f.deleted_at is null
                            and ($5 is null or f.workspace_id::pg_catalog.text operator(pg_catalog.=) $5) as wanted
                    from documents.files f where f.id operator(pg_catalog.>) $1::pg_catalog.uuid order by f.id limit $2
                )
                select r.id as k1, r.version, r.id::pg_catalog.text as key, r.workspace_id::pg_catalog.text as partition_key,
                    r.wanted, i.image
                from raw r left join documents.documents_image(array (select w.id::pg_catalog.text from raw w where w.wanted)) i
                    on i.key operator(pg_catalog.=) r.id::pg_catalog.text
        ) s) r
        ) w
        where w.total operator(pg_catalog.<=) $3 or w.total operator(pg_catalog.=) w.weight
        order by w.k1);
    end if;
end
$_$;

CREATE FUNCTION changefeed_log.live_1(arm boolean, answered bigint, base bigint, base_xmax xid8, base_xip xid8[], known bigint, after bigint, base_floor bigint, base_day oid, most integer) RETURNS TABLE(id bigint, at timestamp with time zone, last_seq bigint, tick_xid text, snapshot text, topology bigint, day bigint, quiet boolean, armed boolean, seq bigint, xid text, changed_at timestamp with time zone, op text, created boolean, partition_key text, key text, image text, image_bytes integer, bucket smallint, annotations text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
        declare
            newest  changefeed_log.tick_1;
            floor   bigint;
            starts  timestamptz;
            reading bigint;
            locked  boolean := false;
            force   constant boolean := false;
            made    boolean;
        begin
            armed := false;
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
                perform setval('changefeed_log.rung_1',
                               greatest(0, least(answered, coalesce(pg_sequence_last_value('changefeed_log.bell_1'), 0))));
            end if;
            -- Before anything is read, so that nobody who waits for it holds a lock on what it empties.
            if not changefeed.is_at_home(1) then
                perform changefeed.adopt_log(1);
            end if;
            -- The bell's lock before that of the sequence, as for those who end a feed.
            if arm then
                perform pg_sequence_last_value('changefeed_log.bell_1');
            end if;
            -- P1: armed first, then the sequence is read; see doorbell.sql.
            if arm and coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0) <= known + 1 then
                perform nextval('changefeed_log.bell_1');
                armed := true;
            end if;
            -- There is news for certain: what is read without the lock would be read again. The day floor's own lock comes
            -- before that one, as for those who date a feed anew.
            if coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0) > known then
                floor := pg_sequence_last_value('changefeed_log.day_1');
                lock table changefeed_log.lock_ticks_1 in share update exclusive mode;
                locked := true;
            end if;
            loop
                floor := pg_sequence_last_value('changefeed_log.day_1');
                starts := changefeed.day_start(floor);
                -- Every tick lies in the day that the floor had when it was made, and the floor never falls.
                select * into newest from changefeed_log.tick_1 t
                    where t.at >= starts and t.at < starts + '24:00' order by t.id desc limit 1;
                if not found then
                    select * into newest from changefeed_log.tick_1 t order by t.id desc limit 1;
                end if;
                -- Null before its first number is drawn.
                reading := coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0);
                if newest.first_xid is null then
                    select t.xid into newest.first_xid from changefeed_log.tick_1 t
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
                    lock table changefeed_log.lock_ticks_1 in share update exclusive mode;
                    locked := true;
                elsif arm and not armed then
                    -- P1: as above, and then all is read once more.
                    perform nextval('changefeed_log.bell_1');
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
                    if floor is not null or changefeed.is_captured_by_day(1) then
                        starts := changefeed.day_start(
                            setval('changefeed_log.day_1', changefeed.day_of(newest.at) << 40));
                    end if;
                end if;
                newest.at := greatest(newest.at, starts);
                newest.reached := greatest(newest.reached, newest.at);
                insert into changefeed_log.tick_1 values (newest.*);
            end if;
            starts := changefeed.day_start(base_floor);
            if newest.id - base between 2 and 16 then
                for id, at, last_seq, tick_xid, snapshot, topology, day in
                    select t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology, t.day
                    from changefeed_log.tick_1 t
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
                or base_floor is distinct from pg_sequence_last_value('changefeed_log.day_1') then
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
                where i.inhrelid = base_day and i.inhparent = 'changefeed_log.log_1'::regclass
                    and not i.inhdetachpending
                union all
                (select null, null, null, null, null, null, null, null, null, l.seq, l.xid::text, l.changed_at, l.op, l.created,
                    l.partition_key, l.key, case when octet_length(l.image) <= 8192 then l.image end, octet_length(l.image),
                    l.bucket, l.annotations
                from changefeed_log.log_1 l
                where l.seq > after and l.xid >= base_xmax and pg_visible_in_snapshot(l.xid, newest.snapshot)
                    and l.changed_at >= starts and l.changed_at < starts + '24:00'
                order by l.seq limit most + 1);
        end;
        $$;

CREATE FUNCTION changefeed_log.make_tick_1(force boolean, arm boolean DEFAULT false, answered bigint DEFAULT NULL::bigint, OUT id bigint, OUT at timestamp with time zone, OUT last_seq bigint, OUT xid text, OUT snapshot text, OUT topology bigint, OUT day bigint, OUT made boolean, OUT quiet boolean, OUT armed boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
        declare
            newest  changefeed_log.tick_1;
            floor   bigint;
            starts  timestamptz;
            reading bigint;
            locked  boolean := false;
            known   constant bigint := null;
        begin
            armed := false;
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
                perform setval('changefeed_log.rung_1',
                               greatest(0, least(answered, coalesce(pg_sequence_last_value('changefeed_log.bell_1'), 0))));
            end if;
            -- Before anything is read, so that nobody who waits for it holds a lock on what it empties.
            if not changefeed.is_at_home(1) then
                perform changefeed.adopt_log(1);
            end if;
            -- The bell's lock before that of the sequence, as for those who end a feed.
            if arm then
                perform pg_sequence_last_value('changefeed_log.bell_1');
            end if;
            -- P1: armed first, then the sequence is read; see doorbell.sql.
            if arm and coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0) <= known + 1 then
                perform nextval('changefeed_log.bell_1');
                armed := true;
            end if;
            -- There is news for certain: what is read without the lock would be read again. The day floor's own lock comes
            -- before that one, as for those who date a feed anew.
            if coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0) > known then
                floor := pg_sequence_last_value('changefeed_log.day_1');
                lock table changefeed_log.lock_ticks_1 in share update exclusive mode;
                locked := true;
            end if;
            loop
                floor := pg_sequence_last_value('changefeed_log.day_1');
                starts := changefeed.day_start(floor);
                -- Every tick lies in the day that the floor had when it was made, and the floor never falls.
                select * into newest from changefeed_log.tick_1 t
                    where t.at >= starts and t.at < starts + '24:00' order by t.id desc limit 1;
                if not found then
                    select * into newest from changefeed_log.tick_1 t order by t.id desc limit 1;
                end if;
                -- Null before its first number is drawn.
                reading := coalesce(pg_sequence_last_value('changefeed_log.seq_1'), 0);
                if newest.first_xid is null then
                    select t.xid into newest.first_xid from changefeed_log.tick_1 t
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
                    lock table changefeed_log.lock_ticks_1 in share update exclusive mode;
                    locked := true;
                elsif arm and not armed then
                    -- P1: as above, and then all is read once more.
                    perform nextval('changefeed_log.bell_1');
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
                    if floor is not null or changefeed.is_captured_by_day(1) then
                        starts := changefeed.day_start(
                            setval('changefeed_log.day_1', changefeed.day_of(newest.at) << 40));
                    end if;
                end if;
                newest.at := greatest(newest.at, starts);
                newest.reached := greatest(newest.reached, newest.at);
                insert into changefeed_log.tick_1 values (newest.*);
            end if;
            id := newest.id;
            at := newest.at;
            last_seq := newest.last_seq;
            xid := newest.xid::text;
            snapshot := newest.snapshot::text;
            topology := newest.topology;
            day := newest.day;
        end;
        $$;

CREATE FUNCTION changefeed_log.places_1(keys text[], low text, high text) RETURNS smallint[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
begin
    return (
        select pg_catalog.array_agg(case
                when u.key::pg_catalog.uuid operator(pg_catalog.<=) $2::pg_catalog.uuid then 0::pg_catalog.int2
                when $3 is null or u.key::pg_catalog.uuid operator(pg_catalog.<=) $3::pg_catalog.uuid then 1::pg_catalog.int2
                else 2::pg_catalog.int2 end order by u.place)
        from pg_catalog.unnest($1) with ordinality u (key, place));
end
$_$;

CREATE FUNCTION documents.capture_body(feed integer, changes_sql text, partition_key_sql text, rare_test_sql text DEFAULT changefeed.is_set_sql('changefeed.annotations'::text), first_sql text DEFAULT ''::text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select changefeed.capture_body(feed, rare_test_sql, '',
        first_sql || changefeed.append_sql(feed, changes_sql) || ';'
        || changefeed.written_sql(feed, 'notify', 'found', partition_key_sql || ' limit 1'))
$$;

CREATE FUNCTION documents.create_capture(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    files_of text;
    version_files text;
    lock_versions text;
begin
    perform changefeed.create_capture_function(feed, 'files_insert', '', documents.files_body(feed, 'insert', $sql$
            select n.deleted_at is null, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        $sql$));
    perform changefeed.create_capture_function(feed, 'files_delete', '', documents.files_body(feed, 'delete', $sql$
            select false, 'delete', o.workspace_id::pg_catalog.text, o.id::pg_catalog.text, null::pg_catalog.text
            from old_rows o where o.kind operator(pg_catalog.=) 'document'
        $sql$));
    -- Most updates change nothing but, say, a title, and need no pairing of old and new rows. Where they may do more: leaving
    -- (another workspace, kind or id) is a delete there and comes before what arrives here. What arrives or is undeleted counts
    -- as created; deleted_at going from null is a delete, and anything else an update.
    perform changefeed.create_rekey_function(feed);
    perform changefeed.create_capture_function(feed, 'files_update', '', documents.files_body(feed, 'update', $sql$
            select false, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        $sql$, $sql$
            with pair as (
                select o.id as left_id, o.workspace_id as left_workspace, n.id, n.workspace_id,
                    o.deleted_at is not null as was_deleted, n.deleted_at is not null as is_deleted,
                    o.workspace_id operator(pg_catalog.=) n.workspace_id as stays
                from (select r.* from old_rows r where r.kind operator(pg_catalog.=) 'document') o
                full join (select r.* from new_rows r where r.kind operator(pg_catalog.=) 'document') n
                    on n.id operator(pg_catalog.=) o.id
            )
            select false, 'delete', p.left_workspace::pg_catalog.text, p.left_id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.left_id is not null and p.stays is not true
            union all
            select not p.is_deleted and (p.stays is not true or p.was_deleted),
                case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                p.workspace_id::pg_catalog.text, p.id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.id is not null
        $sql$));
    perform changefeed.create_capture_function(feed, 'files_truncate', '', changefeed.clearing_body(feed, 'notify'));

    -- A file that is gone by now (a cascade) has made its own delete. Joins are LATERAL with OFFSET 0, and old is compared
    -- with new by grouping or a full join, which is never a loop in a loop: a kept plan must fit the statement of one row and
    -- that of a million alike.
    -- P1, P2, P5: FOR KEY SHARE of what decides whose a change is, also of a file that is no document yet. A move to another workspace
    -- and a change of kind, which a unique index on (id, workspace_id, kind) makes changes of the key, and a move of a version to
    -- another file wait for those who write to the document elsewhere, and they for it. So each change is logged where its document is.
    files_of := $sql$
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (%s) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        $sql$;
    version_files := $sql$
                select v.file_id from (%s) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) %s offset 0) v
    $sql$;
    -- In a statement before that: the one that looks for the file sees it then, also where both came from who was waited for.
    lock_versions := $sql$
    perform from (%s) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) %s offset 0 for key share) v;$sql$;
    perform changefeed.create_capture_function(feed, e.event, '', documents.capture_body(feed, format(files_of, e.file_ids),
        format('select c.partition_key from (%s) c (created, op, partition_key, key, image)', format(files_of, e.file_ids)),
        -- Before a TRUNCATE the transaction may have no id yet.
        case when e.event like '%truncate' then 'true' else changefeed.is_set_sql('changefeed.annotations') end, e.first_sql))
    from (
        select v.event,
            case when v.version_sql is null then v.rows_sql else format(version_files, v.rows_sql, v.version_sql) end as file_ids,
            case when v.version_sql is null then '' else format(lock_versions, v.rows_sql, v.version_sql) end as first_sql
        from (values
            ('file_tags_insert', 'select n.file_id from new_rows n', null),
            ('file_tags_delete', 'select o.file_id from old_rows o', null),
            ('file_tags_update', 'select t.file_id from (select o.file_id, o.tag from old_rows o union all '
                                 'select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag '
                                 'having pg_catalog.count(*) operator(pg_catalog.=) 1', null),
            ('file_tags_truncate', 'select t.file_id from documents.file_tags t', null),
            -- What its runs showed goes with a version, or to the file that it becomes one of.
            ('file_versions_delete', 'select o.file_id from old_rows o', null),
            ('file_versions_update', 'select t.file_id from (select o.id, o.file_id from old_rows o union all '
                                     'select n.id, n.file_id from new_rows n) t group by t.id, t.file_id '
                                     'having pg_catalog.count(*) operator(pg_catalog.=) 1', null),
            ('runs_insert', 'select n.input_file_version_id as version_id from new_rows n', 'r.version_id'),
            ('runs_delete', 'select o.input_file_version_id as version_id from old_rows o', 'r.version_id'),
            ('runs_truncate', 'select t.input_file_version_id as version_id from documents.runs t', 'r.version_id'),
            -- By bytes, as images show them; created_at says which run is the last one.
            ('runs_update', $sql$
                    select o.input_file_version_id as was_of, n.input_file_version_id as is_of
                    from old_rows o full join new_rows n on n.id operator(pg_catalog.=) o.id
                    where pg_catalog.record_image_ne(
                        row(o.input_file_version_id, o.created_at, o.status, o.started_at, o.completed_at, o.output, o.error),
                        row(n.input_file_version_id, n.created_at, n.status, n.started_at, n.completed_at, n.output, n.error))
                $sql$, 'any (array [r.was_of, r.is_of])')
        ) v (event, rows_sql, version_sql)
    ) e;
    perform documents.create_snapshot_functions(feed);
end;
$_$;

COMMENT ON FUNCTION documents.create_capture(feed integer) IS 'Writes the trigger functions of the documents feed, anew if they are there.';

CREATE FUNCTION documents.create_snapshot_functions(feed integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    settings constant text := 'set search_path = pg_catalog, pg_temp set timezone = ''UTC'' ';
    rows_sql constant text := $sql$
                with raw as materialized (
                    select f.id, f.workspace_id, f.xmin::pg_catalog.text as version,
                        f.kind operator(pg_catalog.=) 'document' and f.deleted_at is null
                            and ($5 is null or f.workspace_id::pg_catalog.text operator(pg_catalog.=) $5) as wanted
                    from documents.files f %s order by f.id limit $2
                )
                select r.id as k1, r.version, r.id::pg_catalog.text as key, r.workspace_id::pg_catalog.text as partition_key,
                    r.wanted, i.image
                from raw r left join documents.documents_image(array (select w.id::pg_catalog.text from raw w where w.wanted)) i
                    on i.key operator(pg_catalog.=) r.id::pg_catalog.text
        $sql$;
begin
    perform changefeed.create_items_function(feed, settings, format($body$
begin
    if $1 is null then
        return query %s;
    else
        return query %s;
    end if;
end
$body$, changefeed.items_sql(feed, format(rows_sql, ''), 1),
        changefeed.items_sql(feed, format(rows_sql, 'where f.id operator(pg_catalog.>) $1::pg_catalog.uuid'), 1)));
    perform changefeed.create_places_function(feed, settings, $body$
begin
    return (
        select pg_catalog.array_agg(case
                when u.key::pg_catalog.uuid operator(pg_catalog.<=) $2::pg_catalog.uuid then 0::pg_catalog.int2
                when $3 is null or u.key::pg_catalog.uuid operator(pg_catalog.<=) $3::pg_catalog.uuid then 1::pg_catalog.int2
                else 2::pg_catalog.int2 end order by u.place)
        from pg_catalog.unnest($1) with ordinality u (key, place));
end
$body$);
end;
$_$;

COMMENT ON FUNCTION documents.create_snapshot_functions(feed integer) IS 'Writes the functions that snapshots of the documents are read with, anew if they are there.';

CREATE FUNCTION documents.documents_image(keys text[]) RETURNS TABLE(key text, partition_key text, image text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
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

COMMENT ON FUNCTION documents.documents_image(keys text[]) IS 'The documents of these ids that are alive now, as lists show them: the file, its tags, its last run.';

CREATE FUNCTION documents.files_body(feed integer, event text, changes_sql text, rekeyed_sql text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    newest  text := case event when 'delete' then 'old_rows' else 'new_rows' end;
    touched text := concat_ws(' union all ',
        case when event <> 'insert' then 'select o.id, o.workspace_id, true as was, o.deleted_at is null as alive '
            'from old_rows o where o.kind operator(pg_catalog.=) ''document''' end,
        case when event <> 'delete' then 'select n.id, n.workspace_id, false as was, false as alive '
            'from new_rows n where n.kind operator(pg_catalog.=) ''document''' end);
    settled text := format($sql$
            with now as (
                select t.was, t.alive, t.id as touched_id, t.workspace_id as touched_workspace, f.id, f.workspace_id,
                    f.deleted_at is not null as is_deleted,
                    f.workspace_id operator(pg_catalog.=) t.workspace_id as stays
                from (%s) t left join lateral (
                    select f.id, f.workspace_id, f.deleted_at from documents.files f
                    where f.id operator(pg_catalog.=) t.id and f.kind operator(pg_catalog.=) 'document' offset 0) f on true
            )
            select false, 'delete', s.touched_workspace::pg_catalog.text, s.touched_id::pg_catalog.text, null::pg_catalog.text
            from now s where s.was and s.stays is not true
            union all
            select not s.is_deleted and not pg_catalog.bool_or(s.was and s.alive and s.stays),
                case when s.is_deleted then 'delete' else 'upsert' end,
                s.workspace_id::pg_catalog.text, s.id::pg_catalog.text, null::pg_catalog.text
            from now s where s.id is not null group by s.id, s.workspace_id, s.is_deleted
        $sql$, touched);
    any_key text := format('select r.workspace_id::pg_catalog.text from %I r limit 1', newest);
    rare    text := $sql$
        if %s then%s;%s
            return null;
        end if;$sql$;
    told    text := changefeed.written_sql(feed, 'notify', 'found', any_key, '            ');
    unseen  text := $sql$documents.may_rekey_unseen('documents.files'::pg_catalog.regclass)$sql$;
begin
    return changefeed.capture_body(feed,
        concat_ws(' or ', changefeed.is_set_sql('changefeed.mode_' || feed), changefeed.is_set_sql('changefeed.annotations'),
                  case when rekeyed_sql is not null then unseen end),
        format(rare, $sql$mode operator(pg_catalog.=) 'nested'$sql$,
               changefeed.append_sql(feed, settled, margin => '            '), told)
        || case when rekeyed_sql is null then '' else format(
               rare, $sql$mode operator(pg_catalog.=) 'rekeyed' or $sql$ || unseen,
               changefeed.append_sql(feed, rekeyed_sql, margin => '            '), told) end,
        changefeed.append_sql(feed, changes_sql) || ';' || changefeed.written_sql(feed, 'notify', 'found', any_key));
end;
$_$;

CREATE FUNCTION documents.may_rekey_unseen(files regclass) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    return changefeed.may_see_old_triggers(files)
        or changefeed.may_rekey_unseen(files)
        or not exists (
            -- It fires where the trigger of updates does, under session_replication_role = replica too.
            select from pg_trigger r join pg_trigger u on u.tgrelid = r.tgrelid and u.tgname = 'changefeed_update'
            where r.tgrelid = files and r.tgname = 'changefeed_rekey' and r.tgenabled in ('A', u.tgenabled));
end;
$$;

ALTER TABLE changefeed.feeds ALTER COLUMN feed_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME changefeed.feeds_feed_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE changefeed.functions (
    set text NOT NULL,
    topic text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE changefeed.functions IS 'The files of functions as `changefeed migrate` applied them last, with their sha256.';

CREATE TABLE changefeed.migrations (
    set text NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE changefeed.migrations IS 'The steps that `changefeed migrate` applied, and the sha256 of each file.';

CREATE TABLE changefeed.retention_runs (
    feed_id integer NOT NULL,
    ran_at timestamp with time zone NOT NULL,
    steps integer NOT NULL,
    problem text
);

COMMENT ON TABLE changefeed.retention_runs IS 'The last retention run of each feed; problem is null when all was done.';

CREATE UNLOGGED SEQUENCE changefeed_log.bell_1
    START WITH 1000
    INCREMENT BY 1000
    MINVALUE 0
    NO MAXVALUE
    CACHE 1;

CREATE SEQUENCE changefeed_log.day_1
    START WITH 0
    INCREMENT BY 1
    MINVALUE 0
    NO MAXVALUE
    CACHE 1;

CREATE TABLE changefeed_log.lock_retention_1 (
);

COMMENT ON TABLE changefeed_log.lock_retention_1 IS 'Its lock (SHARE UPDATE EXCLUSIVE): one changes the days at a time.';

CREATE TABLE changefeed_log.lock_ticks_1 (
);

COMMENT ON TABLE changefeed_log.lock_ticks_1 IS 'Its lock (SHARE UPDATE EXCLUSIVE): one makes a tick at a time.';

CREATE SEQUENCE changefeed_log.seq_1
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE changefeed_log.log_1 (
    xid xid8 NOT NULL,
    seq bigint DEFAULT nextval('changefeed_log.seq_1'::regclass) NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    bucket smallint NOT NULL,
    created boolean NOT NULL,
    op text NOT NULL,
    partition_key text NOT NULL,
    key text NOT NULL,
    image text,
    annotations text
)
PARTITION BY RANGE (changed_at);

CREATE UNLOGGED SEQUENCE changefeed_log.rung_1
    START WITH 1
    INCREMENT BY 1
    MINVALUE 0
    NO MAXVALUE
    CACHE 1;

CREATE TABLE changefeed_log.tick_1 (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    last_seq bigint NOT NULL,
    xid xid8 NOT NULL,
    snapshot pg_snapshot NOT NULL,
    topology bigint NOT NULL,
    reached timestamp with time zone NOT NULL,
    day bigint,
    first_xid xid8
)
PARTITION BY RANGE (at);

CREATE TABLE documents.file_tags (
    file_id uuid NOT NULL,
    tag text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE documents.file_versions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    file_id uuid NOT NULL,
    version integer NOT NULL,
    byte_size bigint NOT NULL,
    content_type text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT file_versions_byte_size_check CHECK ((byte_size >= 0)),
    CONSTRAINT file_versions_version_check CHECK ((version > 0))
);

CREATE TABLE documents.files (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    workspace_id uuid NOT NULL,
    kind text DEFAULT 'document'::text NOT NULL,
    title text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone
);

COMMENT ON COLUMN documents.files.kind IS 'Documents are of kind "document"; other kinds are not part of the feed.';

COMMENT ON COLUMN documents.files.deleted_at IS 'Set: deleted, may come back. Null: alive.';

CREATE TABLE documents.run_fields (
    run_id uuid NOT NULL,
    name text NOT NULL,
    value jsonb
);

COMMENT ON TABLE documents.run_fields IS 'Wide: written in the transaction that completes the run, and makes no change of its own.';

CREATE TABLE documents.run_table_columns (
    run_id uuid NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    cells jsonb DEFAULT '[]'::jsonb NOT NULL
);

COMMENT ON TABLE documents.run_table_columns IS 'Wide, as run_fields.';

CREATE TABLE documents.runs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    input_file_version_id uuid NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    output jsonb,
    error text,
    progress real DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON COLUMN documents.runs.progress IS 'Changes often and is not part of a document: it makes no change.';

CREATE TABLE documents.workspaces (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY changefeed.feeds
    ADD CONSTRAINT feeds_name_key UNIQUE (name);

ALTER TABLE ONLY changefeed.feeds
    ADD CONSTRAINT feeds_pkey PRIMARY KEY (feed_id);

ALTER TABLE ONLY changefeed.functions
    ADD CONSTRAINT functions_pkey PRIMARY KEY (set, topic);

ALTER TABLE ONLY changefeed.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (set, version);

ALTER TABLE ONLY changefeed.partitions
    ADD CONSTRAINT partitions_pkey PRIMARY KEY (feed_id, partition_id);

ALTER TABLE ONLY changefeed.retention_runs
    ADD CONSTRAINT retention_runs_pkey PRIMARY KEY (feed_id);

ALTER TABLE ONLY documents.file_tags
    ADD CONSTRAINT file_tags_pkey PRIMARY KEY (file_id, tag);

ALTER TABLE ONLY documents.file_versions
    ADD CONSTRAINT file_versions_file_id_version_key UNIQUE (file_id, version);

ALTER TABLE ONLY documents.file_versions
    ADD CONSTRAINT file_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY documents.files
    ADD CONSTRAINT files_pkey PRIMARY KEY (id);

ALTER TABLE ONLY documents.run_fields
    ADD CONSTRAINT run_fields_pkey PRIMARY KEY (run_id, name);

ALTER TABLE ONLY documents.run_table_columns
    ADD CONSTRAINT run_table_columns_pkey PRIMARY KEY (run_id, table_name, column_name);

ALTER TABLE ONLY documents.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY documents.workspaces
    ADD CONSTRAINT workspaces_pkey PRIMARY KEY (id);

CREATE INDEX log_1_bucket_seq_idx ON ONLY changefeed_log.log_1 USING btree (bucket, seq);

CREATE INDEX log_1_seq_idx ON ONLY changefeed_log.log_1 USING btree (seq);

CREATE INDEX log_1_xid_seq_idx ON ONLY changefeed_log.log_1 USING btree (xid, seq);

CREATE INDEX tick_1_id_idx ON ONLY changefeed_log.tick_1 USING btree (id);

CREATE INDEX tick_1_last_seq_id_idx ON ONLY changefeed_log.tick_1 USING btree (last_seq, id);

CREATE INDEX tick_1_reached_id_idx ON ONLY changefeed_log.tick_1 USING btree (reached, id);

CREATE UNIQUE INDEX files_id_workspace_id_kind ON documents.files USING btree (id, workspace_id, kind);

CREATE INDEX files_workspace_id_idx ON documents.files USING btree (workspace_id);

CREATE INDEX runs_input_file_version_id_created_at_idx ON documents.runs USING btree (input_file_version_id, created_at);

CREATE TRIGGER changefeed_delete AFTER DELETE ON documents.file_tags REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_tags_delete();

CREATE TRIGGER changefeed_delete AFTER DELETE ON documents.file_versions REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_versions_delete();

CREATE TRIGGER changefeed_delete AFTER DELETE ON documents.files REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_files_delete();

CREATE TRIGGER changefeed_delete AFTER DELETE ON documents.runs REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_runs_delete();

CREATE TRIGGER changefeed_insert AFTER INSERT ON documents.file_tags REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_tags_insert();

CREATE TRIGGER changefeed_insert AFTER INSERT ON documents.files REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_files_insert();

CREATE TRIGGER changefeed_insert AFTER INSERT ON documents.runs REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_runs_insert();

CREATE TRIGGER changefeed_rekey AFTER UPDATE OF id, workspace_id, kind, deleted_at ON documents.files FOR EACH ROW WHEN (record_image_ne(ROW(old.id, old.workspace_id, old.kind, old.deleted_at), ROW(new.id, new.workspace_id, new.kind, new.deleted_at))) EXECUTE FUNCTION changefeed_log.capture_1_rekey();

CREATE TRIGGER changefeed_truncate BEFORE TRUNCATE ON documents.file_tags FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_tags_truncate();

CREATE TRIGGER changefeed_truncate AFTER TRUNCATE ON documents.files FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_files_truncate();

CREATE TRIGGER changefeed_truncate BEFORE TRUNCATE ON documents.runs FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_runs_truncate();

CREATE TRIGGER changefeed_update AFTER UPDATE ON documents.file_tags REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_tags_update();

CREATE TRIGGER changefeed_update AFTER UPDATE ON documents.file_versions REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_file_versions_update();

CREATE TRIGGER changefeed_update AFTER UPDATE ON documents.files REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_files_update();

CREATE TRIGGER changefeed_update AFTER UPDATE ON documents.runs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_runs_update();

ALTER TABLE ONLY changefeed.partitions
    ADD CONSTRAINT partitions_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES changefeed.feeds(feed_id) ON DELETE CASCADE;

ALTER TABLE ONLY changefeed.retention_runs
    ADD CONSTRAINT retention_runs_feed_id_fkey FOREIGN KEY (feed_id) REFERENCES changefeed.feeds(feed_id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.file_tags
    ADD CONSTRAINT file_tags_file_id_fkey FOREIGN KEY (file_id) REFERENCES documents.files(id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.file_versions
    ADD CONSTRAINT file_versions_file_id_fkey FOREIGN KEY (file_id) REFERENCES documents.files(id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.files
    ADD CONSTRAINT files_workspace_id_fkey FOREIGN KEY (workspace_id) REFERENCES documents.workspaces(id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.run_fields
    ADD CONSTRAINT run_fields_run_id_fkey FOREIGN KEY (run_id) REFERENCES documents.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.run_table_columns
    ADD CONSTRAINT run_table_columns_run_id_fkey FOREIGN KEY (run_id) REFERENCES documents.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY documents.runs
    ADD CONSTRAINT runs_input_file_version_id_fkey FOREIGN KEY (input_file_version_id) REFERENCES documents.file_versions(id) ON DELETE CASCADE;
