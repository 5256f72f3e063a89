-- Capture: one trigger function a feed and event, with static SQL, in the transaction of the writer. It runs as
-- changefeed_capture, which may append to logs and read watched tables, and nothing else.
--
-- Every name, cast and operator of that SQL is written with its schema, so that it means the same whatever search_path,
-- temporary objects and operators the writer has; no SET clause is paid for it. Nothing in it calls what the owner of a
-- table or of a type may supply: see changefeed.is_built_in.
--
-- The usual way is one test, one INSERT, and one test. Each expression and each call more costs every statement of every
-- writer about 0.5 us: PostgreSQL prepares it anew in each transaction, and looks whether the role may call the function. What
-- is rare stands behind the first test: annotations, a key that changed, and the slow way, for a statement inside another
-- one's triggers and for a table that is not as it was when the function was made. docs/providers/postgres.md walks a made
-- function line by line.

create or replace function changefeed.generator() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select encode(sha256(string_agg(f.checksum, ' ' order by f.set, f.topic)::bytea), 'hex')
    from changefeed.functions f where (f.set, f.topic) in (('log', 'capture'), ('log', 'keys'), ('log', 'snapshot'), ('documents', 'feed'))
$$;
comment on function changefeed.generator() is
    'The text of what makes capture functions, as one number: feeds.generator tells which one made those of a feed.';

