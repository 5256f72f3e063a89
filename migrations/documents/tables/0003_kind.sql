-- What becomes a document, or is one no more: a change of this key too, which waits for whoever writes its tags and runs.
create unique index files_id_workspace_id_kind on documents.files (id, workspace_id, kind);
drop index documents.files_id_workspace_id;
