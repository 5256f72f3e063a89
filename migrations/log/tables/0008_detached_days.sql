-- A day that was detached while buckets were written anew, by a retention run that died or by hand, has those of before. It is
-- attached again as long as somebody needs it. And ticks of existing days may be changed where a publication has all tables, as
-- those of new days may.

do $do$
declare
    day record;
begin
    for day in
        select c.oid::regclass as name, starts_with(c.relname, 'tick_') as of_ticks
        from changefeed.feeds f
        join pg_class c on c.relnamespace = 'changefeed_log'::regnamespace and c.relkind = 'r' and c.relname ~ format(
            '^(log|tick)_%s_(past|future|\d{8}(t\d{6})?(_\d{8}(t\d{6})?)?)$', f.feed_id)
        left join pg_inherits i on i.inhrelid = c.oid
        where obj_description(c.oid, 'pg_class') = 'epoch ' || f.incarnation
            and (starts_with(c.relname, 'tick_') or i.inhrelid is null or i.inhdetachpending)
        order by f.feed_id, c.relname
    loop
        if day.of_ticks then
            execute format('alter table %s replica identity full', day.name);
        else
            execute format($sql$
                update %1$s l set bucket = b.bucket
                from (select ctid, case when op in ('truncate', 'stopped') then -1
                          else (hashtext(partition_key collate "C") & 4095)::int2 end as bucket from %1$s) b
                where b.ctid = l.ctid and b.bucket <> l.bucket
            $sql$, day.name);
        end if;
    end loop;
end;
$do$;
