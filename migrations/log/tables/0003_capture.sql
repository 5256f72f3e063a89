-- Functions are no history: their files are applied again whenever their text has changed, and write the capture of
-- existing feeds anew. Capture runs as a role of its own.

create table changefeed.functions (
    set        text not null,
    topic      text not null,
    checksum   text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (set, topic)
);
comment on table changefeed.functions is 'The files of functions as `changefeed migrate` applied them last, with their sha256.';
comment on table changefeed.migrations is 'The steps that `changefeed migrate` applied, and the sha256 of each file.';

-- Those of before came with the steps; none is left beside today's.
do $do$
declare
    routine regprocedure;
begin
    for routine in select oid from pg_proc where pronamespace = 'changefeed'::regnamespace loop
        execute format('drop routine %s', routine);
    end loop;
end;
$do$;

create type changefeed.problem as (code text, detail text);

alter table changefeed.feeds
    add capture_function text,
    add generator text,
    add renewal_problem text;
comment on column changefeed.feeds.capture_function is
    'Takes a feed id and writes its capture functions; null for a watched table, whose are made from its columns.';
comment on column changefeed.feeds.generator is 'Which text of changefeed.generator made the capture functions.';
comment on column changefeed.feeds.renewal_problem is 'Why check_feeds could not write capture anew.';

do $do$
begin
    begin
        if not exists (select from pg_roles where rolname = 'changefeed_capture') then
            create role changefeed_capture nologin;
        end if;
    exception when duplicate_object or unique_violation then
        null;
    end;
    -- What capture may do, changefeed_owner could not hold back: it writes the functions and gives them to that role.
    if not pg_has_role('changefeed_owner', 'changefeed_capture', 'usage') then
        grant changefeed_capture to changefeed_owner;
    end if;
    -- A policy on a watched table must not hide rows from the slow way.
    begin
        if not (select rolbypassrls from pg_roles where rolname = 'changefeed_capture') then
            alter role changefeed_capture bypassrls;
        end if;
    exception when insufficient_privilege then
        null;
    end;
    -- It ran capture before, and needs no more than what it owns.
    begin
        if pg_has_role('changefeed_owner', 'pg_read_all_data', 'member') then
            revoke pg_read_all_data from changefeed_owner;
        end if;
        if (select rolbypassrls from pg_roles where rolname = 'changefeed_owner') then
            alter role changefeed_owner nobypassrls;
        end if;
    exception when insufficient_privilege then
        null;
    end;
exception when insufficient_privilege then
    raise exception 'the role of capture cannot be made: %', sqlerrm
        using errcode = 'insufficient_privilege',
              hint = 'Migrate as a superuser, or have one create the role changefeed_capture, and: grant changefeed_capture '
                     'to changefeed_owner.';
end;
$do$;

grant usage on schema changefeed, changefeed_log to changefeed_capture;
grant select on changefeed.feeds to changefeed_capture;
