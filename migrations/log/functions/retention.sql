-- Retention: what the gateway and `changefeed retention` need to know before they make days ahead and drop old ones.
-- They issue the DDL themselves: DETACH ... CONCURRENTLY runs in no function and no transaction.

create or replace function changefeed.set_retention(feed text, retention interval) returns void
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
create or replace function changefeed.session(pid integer) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select 'pid ' || session.pid || coalesce(' ' || quote_literal(nullif(a.application_name, '')), '')
        || coalesce(', transaction since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI OF'), '')
    from (select) one left join pg_stat_activity a on a.pid = session.pid
$$;

create or replace function changefeed.holders_of(relations oid[])
returns table (relation oid, who text, since timestamptz, mode text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select distinct l.relation, coalesce(
            'prepared transaction ' || quote_literal(p.gid) || ' of ' || to_char(p.prepared, 'YYYY-MM-DD HH24:MI OF'),
            changefeed.session(l.pid)),
        coalesce(p.prepared, a.xact_start), l.mode
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_locks t on l.pid is null and t.virtualtransaction = l.virtualtransaction
        and t.locktype = 'transactionid' and t.mode = 'ExclusiveLock'
    left join pg_prepared_xacts p on p.transaction = t.transactionid
    where l.locktype = 'relation' and l.relation = any (relations) and l.granted
        and l.database = (select oid from pg_database where datname = current_database())
        and l.pid is distinct from pg_backend_pid()
$$;

create or replace function changefeed.lock_holders(relation regclass) returns table (who text, since timestamptz, mode text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select h.who, h.since, h.mode from changefeed.holders_of(array [relation::oid]) h $$;
comment on function changefeed.lock_holders(regclass) is
    'Open and prepared transactions that hold a lock on a table, by the mode of the lock. since is null where it is hidden '
    'from the caller, who needs pg_read_all_stats to see it.';
