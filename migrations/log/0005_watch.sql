-- watch: makes a feed of a plain table.

-- Text forms of these types depend on the session; a key or an image must not.
create function changefeed.pinned_settings(source regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'set search_path = pg_catalog, pg_temp' || case when exists (
        select from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = source and a.attnum > 0 and not a.attisdropped
            and (t.typtype = 'd' or t.typcategory not in ('N', 'B', 'S') or t.oid in ('money'::regtype, 'float4'::regtype, 'float8'::regtype))
            and t.oid not in ('uuid'::regtype, 'json'::regtype, 'jsonb'::regtype)
    ) then ' set timezone = ''UTC'' set datestyle = ''ISO'' set intervalstyle = ''postgres'''
           ' set bytea_output = ''hex'' set extra_float_digits = 1' else '' end
$$;

-- The triggers of one watched table. An update that changes no key, the usual one, needs no pairing of old and new rows:
-- a row trigger that fires only for changed keys tells the statement's function, for the rest of the transaction.
create function changefeed.create_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    f        changefeed.feeds;
    settings text;
    image    text;
    bell_new text;
    bell_old text;
    key_new  text;
    key_old  text;
    pk_new   text;
    pk_old   text;
begin
    select * into strict f from changefeed.feeds where feed_id = feed;
    settings := changefeed.pinned_settings(f.source);
    key_new := changefeed.key_text(f.source, 'n', f.key_columns);
    key_old := changefeed.key_text(f.source, 'o', f.key_columns);
    pk_new := changefeed.key_text(f.source, 'n', f.partition_key_columns);
    pk_old := changefeed.key_text(f.source, 'o', f.partition_key_columns);
    image := case f.image_mode when 'captured' then 'row_to_json(n.*)::text' else 'null::text' end;
    bell_new := changefeed.if_found(changefeed.mark_nested_sql(feed)
        || changefeed.doorbell_sql(feed, f.doorbell, format('select %s from new_rows n', pk_new)));
    bell_old := changefeed.if_found(changefeed.mark_nested_sql(feed)
        || changefeed.doorbell_sql(feed, f.doorbell, format('select %s from old_rows o', pk_old)));

    perform changefeed.create_capture_function(feed, 'insert', settings, changefeed.unless_nested_sql(f,
        changefeed.append_sql(feed, format('select true, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image)),
        changefeed.append_sql(feed, changefeed.settled_sql(f, image, false, true))) || bell_new);
    perform changefeed.create_capture_function(feed, 'delete', settings, changefeed.unless_nested_sql(f,
        changefeed.append_sql(feed, format('select false, ''delete'', %s, %s, null::text from old_rows o', pk_old, key_old)),
        changefeed.append_sql(feed, changefeed.settled_sql(f, image, true, false))) || bell_old);
    perform changefeed.create_capture_function(feed, 'rekey', 'set search_path = pg_catalog, pg_temp', format($sql$
    perform set_config('changefeed.rekeyed_%s', 'on', true);$sql$, feed));
    perform changefeed.create_capture_function(feed, 'update', settings, changefeed.unless_nested_sql(f, format($sql$
    if current_setting('changefeed.rekeyed_%s', true) = 'on' then%s
    else%s
    end if;$sql$, feed,
        changefeed.append_sql(feed, changefeed.paired_sql(pk_new, pk_old, key_new, key_old, image)),
        changefeed.append_sql(feed, format(
            'select false, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image))),
        changefeed.append_sql(feed, changefeed.settled_sql(f, image, true, true))) || bell_new);
    perform changefeed.create_capture_function(feed, 'truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, f.doorbell, 'select null::text'));
    perform changefeed.create_triggers(f);
end;
$create$;

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

-- What to log of the touched keys as they stand now. LATERAL with OFFSET 0: one index probe a key, whatever the size of
-- the statement that the plan was first made for.
create function changefeed.settled_sql(f changefeed.feeds, image text, has_old boolean, has_new boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $function$
declare
    columns text := (select string_agg(format('%I', c), ', ') from unnest(f.key_columns) c);
    same    text := (select string_agg(format('n.%1$I %2$s t.%1$I', c, changefeed.equality(f.source, c)), ' and ')
                     from unnest(f.key_columns) c);
    touched text := concat_ws(' union all ',
        case when has_old then format('select o.*, %s as partition_key_, %s as key_, true as was_ from old_rows o',
            changefeed.key_text(f.source, 'o', f.partition_key_columns), changefeed.key_text(f.source, 'o', f.key_columns)) end,
        case when has_new then format('select n.*, %s as partition_key_, %s as key_, false as was_ from new_rows n',
            changefeed.key_text(f.source, 'n', f.partition_key_columns), changefeed.key_text(f.source, 'n', f.key_columns)) end);
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
    $sql$, columns, touched, changefeed.key_text(f.source, 'n', f.partition_key_columns),
        changefeed.key_text(f.source, 'n', f.key_columns), image, f.source::regclass, same);
end;
$function$;

-- The equality of the primary key's index, by its schema: the pinned search_path does not see an extension's.
create function changefeed.equality(source regclass, column_name text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('operator(%I.%s)', s.nspname, o.oprname)
    from pg_index i
    cross join unnest(i.indkey::smallint[], i.indclass::oid[]) k (attnum, opclass)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and a.attname = column_name
    join pg_opclass c on c.oid = k.opclass
    join pg_amop m on m.amopfamily = c.opcfamily and m.amopstrategy = 3
        and m.amoplefttype = c.opcintype and m.amoprighttype = c.opcintype
    join pg_operator o on o.oid = m.amopopr
    join pg_namespace s on s.oid = o.oprnamespace
    where i.indrelid = source and i.indisprimary
$$;

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

create function changefeed.create_triggers(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    event   text;
    -- By bytes: 1.0 and 1.00 are equal but are two texts.
    rekeyed text := (select format('pg_catalog.record_image_ne(row(%s), row(%s))', string_agg(format('old.%I', c), ', '),
                                   string_agg(format('new.%I', c), ', '))
                     from (select distinct unnest(f.key_columns || f.partition_key_columns)) u (c));
begin
    foreach event in array array ['insert', 'update', 'delete', 'truncate'] loop
        execute format('create trigger changefeed_%1$s_%2$s after %2$s on %3$s %4$s for each statement '
                       'execute function changefeed_log.capture_%1$s_%2$s()',
                       f.feed_id, event, f.source::regclass,
                       case event
                           when 'insert' then 'referencing new table as new_rows'
                           when 'update' then 'referencing old table as old_rows new table as new_rows'
                           when 'delete' then 'referencing old table as old_rows'
                           else ''
                       end);
    end loop;
    execute format('create trigger changefeed_%1$s_rekey after update on %2$s for each row when (%3$s) '
                   'execute function changefeed_log.capture_%1$s_rekey()', f.feed_id, f.source::regclass, rekeyed);
end;
$$;

create function changefeed.refuse_unwatchable(source regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c pg_class;
begin
    select * into strict c from pg_class where oid = source;
    if c.relnamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace, 'pg_catalog'::regnamespace) then
        raise exception '% belongs to the change feeds or to PostgreSQL itself', source
            using errcode = 'wrong_object_type', hint = 'Watch a table of the application.';
    elsif c.relkind = 'p' or c.relispartition then
        raise exception '% is partitioned or a partition', source
            using errcode = 'feature_not_supported', hint = 'Only plain tables can be watched in this version.';
    elsif c.relkind <> 'r' then
        raise exception '% is not a table', source
            using errcode = 'wrong_object_type', hint = 'Watch the table that holds the rows.';
    elsif c.relpersistence = 't' then
        raise exception '% is a temporary table', source
            using errcode = 'wrong_object_type', hint = 'Watch a permanent table.';
    elsif c.relpersistence = 'u' then
        raise exception '% is unlogged: a crash empties it without a change', source
            using errcode = 'wrong_object_type', hint = 'alter table ... set logged, then watch it.';
    elsif exists (select from pg_attribute where attrelid = source and attgenerated = 'v' and not attisdropped) then
        raise exception '% has a virtual generated column, which triggers do not see', source
            using errcode = 'feature_not_supported', hint = 'Make the column stored, then watch the table.';
    elsif exists (select from pg_inherits where inhrelid = source or inhparent = source) then
        raise exception '% takes part in inheritance', source
            using errcode = 'feature_not_supported', hint = 'Only plain tables can be watched in this version.';
    elsif not exists (select from pg_index where indrelid = source and indisprimary) then
        raise exception '% has no primary key', source
            using errcode = 'object_not_in_prerequisite_state', hint = 'Add a primary key, then watch the table.';
    end if;
end;
$$;

create function changefeed.primary_key(source regclass) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attname::text order by k.place)
    from pg_index i, unnest(i.indkey::smallint[]) with ordinality k (attnum, place), pg_attribute a
    where i.indrelid = source and i.indisprimary and a.attrelid = source and a.attnum = k.attnum
$$;

create function changefeed.watch(
    source        regclass,
    partition_key text[] default null,
    image         text default 'captured',
    doorbell      text default 'notify'
) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    table_name text := (select format('%s.%s', n.nspname, c.relname)
                        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = watch.source);
    keys       text[];
    wanted     text[];
    known      changefeed.feeds;
    feed       integer;
begin
    perform changefeed.refuse_unwatchable(watch.source);
    keys := changefeed.primary_key(watch.source);
    wanted := coalesce(partition_key, keys);
    perform changefeed.check_options(watch.source, wanted, image, doorbell);
    perform pg_advisory_xact_lock(1667655787, 0);
    select * into known from changefeed.feeds f where f.source = watch.source or f.name = table_name;
    if known.feed_id is not null then
        return changefeed.same_feed(known, watch.source, keys, wanted, image, doorbell);
    end if;
    -- Waits for writers under way before the feed begins: what they write is not captured.
    execute format('lock table %s in share row exclusive mode', watch.source);
    feed := changefeed.create_feed(
        table_name, watch.source, image, null, keys,
        (select array_agg(changefeed.key_type(a.atttypid) order by k.place)
         from unnest(keys) with ordinality k (name, place)
         join pg_attribute a on a.attrelid = watch.source and a.attname = k.name),
        wanted, doorbell);
    perform changefeed.create_capture(feed);
    return feed;
end;
$$;
comment on function changefeed.watch(regclass, text[], text, text) is
    'Makes a feed of a plain table with a primary key and answers its id; again without harm. image: captured or none. '
    'doorbell: notify or poll.';

create function changefeed.check_options(source regclass, partition_key text[], image text, doorbell text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
begin
    if image is null or image not in ('captured', 'none') then
        raise exception 'image is %', coalesce(quote_literal(image), 'null')
            using errcode = 'invalid_parameter_value', hint = 'Choose captured or none.';
    elsif doorbell is null or doorbell not in ('notify', 'poll') then
        raise exception 'doorbell is %', coalesce(quote_literal(doorbell), 'null')
            using errcode = 'invalid_parameter_value', hint = 'Choose notify or poll.';
    elsif cardinality(partition_key) = 0 then
        raise exception 'partition_key is empty'
            using errcode = 'invalid_parameter_value', hint = 'Name columns, or leave it out for the primary key.';
    end if;
    select p into missing from unnest(partition_key) p
        where not exists (select from pg_attribute a
                          where a.attrelid = source and a.attname = p and a.attnum > 0 and not a.attisdropped
                              and a.attnotnull)
        limit 1;
    if found then
        raise exception 'partition_key names %, which is not a NOT NULL column of %', quote_ident(missing), source
            using errcode = 'undefined_column', hint = 'Name columns of the table that are never null.';
    end if;
end;
$$;

create function changefeed.same_feed(
    known changefeed.feeds, source regclass, keys text[], partition_key text[], image text, doorbell text
) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if known.source is distinct from source::oid then
        raise exception 'the feed % belongs to another table of that name, which is gone or was renamed', known.name
            using errcode = 'duplicate_object',
                  hint = format('select changefeed.drop_feed(%s) removes it with its history; then watch again.', known.feed_id);
    elsif (known.key_columns, known.partition_key_columns, known.image_mode, known.doorbell)
            is distinct from (keys, partition_key, image, doorbell) then
        raise exception '% is watched with other options', known.name
            using errcode = 'duplicate_object', hint = 'Call changefeed.unwatch first; this ends the old feed''s history.';
    end if;
    if 5 > (select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
            where t.tgrelid = source and t.tgenabled in ('O', 'A') and p.pronamespace = 'changefeed_log'::regnamespace
                and p.proname in (select format('capture_%s_%s', known.feed_id, e)
                                  from unnest(array ['insert', 'update', 'delete', 'truncate', 'rekey']) e)) then
        raise exception '% has lost triggers of its feed, or they are disabled: changes are missing', known.name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Call changefeed.unwatch, then changefeed.watch: the new feed refuses the tokens of the old one.';
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
    feed  integer;
    event text;
begin
    select feed_id into feed from changefeed.feeds f where f.source = unwatch.source;
    if feed is null then
        raise exception '% is not watched', source
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists what is.';
    end if;
    foreach event in array array ['insert', 'update', 'delete', 'truncate', 'rekey'] loop
        execute format('drop trigger if exists changefeed_%s_%s on %s', feed, event, unwatch.source);
        execute format('drop function changefeed_log.capture_%s_%s()', feed, event);
    end loop;
    perform changefeed.drop_feed(feed);
end;
$$;
comment on function changefeed.unwatch(regclass) is 'Ends the feed of a table: its triggers, its log and its history.';
