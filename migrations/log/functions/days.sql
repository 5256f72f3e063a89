-- A feed's tables are its partitions, and those that were or should be some: a detached day is told by its name, and by a
-- mark of the epoch in which it was made. A dump carries detached days too; those of another epoch never come back.

create or replace function changefeed.day_tables(feed integer)
returns table (part text, day oid, name text, state text, bound text, marked boolean)
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
    with parts (part, parent, prefix) as (
        select p.part, to_regclass(format('changefeed_log.%s_%s', p.part, feed)), format('%s_%s_', p.part, feed)
        from (values ('tick'), ('log')) p (part)
    ), tables (part, day, state) as (
        select p.part, i.inhrelid, case when i.inhdetachpending then 'leaving' else 'attached' end
        from parts p join pg_inherits i on i.inhparent = p.parent
        union all
        -- By the index on names: with many feeds the schema has many tables.
        select p.part, c.oid, 'detached'
        from parts p join pg_class c on c.relname >= p.prefix::name and c.relname < (left(p.prefix, -1) || '`')::name
        where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and substr(c.relname, length(p.prefix) + 1) ~ '^(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$'
            and not exists (select from pg_inherits i where i.inhrelid = c.oid)
    )
    select t.part, c.oid, c.relname::text, t.state, pg_get_expr(c.relpartbound, c.oid),
        obj_description(c.oid, 'pg_class') is not distinct from
            (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed)
    from tables t join pg_class c on c.oid = t.day and c.relkind = 'r'
$$;
comment on function changefeed.day_tables(integer) is
    'The partitions of a feed''s log and ticks, attached or leaving (a detach that is not finished), and the detached tables '
    'that are named as such. marked: carries the mark of the feed''s epoch.';

create or replace function changefeed.mark_days(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    day text;
begin
    for day in select d.name from changefeed.day_tables(feed) d where d.state = 'attached' and not d.marked loop
        begin
            execute format('comment on table changefeed_log.%I is %L', day,
                           (select 'epoch ' || f.incarnation from changefeed.feeds f where f.feed_id = feed));
            -- Where a publication has all tables, nobody may change or delete rows without it: a split, date_anew, retention.
            execute format('alter table changefeed_log.%I replica identity full', day);
        exception when insufficient_privilege then
            continue;  -- Made by hand and owned by another: once detached, retention leaves it alone.
        end;
    end loop;
end;
$$;
comment on function changefeed.mark_days(integer) is 'Gives the attached days of a feed the mark of its epoch.';

-- A missing day must not fail an application's write, and a DEFAULT partition would forbid DETACH CONCURRENTLY:
-- two ordinary partitions, past and future, hold what no day covers.
create or replace function changefeed.create_days(parent text, first_day date, days integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
    day date;
begin
    execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (minvalue) to (%L)',
                   parent || '_past', parent, first_day::timestamptz);
    for day in select first_day + n from generate_series(0, days - 1) n loop
        execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (%L) to (%L)',
                       parent || to_char(day, '"_"YYYYMMDD'), parent, day::timestamptz, (day + 1)::timestamptz);
    end loop;
    execute format('create table changefeed_log.%I partition of changefeed_log.%I for values from (%L) to (maxvalue)',
                   parent || '_future', parent, (first_day + days)::timestamptz);
    perform changefeed.mark_days(substring(parent from '\d+$')::integer);
end;
$$;
comment on function changefeed.create_days(text, date, integer) is
    'Gives a new log or tick table its days (UTC) and the two partitions that hold what no day covers.';

