-- A move to another workspace is a change of this key: it waits for whoever locks the document's key, and they for it.
create unique index files_id_workspace_id on documents.files (id, workspace_id);
