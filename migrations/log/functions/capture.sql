-- Capture: one trigger function a feed and event, with static SQL, in the transaction of the writer.

-- NOTIFY holds one lock of the whole cluster until its commit is flushed, so the bell rings at most once in 2 ms. The
-- mark is a sequence because it must count at once, for everybody, whatever becomes of the transaction. Whom a ring
-- comes too early for is found by the readers' polls.
create or replace function changefeed.doorbell_sql(feed integer, doorbell text, partition_key_sql text) returns text
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
create or replace function changefeed.checked_annotations(annotations text) returns text
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
create or replace function changefeed.append_sql(feed integer, changes_sql text) returns text
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

create or replace function changefeed.if_found(statements text) returns text
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
create or replace function changefeed.pinned_settings(f changefeed.feeds) returns text
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
        when f.image_mode = 'none' then 'null::text'
        when f.image_numbers is null and bool_and(a.attgenerated <> 'v') then format('row_to_json(%I.*)::text', row_name)
        else format('(select row_to_json(i) from (select %s) i)::text',
            string_agg(format('%I.%I', row_name, a.attname), ', ' order by a.attnum)
                filter (where a.attgenerated <> 'v' and (f.image_numbers is null or a.attnum = any (f.image_numbers))))
    end
    from pg_attribute a where a.attrelid = f.source and a.attnum > 0 and not a.attisdropped
$$;

create or replace function changefeed.create_capture_function(feed integer, event text, settings text, body text) returns void
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
create or replace function changefeed.mark_nested_sql(feed integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    if pg_trigger_depth() > 1 then
        perform set_config('changefeed.nested_%s', 'on', true);
    end if;$sql$, feed)
$$;

-- row_security off: a table hidden by a policy is an error, not a table of deleted rows.
create or replace function changefeed.unless_nested_sql(f changefeed.feeds, usual text, settled text) returns text
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
create or replace function changefeed.settled_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
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
create or replace function changefeed.paired_sql(pk_new text, pk_old text, key_new text, key_old text, image text) returns text
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
create or replace function changefeed.create_statement_capture(f changefeed.feeds) returns void
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
create or replace function changefeed.create_row_capture(f changefeed.feeds) returns void
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
create or replace function changefeed.let_capture_read(source regclass) returns void
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

create or replace function changefeed.create_capture(feed integer) returns void
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

create or replace function changefeed.create_triggers(f changefeed.feeds) returns void
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
