-- watch: makes a feed of a table. Each refusal names the argument, or the table, and what to do instead.

create or replace function changefeed.refuse_unwatchable(source regclass) returns void
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
create or replace function changefeed.chosen_columns(source regclass, argument text, names text[]) returns smallint[]
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

drop function if exists changefeed.refuse_nullable(regclass, text, smallint[]);

create or replace function changefeed.refuse_unfit_key(source regclass, argument text, numbers smallint[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.chosen_key(source regclass, key text[]) returns smallint[]
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

create or replace function changefeed.refuse_options(source regclass, image text, image_columns text[], doorbell text, always boolean)
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

create or replace function changefeed.refuse_stopped(source regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.watch(
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
comment on function changefeed.watch(regclass, text[], text, text, text[], text[], boolean, interval) is
    'Makes a feed of a table and answers its id; again without harm. key: the primary key unless given. partition_key: the '
    'key unless given. image: captured or none. image_columns: all unless given. doorbell: notify or poll. always: under '
    'session_replication_role = replica too. retention: 7 days unless given.';

create or replace function changefeed.create_watched(wanted changefeed.feeds) returns integer
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
create or replace function changefeed.renew_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

-- The feed that is there already, or null. Looks only: who watches again at each start must not wait for anybody.
create or replace function changefeed.same_feed(wanted changefeed.feeds) returns integer
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

create or replace function changefeed.unwatch(source regclass) returns void
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
