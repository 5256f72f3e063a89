-- Retention: what the gateway and `changefeed retention` need to know before they make days ahead and drop old ones.
-- They issue the DDL themselves: DETACH ... CONCURRENTLY runs in no function and no transaction.

create table changefeed.retention_runs (
    feed_id integer primary key references changefeed.feeds on delete cascade,
    ran_at  timestamptz not null,
    steps   integer not null,
    problem text
);
comment on table changefeed.retention_runs is 'The last retention run of each feed; problem is null when all was done.';

create function changefeed.set_retention(feed text, retention interval) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform changefeed.refuse_retention(retention);
    update changefeed.feeds f set retention = set_retention.retention where f.name = feed;
    if not found then
        raise exception 'there is no feed %', quote_literal(feed)
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists them.';
    end if;
end;
$$;
comment on function changefeed.set_retention(text, interval) is
    'How long the history of a feed is kept, 1 to 366 days. A shorter one lets the next retention run drop more.';

-- Who a session is, never what it runs.
create function changefeed.session(pid integer) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'pid ' || session.pid || coalesce(' ' || quote_literal(nullif(a.application_name, '')), '')
        || coalesce(', transaction since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI OF'), '')
    from (select) one left join pg_stat_activity a on a.pid = session.pid
$$;

create function changefeed.lock_holders(relation regclass) returns table (who text, since timestamptz, mode text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select distinct coalesce(
            'prepared transaction ' || quote_literal(p.gid) || ' of ' || to_char(p.prepared, 'YYYY-MM-DD HH24:MI OF'),
            changefeed.session(l.pid)),
        coalesce(p.prepared, a.xact_start), l.mode
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_locks t on l.pid is null and t.virtualtransaction = l.virtualtransaction
        and t.locktype = 'transactionid' and t.mode = 'ExclusiveLock'
    left join pg_prepared_xacts p on p.transaction = t.transactionid
    where l.locktype = 'relation' and l.relation = lock_holders.relation and l.granted
        and l.database = (select oid from pg_database where datname = current_database())
        and l.pid is distinct from pg_backend_pid()
$$;
comment on function changefeed.lock_holders(regclass) is
    'Open and prepared transactions that hold a lock on a table, by the mode of the lock. since is null where it is hidden '
    'from the caller, who needs pg_read_all_stats to see it.';

-- Who has inserted into a table and has not ended: the lock stays until then, prepared or not.
create function changefeed.writers(relation regclass) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(h.who order by h.who), '{}')
    from changefeed.lock_holders(relation) h where h.mode = 'RowExclusiveLock'
$$;

-- The partitions of a feed's log and ticks, and tables that were or should be some.
create function changefeed.days(feed integer)
returns table (
    part         text,
    name         text,
    state        text,
    starts       timestamptz,
    ends         timestamptz,
    bytes        bigint,
    empty        boolean,
    newest       timestamptz,
    first_tick   bigint,
    last_tick    bigint,
    next_tick_at timestamptz,
    writers      text[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
declare
    day record;
begin
    for day in
        select p.part, c.oid, c.relname::text as name, coalesce(i.inhdetachpending, false) as pending,
               i.inhrelid is not null as attached, pg_get_expr(c.relpartbound, c.oid) as bound
        from (values ('tick'), ('log')) p (part)
        join pg_class c on c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and starts_with(c.relname, format('%s_%s_', p.part, feed))
        left join pg_inherits i on i.inhrelid = c.oid
        order by p.part desc, c.relname
    loop
        part := day.part;
        name := day.name;
        state := case when day.pending then 'leaving' when day.attached then 'attached' else 'detached' end;
        starts := substring(day.bound from 'FROM \(''([^'']+)''\)');
        ends := substring(day.bound from 'TO \(''([^'']+)''\)');
        begin
            -- Before the rows: who commits in between is found by one of the two.
            writers := changefeed.writers(day.oid);
            bytes := pg_total_relation_size(day.oid);
            execute format('select not exists (select from changefeed_log.%I)', day.name) into empty;
            newest := null;
            first_tick := null;
            last_tick := null;
            next_tick_at := null;
            if not empty and ends is null then
                execute format('select max(%I) from changefeed_log.%I',
                               case part when 'tick' then 'at' else 'changed_at' end, day.name) into newest;
            end if;
            if not empty and part = 'tick' then
                execute format('select min(id), max(id) from changefeed_log.%I', day.name) into first_tick, last_tick;
                -- One that claims a time to come was made by a clock that was wrong.
                execute format('select at from changefeed_log.tick_%s where id > $1 and at <= clock_timestamp() '
                               'order by id limit 1', feed) into next_tick_at using last_tick;
            end if;
        exception when undefined_table then
            continue;  -- A run at the same time has dropped it.
        end;
        return next;
    end loop;
end;
$$;
comment on function changefeed.days(integer) is
    'Every partition of a feed''s log and ticks, attached, leaving (its detach is not finished) or detached. Null as a '
    'bound: none. next_tick_at: time of the tick after its last one. writers: open transactions that wrote to it.';

-- By the index on (xid, seq): a day that nobody needs would be read whole otherwise.
create function changefeed.days_needed(feed integer, tick bigint) returns setof text
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
        select c.relname from pg_class c
        where c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r'
            and starts_with(c.relname, format('log_%s_', feed))
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
comment on function changefeed.days_needed(integer, bigint) is
    'The days of a log that hold a change which a tick does not see: one that is read from there on.';
