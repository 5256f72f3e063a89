-- A bucket is one of 4,096, of the partition key: all changes of a logical partition lie in one physical partition, and one
-- index serves both. The bell rings for sleepers only.
--
-- Before, it was one of 256, of the whole key. Feeds of that time keep their history and the tokens for all of it or for one
-- logical partition; those for a physical partition are refused, because it is gone.

alter table changefeed.partitions drop constraint partitions_check;
alter table changefeed.partitions add constraint partitions_check check (high between low and 4095);

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
            where i.indrelid = format('changefeed_log.log_%s', f.feed_id)::regclass
                and pg_get_indexdef(i.indexrelid) like '% (partition_key, seq)'
        loop
            execute format('drop index %s', index);
        end loop;
        execute format($sql$
            drop sequence changefeed_log.bell_%1$s;
            create unlogged sequence changefeed_log.bell_%1$s as bigint increment 1000 minvalue 0 start 1000 cache 1;
            create unlogged sequence changefeed_log.rung_%1$s as bigint minvalue 0 start 1 cache 1;
            update changefeed_log.log_%1$s set bucket = ('x' || encode(substring(sha256(
                convert_to(partition_key, getdatabaseencoding())), 1, 2), 'hex'))::bit(12)::int4::int2
        $sql$, f.feed_id);
    end loop;
end;
$do$;

delete from changefeed.partitions;
insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick)
select f.feed_id, '0-4095', 0, 4095, 1 from changefeed.feeds f;