create or replace function changefeed.drop_loose_days(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    day text;
begin
    for day in select d.name from changefeed.day_tables(feed) d where d.state <> 'attached' loop
        begin
            execute format('drop table changefeed_log.%I', day);
        exception when insufficient_privilege then
            continue;  -- As above; without the mark of the epoch it does not come back.
        end;
    end loop;
end;
$$;

drop function if exists changefeed.days(integer), changefeed.days_needed(integer, bigint);

-- What one table tells of itself.
create or replace function changefeed.day_facts(feed integer, names text[])
returns table (
    part       text,
    name       text,
    state      text,
    marked     boolean,
    starts     timestamptz,
    ends       timestamptz,
    bytes      bigint,
    empty      boolean,
    newest     timestamptz,
    first_tick bigint,
    last_tick  bigint,
    writers    text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    day  record;
    held jsonb;
begin
    -- Who has inserted into a table and has not ended has its lock until then, prepared or not. Before the rows: who commits in
    -- between is found by one of the two.
    select jsonb_object_agg(h.relation, h.who) into held from (
        select l.relation::text, jsonb_agg(l.who order by l.who) as who
        from changefeed.holders_of(array (
            select d.day from changefeed.day_tables(feed) d where names is null or d.name = any (names))) l
        where l.mode = 'RowExclusiveLock' group by l.relation) h;
    for day in
        select * from changefeed.day_tables(feed) d where names is null or d.name = any (names) order by d.part desc, d.name
    loop
        part := day.part;
        name := day.name;
        state := day.state;
        marked := day.marked;
        starts := substring(day.bound from 'FROM \(''([^'']+)''\)');
        ends := substring(day.bound from 'TO \(''([^'']+)''\)');
        newest := null;
        first_tick := null;
        last_tick := null;
        begin
            writers := array (select jsonb_array_elements_text(held -> day.day::text));
            bytes := pg_total_relation_size(day.day);
            execute format('select not exists (select from changefeed_log.%I)', day.name) into empty;
            if not empty and ends is null and state <> 'detached' then
                execute format('select max(%I) from changefeed_log.%I',
                               case part when 'tick' then 'at' else 'changed_at' end, day.name) into newest;
            end if;
            -- A detached table without the mark may be anybody's, with any columns.
            if not empty and part = 'tick' and (marked or state <> 'detached') then
                execute format('select min(id), max(id) from changefeed_log.%I', day.name) into first_tick, last_tick;
            end if;
        exception when undefined_table then
            continue;  -- A run at the same time has dropped it.
        end;
        return next;
    end loop;
end;
$$;

-- The partitions of a feed's log and ticks, and tables that were or should be some. What other days tell of one is asked for
-- those alone whose time is over, in one statement: to plan one for each of them, over all days, would grow by the square.
create or replace function changefeed.days(feed integer, names text[] default null)
returns table (
    part           text,
    name           text,
    state          text,
    marked         boolean,
    starts         timestamptz,
    ends           timestamptz,
    bytes          bigint,
    empty          boolean,
    newest         timestamptz,
    first_tick     bigint,
    last_tick      bigint,
    next_tick_at   timestamptz,
    overlaps_until timestamptz,
    writers        text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    return query execute format($sql$
        with days as materialized (
            select d.*, d.last_tick is not null and d.ends <= clock_timestamp() - f.retention as is_over
            from changefeed.day_facts($1, $2) d, changefeed.feeds f where f.feed_id = $1
        )
        -- A tick that claims a time to come was made by a clock that was wrong.
        select d.part, d.name, d.state, d.marked, d.starts, d.ends, d.bytes, d.empty, d.newest, d.first_tick, d.last_tick,
            case when d.is_over then (select t.at from changefeed_log.tick_%1$s t
                                   where t.id > d.last_tick and t.at <= clock_timestamp() order by t.id limit 1) end,
            case when d.is_over then (select max(t.at) from changefeed_log.tick_%1$s t
                                   where t.id <= d.last_tick and t.at >= d.ends and t.at <= clock_timestamp()) end,
            d.writers
        from days d
    $sql$, feed) using feed, names;
end;
$$;
comment on function changefeed.days(integer, text[]) is
    'Every table of a feed''s log and ticks, as day_tables has them, or those of some names. Null as a bound: none. Of days '
    'whose time is over: next_tick_at, time of the tick after its last one; overlaps_until, the latest time of a tick up to its '
    'last one that lies in a later day, because the clock stepped, null where none does. writers: open transactions that '
    'wrote to it.';

-- By the index on (xid, seq): a day that nobody needs would be read whole otherwise.
create or replace function changefeed.days_needed(feed integer, tick bigint, names text[] default null) returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    day    text;
    seen   pg_snapshot;
    needed boolean;
begin
    execute format('select snapshot from changefeed_log.tick_%s where id = $1', feed) into seen using tick;
    for day in
        select d.name from changefeed.day_tables(feed) d
        where d.part = 'log' and (d.marked or d.state <> 'detached') and (names is null or d.name = any (names))
    loop
        begin
            execute format('select exists (select from changefeed_log.%1$I where xid >= pg_snapshot_xmax($1)) '
                           'or exists (select from pg_snapshot_xip($1) x join changefeed_log.%1$I l on l.xid = x)', day)
                into needed using seen;
        exception when undefined_table then
            continue;  -- As above.
        end;
        if needed is not false then
            return next day;
        end if;
    end loop;
end;
$$;
comment on function changefeed.days_needed(integer, bigint, text[]) is
    'The days of a log, or those of some names, that hold a change which a tick does not see: one that is read from there on.';

-- One statement for all feeds, that opens none of their tables: most have nothing to do in most hours.
create or replace function changefeed.feeds_due(fewest_ahead integer) returns setof integer
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
    with days as materialized (
        select f.feed_id, f.retention, p.part, i.inhrelid, i.inhdetachpending,
            substring(b.bound from 'FROM \(''([^'']+)''\)')::timestamptz as starts,
            substring(b.bound from 'TO \(''([^'']+)''\)')::timestamptz as ends
        from changefeed.feeds f
        cross join (values ('tick'), ('log')) p (part)
        left join pg_inherits i on i.inhparent = to_regclass(format('changefeed_log.%s_%s', p.part, f.feed_id))
        left join pg_class c on c.oid = i.inhrelid
        cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b
    ), places as (
        select d.*, lag(d.ends) over (partition by d.feed_id, d.part order by d.starts nulls first) as before,
            lead(true) over (partition by d.feed_id, d.part order by d.starts nulls first) as has_next
        from days d
    )
    select p.feed_id from places p
    where p.inhrelid is null or p.inhdetachpending
        -- A hole, or an end.
        or p.starts is distinct from p.before or p.ends is null and p.has_next or p.ends is not null and p.has_next is null
        -- A catch-all that holds something, or comes too soon.
        or (p.starts is null or p.ends is null) and pg_relation_size(p.inhrelid) > 0
        or p.ends is null and p.starts < date_trunc('day', clock_timestamp()) + make_interval(days => fewest_ahead + 1)
        -- A day that is over.
        or p.starts is not null and p.ends <= clock_timestamp() - p.retention
    union
    -- A table that was left behind.
    select substring(c.relname from '\d+')::integer from pg_class c
    where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
        and c.relname ~ '^(log|tick)_\d{1,9}_(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$'
        and not exists (select from pg_inherits i where i.inhrelid = c.oid)
$$;
comment on function changefeed.feeds_due(integer) is
    'The feeds in which a retention run has something to do or to say; fewest_ahead: whole days after today that must be there.';
