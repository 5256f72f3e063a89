-- A bucket is one of PostgreSQL's own hash of the partition key, and marks lie in a bucket of their own, so that they need no
-- index of their own (decisions/0024).
--
-- As before, feeds keep their history and the tokens for all of it or for one logical partition; those for a physical
-- partition that a split or a merge had made are refused, because it is gone.

drop function if exists changefeed.append_sql(integer, text, text, text), changefeed.written_sql(integer, text, text, text);

do $do$
declare
    f     record;
    index regclass;
    day   regclass;
begin
    for f in select feed_id, source from changefeed.feeds order by feed_id loop
        -- As writers take them: the table first, then the log. Until the end of the migration, which writes capture anew.
        if exists (select from pg_class c where c.oid = f.source) then
            execute format('lock table %s in share row exclusive mode', f.source);
        end if;
        execute format('lock table changefeed_log.log_%s in access exclusive mode', f.feed_id);
        -- Where a publication has all tables, nobody may change their rows without it.
        for day in select i.inhrelid from pg_inherits i where i.inhparent = format('changefeed_log.log_%s', f.feed_id)::regclass loop
            execute format('alter table %s replica identity full', day);
        end loop;
        for index in
            select i.indexrelid from pg_index i
            where i.indrelid = format('changefeed_log.log_%s', f.feed_id)::regclass and i.indpred is not null
        loop
            execute format('drop index %s', index);
        end loop;
        execute format($sql$
            update changefeed_log.log_%s set bucket = case when op in ('truncate', 'stopped') then -1
                else (hashtext(partition_key collate "C") & 4095)::int2 end
        $sql$, f.feed_id);
    end loop;
end;
$do$;

delete from changefeed.partitions p where exists (
    select from changefeed.partitions o where o.feed_id = p.feed_id and o.partition_id <> '0-4095');
insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick)
select f.feed_id, '0-4095', 0, 4095, 1 from changefeed.feeds f
where not exists (select from changefeed.partitions p where p.feed_id = f.feed_id);
