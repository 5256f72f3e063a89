-- watch: makes a feed of a plain table.

-- Text forms of these types depend on the session; a key or an image must not.
create function changefeed.pinned_settings(source regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'set search_path = pg_catalog, pg_temp' || case when exists (
        select from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = source and a.attnum > 0 and not a.attisdropped
            and (t.typcategory not in ('N', 'B', 'S') or t.oid in ('money'::regtype, 'float4'::regtype, 'float8'::regtype))
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
    bell_new := changefeed.if_found(
        changefeed.doorbell_sql(feed, f.doorbell, format('select %s from new_rows n', pk_new)));
    bell_old := changefeed.if_found(
        changefeed.doorbell_sql(feed, f.doorbell, format('select %s from old_rows o', pk_old)));

    perform changefeed.create_capture_function(feed, 'insert', settings, changefeed.append_sql(feed, format(
        'select true, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image)) || bell_new);
    perform changefeed.create_capture_function(feed, 'delete', settings, changefeed.append_sql(feed, format(
        'select false, ''delete'', %s, %s, null::text from old_rows o', pk_old, key_old)) || bell_old);
    perform changefeed.create_capture_function(feed, 'rekey', 'set search_path = pg_catalog, pg_temp', format($sql$
    perform set_config('changefeed.rekeyed_%s', 'on', true);$sql$, feed));
    perform changefeed.create_capture_function(feed, 'update', settings, format($sql$
    if current_setting('changefeed.rekeyed_%s', true) = 'on' then%s
    else%s
    end if;$sql$, feed,
        changefeed.append_sql(feed, changefeed.paired_sql(pk_new, pk_old, key_new, key_old, image)),
        changefeed.append_sql(feed, format(
            'select false, ''upsert'', %s, %s, %s from new_rows n', pk_new, key_new, image))) || bell_new);
    perform changefeed.create_capture_function(feed, 'truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, f.doorbell, 'select null::text'));
    perform changefeed.create_triggers(f);
end;
$create$;

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
    rekeyed text := (select string_agg(distinct format('old.%1$I is distinct from new.%1$I', c), ' or ')
                     from unnest(f.key_columns || f.partition_key_columns) c);
begin
    foreach event in array array ['insert', 'update', 'delete', 'truncate'] loop
        execute format('create trigger changefeed_%2$s after %2$s on %3$s %4$s for each statement '
                       'execute function changefeed_log.capture_%1$s_%2$s()',
                       f.feed_id, event, f.source::regclass,
                       case event
                           when 'insert' then 'referencing new table as new_rows'
                           when 'update' then 'referencing old table as old_rows new table as new_rows'
                           when 'delete' then 'referencing old table as old_rows'
                           else ''
                       end);
    end loop;
    execute format('create trigger changefeed_rekey after update on %2$s for each row when (%3$s) '
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
        execute format('drop trigger if exists changefeed_%s on %s', event, unwatch.source);
        execute format('drop function changefeed_log.capture_%s_%s()', feed, event);
    end loop;
    perform changefeed.drop_feed(feed);
end;
$$;
comment on function changefeed.unwatch(regclass) is 'Ends the feed of a table: its triggers, its log and its history.';
