-- Snapshots: the items that exist, a page at a time, in the order of the key's index; and where other keys lie in it.
--
-- One pair of functions a feed, with static SQL, as capture has. They run as changefeed_capture, which reads watched tables
-- already, so a reader of the feed needs no rights on the table; nothing in them calls what the owner of a table or of a type
-- may supply. Only changefeed_reader may call them.

-- Who owns an enum may make a cast of it to another type that comparisons would call.
create or replace function changefeed.is_plain_enum(type oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from pg_type t where t.oid = type and t.typtype = 'e'
        and not exists (select from pg_cast c where c.castsource = t.oid and c.castcontext = 'i'))
$$;

-- The unique index that gives a feed's items their order: on exactly its key, in the default order of PostgreSQL's own types
-- and of enums, so that rows compare as the index has them. Every primary key of such types is one. Null if there is none.
create or replace function changefeed.snapshot_index(f changefeed.feeds) returns oid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- SQL for the value of a column that a text is. Of an enum it is looked up among its values, because its owner may have made
-- a cast of texts, and because the name of the type may be another one's tomorrow; null where it has no such value.
create or replace function changefeed.value_sql(source oid, number smallint, written text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- SQL for the text of one column in a key's text.
create or replace function changefeed.key_part_sql(f changefeed.feeds, number smallint, type oid, key_text text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when cardinality(f.key_numbers) > 1 then format('(%s::pg_catalog.json operator(pg_catalog.->>) %s)', key_text,
                                                        array_position(f.key_numbers, number) - 1)
        when changefeed.key_type(type) in ('number', 'boolean', 'binary') or type = 'uuid'::regtype then key_text
        else format('case when pg_catalog.starts_with(%1$s, ''['') then %1$s::pg_catalog.json operator(pg_catalog.->>) 0 '
                    'else %1$s end', key_text)
    end
$$;

-- SQL that tells whether a key's text names a value that an enum does not have any more: nothing lies before or behind it.
create or replace function changefeed.is_gone_sql(f changefeed.feeds, key_text text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(key_text || ' is not null and (' || string_agg(
        changefeed.value_sql(f.source, a.attnum, changefeed.key_part_sql(f, a.attnum, a.atttypid, key_text)) || ' is null',
        ' or ' order by a.attnum) || ')', 'false')
    from pg_attribute a
    where a.attrelid = f.source and a.attnum = any (f.key_numbers) and changefeed.is_plain_enum(a.atttypid)
$$;

-- SQL for the columns of that index in its order: of a row variable; or, if there is a text_name, of a key's text (see
-- changefeed.key_text). named: with the names k1 to kn.
create or replace function changefeed.index_columns_sql(
    f changefeed.feeds, index oid, row_name text, text_name text, named boolean default false
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- Made by its owner and given to changefeed_capture, as capture functions are.
create or replace function changefeed.create_snapshot_function(name text, arguments text, definition text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
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
revoke execute on function changefeed.create_snapshot_function(text, text, text) from public;
grant execute on function changefeed.create_snapshot_function(text, text, text) to changefeed_owner;

-- Both functions take their arguments by number: a name could be one of a column, too.

-- What items_<feed> answers: a first row with key set to the snapshot in which the others were read, and version to a number
-- that no change exceeds which it sees; or with problem set, why none can be. Then an item a row, in order: wanted is false for one outside the scope, of which
-- there is only the key; version changes whenever the item does; image is left out where it is larger than max_item_bytes.
-- Fewer rows than size where their images exceed max_bytes, but for the first image; none where nothing lies behind.
create or replace function changefeed.create_items_function(feed integer, settings text, body text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform changefeed.create_snapshot_function(
        format('items_%s', feed),
        'after text, size bigint, max_bytes bigint, max_item_bytes bigint, only_partition_key text, with_bucket boolean',
        format('returns table (key text, partition_key text, bucket smallint, version text, wanted boolean, bytes integer, '
               'image text, problem text) language plpgsql security definer set row_security = off '
               'set max_parallel_workers_per_gather = 0 %sas %L', settings, body));
end;
$$;

-- What places_<feed> answers of each of some keys: 0 where it lies up to low, 1 up to high, 2 beyond. Nothing lies up to a
-- low that is null, everything up to a high that is. Null in place of all of it where low or high is gone.
create or replace function changefeed.create_places_function(feed integer, settings text, body text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform changefeed.create_snapshot_function(
        format('places_%s', feed), 'keys text[], low text, high text',
        format('returns smallint[] language plpgsql security definer %sas %L', settings, body));
end;
$$;

-- SQL for the rows of items_<feed>. rows_sql: those behind $1, at most $2, in order, of the columns k1 to kn of the order,
-- key, partition_key, version, wanted, image. problem: SQL that tells why there is no order behind $1; null where there is.
drop function if exists changefeed.items_sql(text, integer), changefeed.items_sql(text, integer, text);
create or replace function changefeed.items_sql(feed integer, rows_sql text, columns integer, problem text default 'null')
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

create or replace function changefeed.table_items_sql(f changefeed.feeds, first boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

create or replace function changefeed.table_places_sql(f changefeed.feeds) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- Where the table is not as it was when the functions were made: SQL of the table as it is, or why there is none.
create or replace function changefeed.snapshot_problem(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem changefeed.problem := changefeed.slow_problem(f, true);
begin
    perform changefeed.refuse_old_snapshot(f);
    return coalesce(problem.detail, case when changefeed.snapshot_index(f) is null
        then 'no unique index on the key has the default order of types of PostgreSQL''s own, or of enums' end);
end;
$$;

create or replace function changefeed.items_now_sql(feed integer, first boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.places_now_sql(feed integer) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- The check of the shape is that of capture, see changefeed.table_body. Who plans these queries may evaluate expressions of the
-- table, see changefeed.supplied_function: looked at each time, because a new one on a partition makes no plan of this test anew.
create or replace function changefeed.create_snapshot_functions(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function changefeed.create_snapshot_functions(changefeed.feeds) is
    'Writes the functions that snapshots of a watched table are read with, anew if they are there; none where nothing gives '
    'its key an order.';
