-- How keys are written as text.

-- The key types of the contract: what a consumer reads the text as.
create or replace function changefeed.key_type(type regtype) returns text
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
create or replace function changefeed.column_text(row_name text, column_name text, type regtype) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case changefeed.key_type(type)
        when 'binary' then format('encode(%I.%I, ''base64'')', row_name, column_name)
        else format('%I.%I::text', row_name, column_name)
    end
$$;

-- SQL for a key of a row variable: one value stands for itself, unless it is a text that looks like a list.
create or replace function changefeed.key_text(source regclass, row_name text, columns text[]) returns text
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
create or replace function changefeed.bucket(key text) returns smallint
language sql immutable strict parallel safe
as $$ select pg_catalog.get_byte(pg_catalog.decode(pg_catalog.left(pg_catalog.md5(key), 2), 'hex'), 0)::pg_catalog.int2 $$;
comment on function changefeed.bucket(text) is
    'The bucket of a key, 0 to 255: the first byte of its MD5. A physical partition is a range of buckets.';

-- By number, which a rename leaves as it is. A column that is gone is null.
create or replace function changefeed.column_names(source oid, numbers smallint[]) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attname::text order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum and not a.attisdropped
$$;

-- A name that the table does not have is null.
create or replace function changefeed.column_numbers(source oid, names text[]) returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attnum order by c.place)
    from unnest(names) with ordinality c (name, place)
    left join pg_attribute a on a.attrelid = source and a.attname = c.name and a.attnum > 0 and not a.attisdropped
$$;

-- A unique index on exactly these columns, the primary key if it is one; null if there is none.
create or replace function changefeed.key_index(source oid, numbers smallint[]) returns oid
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
create or replace function changefeed.equality(key_index oid, number smallint) returns text
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

-- Types whose texts of one value are the same: a key that changes between them stays the same key.
create or replace function changefeed.text_form(type oid) returns text
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

create or replace function changefeed.text_forms(source oid, numbers smallint[]) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(changefeed.text_form(a.atttypid) order by k.place)
    from unnest(numbers) with ordinality k (attnum, place)
    left join pg_attribute a on a.attrelid = source and a.attnum = k.attnum
$$;
