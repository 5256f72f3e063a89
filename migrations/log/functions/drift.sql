-- Drift: what becomes of a feed when its table is altered. Capture follows, or it stops and says so in the log itself,
-- where every reader comes by. It never fails a write of the application.

-- What stands in the way of capture, in the table itself.
create or replace function changefeed.table_problem(f changefeed.feeds) returns changefeed.problem
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

-- In PL/pgSQL, which keeps its plans: it is asked of every feed, again and again. The names begin with capture_<id>_,
-- and "`" follows "_". rekey is left out: without it, keys are looked up.
create or replace function changefeed.trigger_problem(f changefeed.feeds) returns changefeed.problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.capture_problem(f changefeed.feeds) returns changefeed.problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem changefeed.problem := changefeed.table_problem(f);
begin
    return case when problem.code is null then changefeed.trigger_problem(f) else problem end;
end;
$$;
comment on function changefeed.capture_problem(changefeed.feeds) is
    'Why changes are not captured, as a code, which never changes, and a sentence; null if they are.';

-- All that the text of a capture function relies on.
create or replace function changefeed.shape(f changefeed.feeds) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
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

-- A feed as capture finds it. A transaction whose snapshot is older than the feed does not see it, and writes to its table.
create or replace function changefeed.captured_feed(feed integer) returns changefeed.feeds
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- Called immutable, so that it is asked once, when a plan is made. PostgreSQL makes the plan anew after any change of the
-- table that the plan names, by the transition table.
create or replace function changefeed.has_drifted(feed integer, shape text) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
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

-- From here on changes are missing: a mark in the log, in the place of the change, says so.
create or replace function changefeed.stop_sql(feed integer, problem text, rows_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.append_mark_sql(
        feed, format('select false, ''stopped'', '''', '''', %L::pg_catalog.text from (%s limit 1) r', problem, rows_sql),
        'null::pg_catalog.text', changefeed.changed_at_sql(feed))
$$;

-- What to log of the touched keys as they stand now; old_rows, new_rows: what to select from, null for neither. LATERAL
-- with OFFSET 0: one index probe a key, whatever the size of the statement.
create or replace function changefeed.settled_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- What to log of the rows as they are.
create or replace function changefeed.rows_sql(f changefeed.feeds, old_rows text, new_rows text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when old_rows is null then changefeed.inserted_sql(f, new_rows)
        when new_rows is null then changefeed.deleted_sql(f, old_rows)
        else changefeed.paired_sql(f, old_rows, new_rows) end
$$;

-- Who plans a query of a table evaluates calls with constant arguments in the expressions of its indexes, statistics and
-- partition key. Such a function runs as capture, so it must be one that only a superuser can supply or replace.
create or replace function changefeed.supplied_function(source oid) returns regprocedure
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- Why capture could not look at the table.
create or replace function changefeed.read_problem(f changefeed.feeds) returns changefeed.problem
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when not has_schema_privilege('changefeed_capture', c.relnamespace, 'usage')
                or not has_table_privilege('changefeed_capture', c.oid, 'select')
            then row('table_unreadable', 'capture may not read the table')::changefeed.problem
        when c.relrowsecurity and not (select r.rolbypassrls from pg_roles r where r.rolname = 'changefeed_capture')
            then row('table_policy', 'a policy may hide rows from capture')::changefeed.problem
    end
    from pg_class c where c.oid = f.source
$$;

create or replace function changefeed.look_problem(f changefeed.feeds) returns changefeed.problem
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select row('table_expression', format('an expression of the table calls %s, which is not a superuser''s', s.function))::changefeed.problem
    from (select changefeed.supplied_function(f.source) as function) s where s.function is not null
$$;

-- What keeps the slow way from capturing. looks: whether it looks at the table.
create or replace function changefeed.slow_problem(f changefeed.feeds, looks boolean) returns changefeed.problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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

-- What a capture function runs where its own SQL does not fit the table or the transaction.
create or replace function changefeed.settled_now_sql(feed integer, old_rows text, new_rows text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
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
$$;

-- After a TRUNCATE in whose triggers something was written: what the table holds now came after it, and was captured before it.
create or replace function changefeed.left_now_sql(feed integer) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    f       changefeed.feeds := changefeed.captured_feed(feed);
    problem changefeed.problem := changefeed.slow_problem(f, true);
begin
    if problem.code is not null then
        return changefeed.stop_sql(feed, problem.detail, 'select 1');
    end if;
    return changefeed.append_sql(feed, changefeed.inserted_sql(f, f.source::regclass::text), '$1', changefeed.changed_at_sql(feed));
end;
$$;

-- Settings that texts and names depend on; row_security: a table hidden by a policy is an error, not one of deleted rows;
-- constraint_exclusion: the table's own constraints are not to be evaluated. No SET clause: it would be undone at the end of the call.
create or replace function changefeed.pin_settings() returns text[]
language plpgsql
as $$
declare
    were pg_catalog.text[] := array (select pg_catalog.current_setting(s.name) from pg_catalog.unnest(array [
        'timezone', 'datestyle', 'intervalstyle', 'bytea_output', 'extra_float_digits', 'lc_monetary', 'search_path',
        'row_security', 'constraint_exclusion']) s (name));
begin
    perform changefeed.restore_settings(array ['UTC', 'ISO', 'postgres', 'hex', '1', 'C', 'pg_catalog, pg_temp', 'off', 'off']);
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
                'lc_monetary', 'search_path', 'row_security', 'constraint_exclusion']),
            pg_catalog.unnest(were)) s (name, value);
