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

-- The gateway reads documents by this function only; capture reads the tables.
revoke execute on function documents.documents_image(text[]) from public;
grant execute on function documents.documents_image(text[]) to changefeed_reader;
grant usage on schema documents to changefeed_reader, changefeed_owner;
grant select on all tables in schema documents to changefeed_owner;

create or replace function documents.create_capture(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
    files_of text;
    version_files text;
begin
    perform changefeed.create_capture_function(feed, 'files_insert', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            select n.deleted_at is null, 'upsert', n.workspace_id::text, n.id::text, null::text
            from new_rows n where n.kind = 'document'
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select n.workspace_id::text from new_rows n')));

    perform changefeed.create_capture_function(feed, 'files_delete', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            select false, 'delete', o.workspace_id::text, o.id::text, null::text from old_rows o where o.kind = 'document'
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select o.workspace_id::text from old_rows o')));

    -- Leaving (another workspace, kind or id) is a delete there and comes before what arrives here. What arrives or is
    -- undeleted counts as created; deleted_at going from null is a delete, and anything else an update.
    perform changefeed.create_capture_function(feed, 'files_update', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            with pair as (
                select o.id as left_id, o.workspace_id as left_workspace, n.id, n.workspace_id,
                       o.deleted_at is not null as was_deleted, n.deleted_at is not null as is_deleted,
                       o.id is not distinct from n.id and o.workspace_id = n.workspace_id as stays
                from (select * from old_rows where kind = 'document') o
                full join (select * from new_rows where kind = 'document') n on n.id = o.id
            )
            select false, 'delete', p.left_workspace::text, p.left_id::text, null::text
            from pair p where p.left_id is not null and p.stays is not true
            union all
            select not p.is_deleted and (p.stays is not true or p.was_deleted),
                   case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                   p.workspace_id::text, p.id::text, null::text
            from pair p where p.id is not null
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select n.workspace_id::text from new_rows n')));

    perform changefeed.create_capture_function(feed, 'files_truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, 'notify', 'select null::text'));

    -- A file that is gone by now (a cascade) has made its own delete. Joins are LATERAL with OFFSET 0, and old is compared
    -- with new by grouping: a kept plan must fit the statement of one row and that of a million alike.
    files_of := $sql$
        select false, 'upsert', f.workspace_id::text, f.id::text, null::text
        from (select distinct u.file_id from (%s) u) s
        cross join lateral (select * from documents.files f where f.id = s.file_id offset 0) f where f.kind = 'document'
    $sql$;
    version_files := $sql$
        select v.file_id from (%s) r
        cross join lateral (select v.file_id from documents.file_versions v where v.id = r.version_id offset 0) v
    $sql$;
    perform changefeed.create_capture_function(feed, e.event, 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, format(files_of, e.file_ids))
        || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', format(
            'select c.partition_key from (%s) c (created, op, partition_key, key, image)', format(files_of, e.file_ids)))))
    from (values
        ('file_tags_insert', 'select n.file_id from new_rows n'),
        ('file_tags_delete', 'select o.file_id from old_rows o'),
        ('file_tags_update', 'select t.file_id from (select o.file_id, o.tag from old_rows o union all '
                             'select n.file_id, n.tag from new_rows n) t group by t.file_id, t.tag having count(*) = 1'),
        ('file_tags_truncate', 'select t.file_id from documents.file_tags t'),
        ('runs_insert', format(version_files, 'select n.input_file_version_id as version_id from new_rows n')),
        ('runs_delete', format(version_files, 'select o.input_file_version_id as version_id from old_rows o')),
        ('runs_truncate', format(version_files, 'select t.input_file_version_id as version_id from documents.runs t')),
        ('runs_update', format(version_files, $sql$
            select unnest(array_agg(distinct t.input_file_version_id)) as version_id
            from (select o.* from old_rows o union all select n.* from new_rows n) t
            group by t.id
            having count(distinct (t.input_file_version_id, t.status, t.started_at, t.completed_at, t.output, t.error)) > 1
        $sql$))
    ) e (event, file_ids);

    execute format($sql$
        create or replace trigger changefeed_insert after insert on documents.files referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_insert();
        create or replace trigger changefeed_update after update on documents.files
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_update();
        create or replace trigger changefeed_delete after delete on documents.files referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_files_delete();
        create or replace trigger changefeed_truncate after truncate on documents.files
            for each statement execute function changefeed_log.capture_%1$s_files_truncate();
        create or replace trigger changefeed_insert after insert on documents.file_tags referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_insert();
        create or replace trigger changefeed_delete after delete on documents.file_tags referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_delete();
        create or replace trigger changefeed_update after update on documents.file_tags
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_update();
        create or replace trigger changefeed_truncate before truncate on documents.file_tags
            for each statement execute function changefeed_log.capture_%1$s_file_tags_truncate();
        create or replace trigger changefeed_truncate before truncate on documents.runs
            for each statement execute function changefeed_log.capture_%1$s_runs_truncate();
        create or replace trigger changefeed_insert after insert on documents.runs referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_insert();
        create or replace trigger changefeed_update after update on documents.runs
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_update();
        create or replace trigger changefeed_delete after delete on documents.runs referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_delete();
    $sql$, feed);
end;
$create$;
comment on function documents.create_capture(integer) is 'Writes the trigger functions of the documents feed, and its triggers.';

select changefeed.create_feed('documents', null, 'current', 'documents.documents_image',
                              array ['id'], array ['string'], array ['workspace_id'], 'notify')
where not exists (select from changefeed.feeds where name = 'documents');

select documents.create_capture(feed_id) from changefeed.feeds where name = 'documents';
