-- The feed "documents": an upsert or a delete for every change of a file of kind "document", its tags or its runs.
-- The log holds ids; the image is read with the page, so that the last image a consumer sees holds everything committed
-- before it, without a lock among the writers of one document.

create function documents.documents_image(keys text[]) returns table (key text, partition_key text, image text)
language sql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
    select f.id::text, f.workspace_id::text, row_to_json(d)::text
    from documents.files f
    left join lateral (
        select v.version, v.byte_size, v.content_type
        from documents.file_versions v where v.file_id = f.id order by v.version desc limit 1
    ) v on true
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

do $do$
declare
    feed     integer;
    files_of text;
begin
    feed := changefeed.create_feed('documents', null, 'current', 'documents.documents_image',
                                   array ['id'], array ['string'], array ['workspace_id'], 'notify');

    perform changefeed.create_capture_function(feed, 'files_insert', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, $sql$
            select true, 'upsert', n.workspace_id::text, n.id::text, null::text from new_rows n where n.kind = 'document'
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
            select p.stays is not true or p.was_deleted and not p.is_deleted,
                   case when p.stays and p.is_deleted and not p.was_deleted then 'delete' else 'upsert' end,
                   p.workspace_id::text, p.id::text, null::text
            from pair p where p.id is not null
        $sql$) || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', 'select n.workspace_id::text from new_rows n')));

    perform changefeed.create_capture_function(feed, 'files_truncate', 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, 'select false, ''truncate'', '''', '''', null::text')
        || changefeed.doorbell_sql(feed, 'notify', 'select null::text'));

    -- A file that is gone by now (a cascade) has made its own delete.
    files_of := $sql$
        select distinct false, 'upsert', f.workspace_id::text, f.id::text, null::text
        from (%s) s join documents.files f on f.id = s.file_id where f.kind = 'document'
    $sql$;
    perform changefeed.create_capture_function(feed, e.event, 'set search_path = pg_catalog, pg_temp',
        changefeed.append_sql(feed, format(files_of, e.file_ids))
        || changefeed.if_found(changefeed.doorbell_sql(feed, 'notify', format(
            'select f.workspace_id::text from (%s) s join documents.files f on f.id = s.file_id', e.file_ids))))
    from (values
        ('file_tags_insert', 'select n.file_id from new_rows n'),
        ('file_tags_delete', 'select o.file_id from old_rows o'),
        ('runs_insert', 'select v.file_id from new_rows n join documents.file_versions v on v.id = n.input_file_version_id'),
        ('runs_delete', 'select v.file_id from old_rows o join documents.file_versions v on v.id = o.input_file_version_id'),
        ('runs_update', 'select v.file_id from new_rows n join old_rows o on o.id = n.id '
                        'join documents.file_versions v on v.id = n.input_file_version_id '
                        'where (n.status, n.started_at, n.completed_at, n.output, n.error) '
                        'is distinct from (o.status, o.started_at, o.completed_at, o.output, o.error)')
    ) e (event, file_ids);

    execute format($sql$
        create trigger changefeed_insert after insert on documents.files referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_insert();
        create trigger changefeed_update after update on documents.files
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_files_update();
        create trigger changefeed_delete after delete on documents.files referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_files_delete();
        create trigger changefeed_truncate after truncate on documents.files
            for each statement execute function changefeed_log.capture_%1$s_files_truncate();
        create trigger changefeed_insert after insert on documents.file_tags referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_insert();
        create trigger changefeed_delete after delete on documents.file_tags referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_file_tags_delete();
        create trigger changefeed_insert after insert on documents.runs referencing new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_insert();
        create trigger changefeed_update after update on documents.runs
            referencing old table as old_rows new table as new_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_update();
        create trigger changefeed_delete after delete on documents.runs referencing old table as old_rows
            for each statement execute function changefeed_log.capture_%1$s_runs_delete();
    $sql$, feed);
end;
$do$;
