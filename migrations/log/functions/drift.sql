-- Drift: what becomes of a feed when its table is altered. Capture follows, or it stops and says so in the log itself,
-- where every reader comes by. It never fails a write of the application.

-- What stands in the way of capture, in the table itself.
create or replace function changefeed.table_problem(f changefeed.feeds) returns text
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
create or replace function changefeed.trigger_problem(f changefeed.feeds) returns text
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

create or replace function changefeed.capture_problem(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(changefeed.table_problem(f), changefeed.trigger_problem(f));
end;
$$;
comment on function changefeed.capture_problem(changefeed.feeds) is 'Why changes are not captured; null if they are.';

-- All that the text of a capture function relies on.
create or replace function changefeed.shape(f changefeed.feeds) returns text
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
create or replace function changefeed.refuse_old_snapshot(f changefeed.feeds) returns void
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
create or replace function changefeed.has_drifted(feed integer, shape text) returns boolean
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
create or replace function changefeed.stop_sql(feed integer, problem text, rows_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.append_sql(feed, format('select false, ''stopped'', '''', '''', %L::text from (%s limit 1) r',
                                              problem, rows_sql))
$$;

-- What a capture function runs instead of its own SQL when that does not fit the table or the transaction.
create or replace function changefeed.settled_now_sql(feed integer, old_rows text, new_rows text) returns text
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

create or replace function changefeed.settle_sql(f changefeed.feeds, old_rows text, new_rows text, using_sql text) returns text
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

create or replace function changefeed.if_drifted_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
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
create or replace function changefeed.if_drifted_row_sql(f changefeed.feeds, event text) returns text
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
create or replace function changefeed.pin_settings() returns text[]
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

create or replace function changefeed.restore_settings(were text[]) returns void
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
create or replace function changefeed.fit_capture(f changefeed.feeds) returns void
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
create or replace function changefeed.check_feeds() returns void
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

create or replace function changefeed.feed_states()
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
