-- Capture: one trigger function a feed and event, with static SQL, in the transaction of the writer.

-- NOTIFY holds one lock of the whole cluster until its commit is flushed, so the bell rings at most once in 2 ms. The
-- mark is a sequence because it must count at once, for everybody, whatever becomes of the transaction. Whom a ring
-- comes too early for is found by the readers' polls.
create function changefeed.doorbell_sql(feed integer, doorbell text, partition_key_sql text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case doorbell when 'poll' then '' else format($sql$
    beat := (extract(epoch from clock_timestamp()) * 500)::bigint;
    if beat is distinct from pg_sequence_last_value('changefeed_log.bell_%1$s'::regclass) then
        perform setval('changefeed_log.bell_%1$s', beat);
        perform pg_notify('changefeed', json_build_object(
            'feed', %1$s, 'seq', currval('changefeed_log.seq_%1$s'),
            'partition_key', (select k from (%2$s limit 1) s (k) where length(k) <= 1000))::text);
    end if;$sql$, feed, partition_key_sql) end
$$;
comment on function changefeed.doorbell_sql(integer, text, text) is
    'PL/pgSQL that rings the doorbell of a feed; needs a variable "beat bigint". partition_key_sql: a query of one text.';

create function changefeed.append_sql(feed integer, changes_sql text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format($sql$
    insert into changefeed_log.log_%s (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_current_xact_id(), clock_timestamp(), changefeed.bucket(c.key), c.created, c.op, c.partition_key, c.key, c.image,
           nullif(current_setting('changefeed.annotations', true), '')
    from (%s) c (created, op, partition_key, key, image);$sql$, feed, changes_sql)
$$;
comment on function changefeed.append_sql(integer, text) is
    'SQL that appends changes to a log. changes_sql: a query of created, op, partition_key, key, image.';

create function changefeed.if_found(statements text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case statements when '' then '' else format($sql$
    if not found then
        return null;
    end if;%s$sql$, statements) end
$$;
comment on function changefeed.if_found(text) is
    'PL/pgSQL that goes on only if something was appended: statement triggers fire for statements without rows too.';

create function changefeed.create_capture_function(feed integer, event text, settings text, body text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    execute format($function$
create function changefeed_log.capture_%1$s_%2$s() returns trigger
language plpgsql security definer %3$s
as $body$
declare
    beat bigint;
    row_security_was text;
begin%4$s
    return null;
end;
$body$
    $function$, feed, event, settings, body);
end;
$create$;
comment on function changefeed.create_capture_function(integer, text, text, text) is
    'Makes a trigger function changefeed_log.capture_<feed>_<event>. It runs as its owner, so that writers of the table need '
    'no rights on the log. settings: its SET clauses.';
