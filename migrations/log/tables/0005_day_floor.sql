-- The day floor: a tick, and a page of what follows it, open the one day that is written to.

drop function if exists changefeed.writers(regclass);

do $do$
declare
    f record;
begin
    for f in select feed_id, source from changefeed.feeds order by feed_id loop
        -- As writers take them, until capture is written anew: what they write without the floor, no tick has a floor for.
        if exists (select from pg_class c where c.oid = f.source) then
            execute format('lock table %s in share row exclusive mode', f.source);
        end if;
        execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', f.feed_id);
        execute format($sql$
            create sequence changefeed_log.day_%1$s as bigint minvalue 0 start 0 cache 1;
            alter table changefeed_log.tick_%1$s add day bigint, add first_xid xid8
        $sql$, f.feed_id);
    end loop;
end;
$do$;
