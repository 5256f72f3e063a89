-- Three roles of the cluster, none of which can log in: the operator grants them to those who do. Another database of
-- the cluster may have made them before, or be making them now.

do $do$
declare
    role text;
begin
    foreach role in array array ['changefeed_owner', 'changefeed_operator', 'changefeed_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    -- What makes the objects must be able to give them away. Who made the role may administer it, and from 16 on do no
    -- more with it than give it, also to itself.
    if not pg_has_role(current_user, 'changefeed_owner', 'usage') then
        execute format('grant changefeed_owner to %I', current_user);
    end if;
    -- Only the owner of a log can detach its days, and DETACH ... CONCURRENTLY runs in no function.
    if not pg_has_role('changefeed_operator', 'changefeed_owner', 'member') then
        grant changefeed_owner to changefeed_operator;
    end if;
exception when insufficient_privilege then
    raise exception 'the roles of the change feeds cannot be made: %', sqlerrm
        using errcode = 'insufficient_privilege',
              hint = format('Migrate as a superuser, or have one create the roles changefeed_owner, changefeed_operator and '
                            'changefeed_reader, and: grant changefeed_owner to changefeed_operator, %I.', current_user);
end;
$do$;

grant usage on schema changefeed, changefeed_log to changefeed_reader;
-- What create_feed, create_capture_function and retention make later, as this role.
alter default privileges for role changefeed_owner in schema changefeed_log grant select on tables to changefeed_reader;
alter default privileges for role changefeed_owner in schema changefeed_log grant select on sequences to changefeed_reader;
-- Who could name a capture function in a trigger of a table of his own could write into the log.
alter default privileges for role changefeed_owner revoke execute on functions from public;