end;
$$;

-- The lock keeps the table as it is until the functions are written, and is in nobody's way. Where it is not to be had at
-- once, next time.
create or replace function changefeed.fit_capture(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

-- Whoever may not is told by the feed's state, and waits for no lock.
create or replace function changefeed.may_make_triggers(f changefeed.feeds) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select has_table_privilege(c.oid, 'trigger') and (not f.always or pg_has_role(c.relowner, 'usage'))
    from pg_class c where c.oid = f.source
$$;

-- Functions of a newer generator fit the triggers of an older one, so there is time. CREATE TRIGGER waits for those who
-- write, and those who come wait behind it: for an instant, or next time.
drop function if exists changefeed.renew_triggers(changefeed.feeds);
create function changefeed.renew_triggers(f changefeed.feeds) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
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

create or replace function changefeed.feeds_to_renew() returns setof changefeed.feeds
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select f.* from changefeed.feeds f
    where f.triggers is distinct from changefeed.trigger_maker() and changefeed.may_make_triggers(f)
$$;
comment on function changefeed.feeds_to_renew() is
    'Feeds with triggers of an older version on tables of which who calls it may make triggers.';

create or replace function changefeed.note_renewal_problem(f changefeed.feeds, problem text) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update changefeed.feeds set renewal_problem = problem
        where feed_id = f.feed_id and renewal_problem is distinct from problem
$$;

create or replace function changefeed.check_feed(f changefeed.feeds) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
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

-- What no trigger can notice is noticed from outside: a dropped table, a disabled trigger. Capture that has drifted, or that
-- an older generator made, is written anew.
create or replace function changefeed.check_feeds() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
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
comment on function changefeed.check_feeds() is
    'Marks the logs of feeds whose capture has stopped, and writes capture anew where its table or its generator has '
    'changed, its triggers too where the owner of the feeds may make them. Without harm.';

create or replace function changefeed.remedy(f changefeed.feeds, code text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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

create or replace function changefeed.feed_states()
returns table (
    feed_id integer, name text, source text, key text[], partition_key text[], image text, image_columns text[],
    doorbell text, capture text, always boolean, retention interval, state text, problem text, remedy text, code text
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
comment on function changefeed.feed_states() is
    'Every feed, its options, and whether it is capturing, drifted (capture follows, with a problem) or stopped. code: which '
    'problem it is; never changes.';
