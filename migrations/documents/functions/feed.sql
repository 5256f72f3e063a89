-- The feed "documents": an upsert or a delete for every change of a file of kind "document", its tags or its runs.
-- The log holds ids; the image is read with the page, so that the last image a consumer sees holds everything committed
-- before it, without a lock among the writers of one document.

create or replace function documents.documents_image(keys text[]) returns table (key text, partition_key text, image text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
    select f.id::text, f.workspace_id::text, row_to_json(d)::text
    from documents.files f
    left join lateral (
        select r.id, r.status, r.started_at, r.completed_at, r.output, r.error
        from documents.file_versions rv join documents.runs r on r.input_file_version_id = rv.id
        where rv.file_id = f.id order by r.created_at desc, r.id desc limit 1
    ) r on true
    cross join lateral (
        select f.id, f.workspace_id, f.title, f.metadata, f.created_at, f.updated_at,
               coalesce((select json_agg(t.tag order by t.tag) from documents.file_tags t where t.file_id = f.id), '[]') as tags,
               case when r.id is not null then row_to_json(r) end as last_run
    ) d
    where f.id = any (keys::uuid[]) and f.kind = 'document' and f.deleted_at is null
$$;
comment on function documents.documents_image(text[]) is
    'The documents of these ids that are alive now, as lists show them: the file, its tags, its last run.';

-- The gateway reads documents by this function only; capture reads the tables. To lock a row needs a right to update
-- something: these columns show when a file or a version was made, and nothing else depends on them.
revoke execute on function documents.documents_image(text[]) from public;
grant execute on function documents.documents_image(text[]) to changefeed_reader, changefeed_capture;
grant usage on schema documents to changefeed_reader, changefeed_capture;
grant select on all tables in schema documents to changefeed_capture;
grant update (created_at) on documents.files, documents.file_versions to changefeed_capture;

drop function if exists documents.capture_body(integer, text, text, text);

create or replace function documents.capture_body(
    feed integer, changes_sql text, partition_key_sql text, rare_test_sql text default changefeed.is_set_sql('changefeed.annotations'),
    first_sql text default ''
) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select changefeed.capture_body(feed, rare_test_sql, '',
        first_sql || changefeed.append_sql(feed, changes_sql) || ';'
        || changefeed.written_sql(feed, 'notify', 'found', partition_key_sql || ' limit 1'))
$$;

-- Whether a document may come, go or move without a word of the trigger changefeed_rekey. Called immutable, so that it is asked
-- once, when a plan is made, and anew after any change of the table, which the call names.
create or replace function documents.may_rekey_unseen(files regclass) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return changefeed.may_see_old_triggers(files)
        or changefeed.may_rekey_unseen(files)
        or not exists (
            -- It fires where the trigger of updates does, under session_replication_role = replica too.
            select from pg_trigger r join pg_trigger u on u.tgrelid = r.tgrelid and u.tgname = 'changefeed_update'
            where r.tgrelid = files and r.tgname = 'changefeed_rekey' and r.tgenabled in ('A', u.tgenabled));
end;
$$;

drop function if exists documents.files_body(integer, text, text);

-- For files: once a statement ran inside another one's triggers, whose transition rows are older by then, their ids are
-- logged as the table shows them now. rekeyed_sql: what takes the place of changes_sql where documents may have come, gone or
-- moved; null where changes_sql fits that too.
create or replace function documents.files_body(feed integer, event text, changes_sql text, rekeyed_sql text default null) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $function$
declare
    newest  text := case event when 'delete' then 'old_rows' else 'new_rows' end;
    touched text := concat_ws(' union all ',
        case when event <> 'insert' then 'select o.id, o.workspace_id, true as was, o.deleted_at is null as alive '
            'from old_rows o where o.kind operator(pg_catalog.=) ''document''' end,
        case when event <> 'delete' then 'select n.id, n.workspace_id, false as was, false as alive '
            'from new_rows n where n.kind operator(pg_catalog.=) ''document''' end);
    settled text := format($sql$
            with now as (
                select t.was, t.alive, t.id as touched_id, t.workspace_id as touched_workspace, f.id, f.workspace_id,
                    f.deleted_at is not null as is_deleted,
                    f.workspace_id operator(pg_catalog.=) t.workspace_id as stays
                from (%s) t left join lateral (
                    select f.id, f.workspace_id, f.deleted_at from documents.files f
                    where f.id operator(pg_catalog.=) t.id and f.kind operator(pg_catalog.=) 'document' offset 0) f on true
            )
            select false, 'delete', s.touched_workspace::pg_catalog.text, s.touched_id::pg_catalog.text, null::pg_catalog.text
            from now s where s.was and s.stays is not true
            union all
            select not s.is_deleted and not pg_catalog.bool_or(s.was and s.alive and s.stays),
                case when s.is_deleted then 'delete' else 'upsert' end,
                s.workspace_id::pg_catalog.text, s.id::pg_catalog.text, null::pg_catalog.text
            from now s where s.id is not null group by s.id, s.workspace_id, s.is_deleted
        $sql$, touched);
    any_key text := format('select r.workspace_id::pg_catalog.text from %I r limit 1', newest);
    rare    text := $sql$
        if %s then%s;%s
            return null;
        end if;$sql$;
    told    text := changefeed.written_sql(feed, 'notify', 'found', any_key, '            ');
    unseen  text := $sql$documents.may_rekey_unseen('documents.files'::pg_catalog.regclass)$sql$;
begin
    return changefeed.capture_body(feed,
        concat_ws(' or ', changefeed.is_set_sql('changefeed.mode_' || feed), changefeed.is_set_sql('changefeed.annotations'),
                  case when rekeyed_sql is not null then unseen end),
        format(rare, $sql$mode operator(pg_catalog.=) 'nested'$sql$,
               changefeed.append_sql(feed, settled, margin => '            '), told)
        || case when rekeyed_sql is null then '' else format(
               rare, $sql$mode operator(pg_catalog.=) 'rekeyed' or $sql$ || unseen,
               changefeed.append_sql(feed, rekeyed_sql, margin => '            '), told) end,
        changefeed.append_sql(feed, changes_sql) || ';' || changefeed.written_sql(feed, 'notify', 'found', any_key));
end;
$function$;

-- As whoever calls it: what it calls may be replaced by the owner of the feeds, who is no more than that.
create or replace function documents.create_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    files_of text;
    version_files text;
    lock_versions text;
begin
    perform changefeed.create_capture_function(feed, 'files_insert', '', documents.files_body(feed, 'insert', $sql$
            select n.deleted_at is null, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        $sql$));
    perform changefeed.create_capture_function(feed, 'files_delete', '', documents.files_body(feed, 'delete', $sql$
            select false, 'delete', o.workspace_id::pg_catalog.text, o.id::pg_catalog.text, null::pg_catalog.text
            from old_rows o where o.kind operator(pg_catalog.=) 'document'
        $sql$));
    -- Most updates change nothing but, say, a title, and need no pairing of old and new rows. Where they may do more: leaving
    -- (another workspace, kind or id) is a delete there and comes before what arrives here. What arrives or is undeleted counts
    -- as created; deleted_at going from null is a delete, and anything else an update.
    perform changefeed.create_rekey_function(feed);
    perform changefeed.create_capture_function(feed, 'files_update', '', documents.files_body(feed, 'update', $sql$
            select false, 'upsert', n.workspace_id::pg_catalog.text, n.id::pg_catalog.text, null::pg_catalog.text
            from new_rows n where n.kind operator(pg_catalog.=) 'document'
        $sql$, $sql$
            with pair as (
                select o.id as left_id, o.workspace_id as left_workspace, n.id, n.workspace_id,
                    o.deleted_at is not null as was_deleted, n.deleted_at is not null as is_deleted,
                    o.workspace_id operator(pg_catalog.=) n.workspace_id as stays
                from (select r.* from old_rows r where r.kind operator(pg_catalog.=) 'document') o
                full join (select r.* from new_rows r where r.kind operator(pg_catalog.=) 'document') n
                    on n.id operator(pg_catalog.=) o.id
            )
            select false, 'delete', p.left_workspace::pg_catalog.text, p.left_id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.left_id is not null and p.stays is not true
            union all
            select not p.is_deleted and (p.stays is not true or p.was_deleted),
                case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                p.workspace_id::pg_catalog.text, p.id::pg_catalog.text, null::pg_catalog.text
            from pair p where p.id is not null
        $sql$));
    perform changefeed.create_capture_function(feed, 'files_truncate', '', changefeed.clearing_body(feed, 'notify'));

    -- A file that is gone by now (a cascade) has made its own delete. Joins are LATERAL with OFFSET 0, and old is compared
    -- with new by grouping or a full join, which is never a loop in a loop: a kept plan must fit the statement of one row and
    -- that of a million alike.
    -- P1, P2, P5: FOR KEY SHARE of what decides whose a change is, also of a file that is no document yet. A move to another workspace
    -- and a change of kind, which a unique index on (id, workspace_id, kind) makes changes of the key, and a move of a version to
    -- another file wait for those who write to the document elsewhere, and they for it. So each change is logged where its document is.
    files_of := $sql$
            select false, 'upsert', f.workspace_id::pg_catalog.text, f.id::pg_catalog.text, null::pg_catalog.text
            from (select distinct u.file_id from (%s) u) s
            cross join lateral (
                select f.id, f.workspace_id, f.kind from documents.files f
                where f.id operator(pg_catalog.=) s.file_id offset 0 for key share) f
            where f.kind operator(pg_catalog.=) 'document'
        $sql$;
    version_files := $sql$
                select v.file_id from (%s) r
                cross join lateral (
                    select v.file_id from documents.file_versions v where v.id operator(pg_catalog.=) %s offset 0) v
    $sql$;
    -- In a statement before that: the one that looks for the file sees it then, also where both came from who was waited for.
    lock_versions := $sql$
    perform from (%s) r
        cross join lateral (
            select v.id from documents.file_versions v where v.id operator(pg_catalog.=) %s offset 0 for key share) v;$sql$;
    perform changefeed.create_capture_function(feed, e.event, '', documents.capture_body(feed, format(files_of, e.file_ids),
        format('select c.partition_key from (%s) c (created, op, partition_key, key, image)', format(files_of, e.file_ids)),
        -- Before a TRUNCATE the transaction may have no id yet.
        case when e.event like '%truncate' then 'true' else changefeed.is_set_sql('changefeed.annotations') end, e.first_sql))
    from (
        select v.event,
            case when v.version_sql is null then v.rows_sql else format(version_files, v.rows_sql, v.version_sql) end as file_ids,
            case when v.version_sql is null then '' else format(lock_versions, v.rows_sql, v.version_sql) end as first_sql
        from (values
            ('file_tags_insert', 'select n.file_id from new_rows n', null),
            ('file_tags_delete', 'select o.file_id from old_rows o', null),
            ('file_tags_update', 'select t.file_id from (select o.file_id, o.tag from old_rows o union all '
                                 'select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag '
                                 'having pg_catalog.count(*) operator(pg_catalog.=) 1', null),
            ('file_tags_truncate', 'select t.file_id from documents.file_tags t', null),
            -- What its runs showed goes with a version, or to the file that it becomes one of.
            ('file_versions_delete', 'select o.file_id from old_rows o', null),
            ('file_versions_update', 'select t.file_id from (select o.id, o.file_id from old_rows o union all '
                                     'select n.id, n.file_id from new_rows n) t group by t.id, t.file_id '
                                     'having pg_catalog.count(*) operator(pg_catalog.=) 1', null),
            ('runs_insert', 'select n.input_file_version_id as version_id from new_rows n', 'r.version_id'),
            ('runs_delete', 'select o.input_file_version_id as version_id from old_rows o', 'r.version_id'),
            ('runs_truncate', 'select t.input_file_version_id as version_id from documents.runs t', 'r.version_id'),
            -- By bytes, as images show them; created_at says which run is the last one.
            ('runs_update', $sql$
                    select o.input_file_version_id as was_of, n.input_file_version_id as is_of
                    from old_rows o full join new_rows n on n.id operator(pg_catalog.=) o.id
                    where pg_catalog.record_image_ne(
                        row(o.input_file_version_id, o.created_at, o.status, o.started_at, o.completed_at, o.output, o.error),
                        row(n.input_file_version_id, n.created_at, n.status, n.started_at, n.completed_at, n.output, n.error))
                $sql$, 'any (array [r.was_of, r.is_of])')
        ) v (event, rows_sql, version_sql)
    ) e;
    perform documents.create_snapshot_functions(feed);
end;
$create$;
comment on function documents.create_capture(integer) is 'Writes the trigger functions of the documents feed, anew if they are there.';

-- Snapshots: documents in the order of their ids. version does not tell every change of a document, which is several rows.
create or replace function documents.create_snapshot_functions(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    settings constant text := 'set search_path = pg_catalog, pg_temp set timezone = ''UTC'' ';
    rows_sql constant text := $sql$
                with raw as materialized (
                    select f.id, f.workspace_id, f.xmin::pg_catalog.text as version,
                        f.kind operator(pg_catalog.=) 'document' and f.deleted_at is null
                            and ($5 is null or f.workspace_id::pg_catalog.text operator(pg_catalog.=) $5) as wanted
                    from documents.files f %s order by f.id limit $2
                )
                select r.id as k1, r.version, r.id::pg_catalog.text as key, r.workspace_id::pg_catalog.text as partition_key,
                    r.wanted, i.image
                from raw r left join documents.documents_image(array (select w.id::pg_catalog.text from raw w where w.wanted)) i
                    on i.key operator(pg_catalog.=) r.id::pg_catalog.text
        $sql$;
begin
    perform changefeed.create_items_function(feed, settings, format($body$
begin
    if $1 is null then
        return query %s;
    else
        return query %s;
    end if;
end
$body$, changefeed.items_sql(feed, format(rows_sql, ''), 1),
        changefeed.items_sql(feed, format(rows_sql, 'where f.id operator(pg_catalog.>) $1::pg_catalog.uuid'), 1)));
    perform changefeed.create_places_function(feed, settings, $body$
begin
    return (
        select pg_catalog.array_agg(case
                when u.key::pg_catalog.uuid operator(pg_catalog.<=) $2::pg_catalog.uuid then 0::pg_catalog.int2
                when $3 is null or u.key::pg_catalog.uuid operator(pg_catalog.<=) $3::pg_catalog.uuid then 1::pg_catalog.int2
                else 2::pg_catalog.int2 end order by u.place)
        from pg_catalog.unnest($1) with ordinality u (key, place));
end
$body$);
end;
$create$;
comment on function documents.create_snapshot_functions(integer) is
    'Writes the functions that snapshots of the documents are read with, anew if they are there.';
revoke execute on function documents.create_snapshot_functions(integer) from public;
grant execute on function documents.create_snapshot_functions(integer) to changefeed_owner;
revoke execute on function documents.create_capture(integer) from public;
grant execute on function documents.create_capture(integer) to changefeed_owner;

select changefeed.create_feed('documents', null, 'current', 'documents.documents_image',
                              array ['id'], array ['string'], array ['workspace_id'], 'notify')
where not exists (select from changefeed.feeds where name = 'documents');

update changefeed.feeds set capture_function = 'documents.create_capture' where name = 'documents';
select changefeed.create_capture(feed_id) from changefeed.feeds where name = 'documents';

-- Each is made once: CREATE TRIGGER waits for those who write.
do $do$
declare
    feed integer := (select feed_id from changefeed.feeds where name = 'documents');
    made record;
begin
    for made in
        select t.relation, t.event, format('capture_%s_%s_%s', feed, t.relation, t.event) as function
        from (values ('files', 'insert'), ('files', 'update'), ('files', 'delete'), ('files', 'truncate'),
                     ('file_tags', 'insert'), ('file_tags', 'update'), ('file_tags', 'delete'), ('file_tags', 'truncate'),
                     ('file_versions', 'update'), ('file_versions', 'delete'),
                     ('runs', 'insert'), ('runs', 'update'), ('runs', 'delete'), ('runs', 'truncate')) t (relation, event)
        where not exists (
            select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
            where g.tgrelid = format('documents.%s', t.relation)::regclass
                and p.proname = format('capture_%s_%s_%s', feed, t.relation, t.event))
    loop
        -- Before the rows of tags and runs are gone: they name their documents.
        execute format('create trigger changefeed_%1$s %2$s %1$s on documents.%3$I %4$s for each statement '
                       'execute function changefeed_log.%5$I()',
                       made.event, case when made.event = 'truncate' and made.relation <> 'files' then 'before' else 'after' end,
                       made.relation,
                       case made.event when 'insert' then 'referencing new table as new_rows'
                           when 'update' then 'referencing old table as old_rows new table as new_rows'
                           when 'delete' then 'referencing old table as old_rows' else '' end,
                       made.function);
    end loop;
    if not exists (select from pg_trigger where tgrelid = 'documents.files'::regclass and tgname = 'changefeed_rekey') then
        execute format('create trigger changefeed_rekey after update of id, workspace_id, kind, deleted_at on documents.files '
                       'for each row when (pg_catalog.record_image_ne(row(old.id, old.workspace_id, old.kind, old.deleted_at), '
                       'row(new.id, new.workspace_id, new.kind, new.deleted_at))) '
                       'execute function changefeed_log.capture_%s_rekey()', feed);
    end if;
end;
$do$;
