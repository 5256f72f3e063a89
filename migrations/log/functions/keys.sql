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

-- What a domain, or a domain over one, is made of. A cast of a domain is one of its base type.
create or replace function changefeed.base_type(type oid) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- PostgreSQL's own types have the numbers below 16384. Who owns any other type may make a cast of it to text or json, and
-- row_to_json and ::text call such casts: a function of his, in the transaction of whoever writes, as capture's role.
create or replace function changefeed.is_built_in(type oid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select changefeed.base_type(type) < 16384 $$;

-- Of an array PostgreSQL looks at the casts of its elements, not at its own, when it writes JSON.
create or replace function changefeed.has_built_in_json(type oid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    base    oid := changefeed.base_type(type);
    element oid := (select t.typelem from pg_type t where t.oid = base and t.typsubscript = 'array_subscript_handler'::regproc);
begin
    return base < 16384 or element is not null and changefeed.has_built_in_json(element);
end;
$$;

-- SQL for one column of a row variable as exact text. concat() calls the output function of a type, and no cast. "C": a
-- text is the same only if its bytes are, whatever the collation of its column says.
create or replace function changefeed.column_text(row_name text, column_name text, type oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        case
            when changefeed.key_type(type) = 'binary' then '(pg_catalog.encode(%I.%I, ''base64'') collate pg_catalog."C")'
            when changefeed.is_built_in(type) then '(%I.%I::pg_catalog.text collate pg_catalog."C")'
            else '(pg_catalog.concat(%I.%I) collate pg_catalog."C")'
        end, row_name, column_name)
$$;

-- SQL for a key of a row variable: one value stands for itself, unless it is a text that looks like a list.
create or replace function changefeed.key_text(source regclass, row_name text, columns text[]) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;
comment on function changefeed.key_text(regclass, text, text[]) is
    'SQL that writes the key of a row as text: one value stands for itself, several (or a text that begins with "[") '
    'are a JSON array of texts.';

-- One of 4,096, by PostgreSQL's own hash: decisions/0024 has why a key keeps its bucket. No SET clause, so that it is inlined.
create or replace function changefeed.bucket(partition_key text) returns smallint
language sql immutable parallel safe
as $$
    select (pg_catalog.hashtext(partition_key collate pg_catalog."C") operator(pg_catalog.&) 4095)::pg_catalog.int2
$$;
comment on function changefeed.bucket(text) is
    'The bucket of a partition key, 0 to 4095: twelve bits of a hash of its bytes. A physical partition is a range of buckets.';

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

-- A unique index on exactly these columns, the primary key if it is one; null if there is none. P2: not one that is checked
-- later (DEFERRABLE): who takes a key that another one has would not wait for him, and his change might come first.
create or replace function changefeed.key_index(source oid, numbers smallint[]) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- From 18 on a column may be NOT NULL while nobody has looked at the rows that were there before.
create or replace function changefeed.may_be_null(source oid, number smallint) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select not a.attnotnull or exists (
            select from pg_constraint c
            where c.conrelid = source and c.contype = 'n' and not c.convalidated and number = any (c.conkey))
        from pg_attribute a where a.attrelid = source and a.attnum = number
    );
end;
$$;

-- SQL that compares two values as the unique index of a key does, so that it is found there. An operator is chosen by
-- name and types; where more than one would do, a cast that somebody made decides. So only one of exactly these types, or
-- of PostgreSQL's own; any other type (an enum, a composite) by its text.
create or replace function changefeed.same_sql(key_index oid, number smallint, one text, other text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- Types whose texts of one value are the same: a key that changes between them stays the same key.
create or replace function changefeed.text_form(type oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
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
