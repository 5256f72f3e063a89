-- Who owns what, and who may do what.

-- For what was made since the last call, too.
create or replace function changefeed.hand_over() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    item record;
begin
    for item in
        select s.nspname from pg_namespace s where s.nspname in ('changefeed', 'changefeed_log')
    loop
        execute format('alter schema %I owner to changefeed_owner', item.nspname);
    end loop;
    for item in
        select c.oid::regclass as name, c.relkind from pg_class c
        where c.relnamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace) and c.relkind in ('r', 'p', 'S')
            and c.relowner <> 'changefeed_owner'::regrole
            and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S')
    loop
        execute format('alter %s %s owner to changefeed_owner', case item.relkind when 'S' then 'sequence' else 'table' end,
                       item.name);
    end loop;
    alter type changefeed.problem owner to changefeed_owner;
    -- Capture functions have an owner of their own.
    for item in
        select p.oid::regprocedure as name, p.prosecdef, p.proowner <> 'changefeed_owner'::regrole as moves from pg_proc p
        where p.pronamespace in ('changefeed'::regnamespace, 'changefeed_log'::regnamespace)
            and p.proowner <> 'changefeed_capture'::regrole
    loop
        if item.moves then
            execute format('alter routine %s owner to changefeed_owner', item.name);
        end if;
        if item.prosecdef then
            execute format('revoke execute on routine %s from public', item.name);
        end if;
    end loop;
    grant select on all tables in schema changefeed, changefeed_log to changefeed_reader;
    grant select on all sequences in schema changefeed_log to changefeed_reader;
    -- Whoever opens a feed finds out first that it was restored.
    grant execute on function changefeed.adopt_log(integer), changefeed.check_feeds() to changefeed_reader;
end;
$$;
comment on function changefeed.hand_over() is
    'Gives everything in the two schemas to changefeed_owner, keeps the public from what runs as its owner, and lets '
    'changefeed_reader read. Again without harm.';

create or replace function changefeed.end_migration() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    watched regclass;
begin
    for watched in select source from changefeed.feeds where source is not null loop
        begin
            perform changefeed.let_capture_read(watched);
        exception when insufficient_privilege then
            continue;  -- The feed's state says so.
        end;
    end loop;
    perform changefeed.create_tick_function(f.feed_id), changefeed.create_live_function(f.feed_id),
        changefeed.let_capture_append(f.feed_id) from changefeed.feeds f;
    perform changefeed.hand_over();
    -- Marks go where readers look for them, whatever keeps the rest of a feed's capture from being written anew.
    perform changefeed.create_capture_function(f.feed_id, 'truncate', '', changefeed.table_clearing_body(f))
        from changefeed.feeds f where f.capture_function is null;
    perform changefeed.check_feed(f) from changefeed.feeds f;
    perform changefeed.renew_triggers(f) from changefeed.feeds_to_renew() f;
end;
$$;
comment on function changefeed.end_migration() is
    'What `changefeed migrate` calls last: existing feeds get what is made for each of them.';