-- Rings for those who sleep only: NOTIFY holds one lock of the whole cluster until its commit is flushed. Why nobody is
-- missed: see doorbell.sql.
create or replace function changefeed.bell_is_armed_sql(feed integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$pg_catalog.pg_sequence_last_value('changefeed_log.bell_%1$s'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_%1$s'::pg_catalog.regclass), 0)$sql$, feed)
$$;
comment on function changefeed.bell_is_armed_sql(integer) is
    'SQL that tells whether somebody sleeps; null where nobody ever did.';

-- What is seldom to be done after changes were appended.
create or replace function changefeed.tell(feed integer, partition_key text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
comment on function changefeed.tell(integer, text) is
    'Lets later statements of the transaction know that one ran inside another''s triggers, and rings the bell of those who sleep.';

-- What a transaction says of itself by set_config('changefeed.annotations', ..., true). Nothing of it is repeated in an
-- error: it may name a person.
create or replace function changefeed.checked_annotations(annotations text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
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

-- When a change is made: the clock, but no earlier than the day floor (decisions/0021). An uncorrelated subquery: PostgreSQL
-- makes it once a statement, when its first row asks for it, which is after that row's xid.
create or replace function changefeed.changed_at_sql(feed integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$(
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(%1$s, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_%1$s'::pg_catalog.regclass)) as day offset 0) d)$sql$,
        feed)
$$;

-- xid comes first among the columns of a log, so that it is assigned before a number is drawn: a tick between the two
-- would take the number for one that is already accounted for; and before the day floor is read.
create or replace function changefeed.append_sql(
    feed integer, changes_sql text, said_sql text default 'said', changed_at_sql text default 'moment',
    bucket_sql text default 'changefeed.bucket(c.partition_key)', margin text default '    '
) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
%6$sinsert into changefeed_log.log_%1$s (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
%6$sselect pg_catalog.pg_current_xact_id(), %4$s,
%6$s    %5$s, c.created, c.op, c.partition_key, c.key, c.image, %3$s
%6$sfrom (%2$s) c (created, op, partition_key, key, image)$sql$,
        feed, changes_sql, said_sql, changed_at_sql, bucket_sql, margin)
$$;
comment on function changefeed.append_sql(integer, text, text, text, text, text) is
    'SQL that appends changes to a log. changes_sql: a query of created, op, partition_key, key, image. said_sql, '
    'changed_at_sql, bucket_sql: expressions of the annotations, of the time and of the bucket. margin: before each line.';

-- What concerns every partition lies in a bucket of its own, where readers of each look for it.
create or replace function changefeed.append_mark_sql(
    feed integer, changes_sql text, said_sql text default 'said', changed_at_sql text default 'moment'
) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.append_sql(feed, changes_sql, said_sql, changed_at_sql, '-1') $$;

-- The settings that texts of a type depend on. A key is written by a cast, an image as JSON, which has one form of a time.
create or replace function changefeed.settings_of(type oid, of_key boolean) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- SET clauses, each of which costs every statement 0.6 us: only those that the columns need.
create or replace function changefeed.pinned_settings(f changefeed.feeds) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- SQL for parts of a change, from a row variable.

create or replace function changefeed.key_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.key_numbers)) $$;

create or replace function changefeed.partition_key_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.key_text(f.source, row_name, changefeed.column_names(f.source, f.partition_key_numbers)) $$;

-- Transition rows do not hold what a virtual generated column would be: the image goes without it.
create or replace function changefeed.image_of(f changefeed.feeds, row_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- Written by its owner and given to changefeed_capture: only who may make something in a schema can be given it there, and
-- that role may not for longer than the gift takes. The lock: one at a time writes functions and gives them away.
create or replace function changefeed.create_capture_function(feed integer, event text, settings text, body text)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
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
comment on function changefeed.create_capture_function(integer, text, text, text) is
    'Makes a trigger function changefeed_log.capture_<feed>_<event>. It runs as changefeed_capture, so that writers of the '
    'table need no rights on the log. settings: its SET clauses.';

-- said: the annotations of the transaction, where it has some.
-- mode: what this transaction has done before that the usual way does not fit; read where the usual way may not fit.
-- written: how many changes the slow way has appended.
-- moment: when the change is made: by the clock, where that is within the day of the day floor. The floor is looked at when
-- the transaction has an id: whoever has changed a row has one. This is day_start in one call less: 86400 s are 2^40. Where
-- changes were counted it comes out later than the day, and what is rare decides.
-- were: the settings of the session while the slow way runs.
create or replace function changefeed.capture_body(feed integer, rare_test_sql text, rare_sql text, usual_sql text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function changefeed.capture_body(integer, text, text, text) is
    'The body of a capture function. rare_test_sql: an expression; where it is true, rare_sql runs before usual_sql, '
    'PL/pgSQL both.';

-- True, or null.
create or replace function changefeed.is_set_sql(setting text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select format($sql$pg_catalog.current_setting(%L, true) operator(pg_catalog.<>) ''$sql$, setting) $$;

-- A statement inside another one's triggers is captured before the outer one, whose transition rows are older by then.
-- Once that has happened in a transaction, its statements log their keys as the table shows them now.
create or replace function changefeed.written_sql(
    feed integer, doorbell text, written_test_sql text, partition_key_sql text, margin text default '    '
) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format(case doorbell
        when 'notify' then $sql$
%5$sif %2$s and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or %3$s) then
%5$s    perform changefeed.tell(%1$s, (%4$s));
%5$send if;$sql$
        else $sql$
%5$sif %2$s and pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 then
%5$s    perform pg_catalog.set_config('changefeed.mode_%1$s', 'nested', true);
%5$send if;$sql$ end, feed, written_test_sql, changefeed.bell_is_armed_sql(feed), partition_key_sql, margin)
$$;
comment on function changefeed.written_sql(integer, text, text, text, text) is
    'PL/pgSQL that follows where changes were appended. written_test_sql: whether there were some. partition_key_sql: a '
    'query of one text. margin: before each line.';

-- The SQL is made at the time, of the table as it is by then, and where the writer's settings are not to be seen.
create or replace function changefeed.slow_way_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(%1$s, %2$L, %3$L)%4$s;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);%5$s
            return null;$sql$, f.feed_id, old_rows, new_rows,
        case f.capture when 'row' then ' using said, old, new' else ' using said' end,
        changefeed.written_sql(f.feed_id, f.doorbell, 'written operator(pg_catalog.>) 0', 'null::pg_catalog.text',
                               '            '))
$$;

-- Whether what fires may be unknown to who makes a plan: above READ COMMITTED a query sees the triggers of its snapshot. Called
-- immutable, so that it is asked when a plan is made, and anew after any change of the table, which the call names.
create or replace function changefeed.may_see_old_triggers(source regclass) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return current_setting('transaction_isolation') not in ('read committed', 'read uncommitted');
end;
$$;

-- The check of the shape is an immutable call with constants: PostgreSQL makes it when it makes the plan of the expression,
-- and makes that anew after any change of the table that the plan names, by a constant that is null where the usual way does
-- not fit. It costs a statement nothing, and comes before any SQL that names a column.
create or replace function changefeed.unusual_sql(f changefeed.feeds, tests_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$(case when %s then null
            else '%s'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(%s, %L)$sql$, tests_sql, f.source::oid, f.feed_id, f.shape)
$$;

create or replace function changefeed.table_body(
    f changefeed.feeds, event text, usual_sql text, rekeyed_sql text, partition_key_sql text
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- Only in old: gone under that key. Only in new: came to be under it. A row whose partition key changed leaves one
-- logical partition and enters another; the delete comes first, or who mirrors by key alone would end without the row.
create or replace function changefeed.paired_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

create or replace function changefeed.inserted_sql(f changefeed.feeds, new_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('select true, ''upsert'', %s, %s, %s from %s n', changefeed.partition_key_of(f, 'n'),
                  changefeed.key_of(f, 'n'), changefeed.image_of(f, 'n'), new_rows)
$$;

create or replace function changefeed.deleted_sql(f changefeed.feeds, old_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('select false, ''delete'', %s, %s, null::pg_catalog.text from %s o', changefeed.partition_key_of(f, 'o'),
                  changefeed.key_of(f, 'o'), old_rows)
$$;

-- A BEFORE trigger may change a key that the statement does not name.
create or replace function changefeed.may_rekey_unseen(source oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- 19: for each row, before, update.
    select exists (select from pg_trigger t where t.tgrelid = source and not t.tgisinternal and t.tgtype & 19 = 19)
$$;

drop function if exists changefeed.clearing_body(integer, text);

-- rest_sql: PL/pgSQL that follows the mark.
create or replace function changefeed.clearing_body(feed integer, doorbell text, rest_sql text default '') returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.capture_body(feed, 'true', '',
        changefeed.append_mark_sql(feed, 'select false, ''truncate'', '''', '''', null::pg_catalog.text') || ';' || rest_sql
        || changefeed.written_sql(feed, doorbell, 'found', 'null::pg_catalog.text'))
$$;

-- Triggers of the same TRUNCATE may have written to the table before this one runs: those rows are there, and come again after the mark.
create or replace function changefeed.table_clearing_body(f changefeed.feeds) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.clearing_body(f.feed_id, f.doorbell, format($sql$
    if mode operator(pg_catalog.=) 'nested' then
        were := changefeed.pin_settings();
        execute changefeed.left_now_sql(%s) using said;
        perform changefeed.restore_settings(were);
    end if;$sql$, f.feed_id))
$$;

-- An update that changes no key, the usual one, needs no pairing of old and new rows: a row trigger that PostgreSQL fires only
-- for statements that name a column of the key tells the statement's function, for the rest of the transaction.
create or replace function changefeed.create_rekey_function(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- The functions of one watched table.
create or replace function changefeed.create_statement_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

-- The same for triggers that fire once a row: on a partitioned table, whose own statement triggers do not see what is
-- written to a partition directly, and under logical replication, which fires no statement triggers.
create or replace function changefeed.create_row_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.create_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function changefeed.create_capture(integer) is 'Writes the trigger functions of a feed, anew if they are there.';

create or replace function changefeed.create_triggers(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;

create or replace function changefeed.trigger_maker() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select encode(sha256(convert_to(prosrc, getdatabaseencoding())), 'hex')
    from pg_proc where oid = 'changefeed.create_triggers'::regproc
$$;
comment on function changefeed.trigger_maker() is
    'The text of what makes triggers, as one number: feeds.triggers tells which one made those of a feed.';

-- The slow way looks at the table.
create or replace function changefeed.let_capture_read(source regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
