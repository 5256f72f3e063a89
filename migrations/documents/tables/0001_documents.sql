-- Documents of workspaces: files, their versions and tags, and the runs that read them.

create schema documents;

create table documents.workspaces (
    id         uuid primary key default gen_random_uuid(),
    name       text not null,
    created_at timestamptz not null default now()
);

create table documents.files (
    id           uuid primary key default gen_random_uuid(),
    workspace_id uuid not null references documents.workspaces (id) on delete cascade,
    kind         text not null default 'document',
    title        text not null,
    metadata     jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    deleted_at   timestamptz
);
comment on column documents.files.kind is 'Documents are of kind "document"; other kinds are not part of the feed.';
comment on column documents.files.deleted_at is 'Set: deleted, may come back. Null: alive.';
create index on documents.files (workspace_id);

create table documents.file_versions (
    id           uuid primary key default gen_random_uuid(),
    file_id      uuid not null references documents.files (id) on delete cascade,
    version      integer not null check (version > 0),
    byte_size    bigint not null check (byte_size >= 0),
    content_type text not null,
    created_at   timestamptz not null default now(),
    unique (file_id, version)
);

create table documents.file_tags (
    file_id    uuid not null references documents.files (id) on delete cascade,
    tag        text not null,
    created_at timestamptz not null default now(),
    primary key (file_id, tag)
);

create table documents.runs (
    id                    uuid primary key default gen_random_uuid(),
    input_file_version_id uuid not null references documents.file_versions (id) on delete cascade,
    status                text not null default 'queued',
    started_at            timestamptz,
    completed_at          timestamptz,
    output                jsonb,
    error                 text,
    progress              real not null default 0,
    created_at            timestamptz not null default now()
);
comment on column documents.runs.progress is 'Changes often and is not part of a document: it makes no change.';
create index on documents.runs (input_file_version_id, created_at);

create table documents.run_fields (
    run_id uuid not null references documents.runs (id) on delete cascade,
    name   text not null,
    value  jsonb,
    primary key (run_id, name)
);

create table documents.run_table_columns (
    run_id      uuid not null references documents.runs (id) on delete cascade,
    table_name  text not null,
    column_name text not null,
    cells       jsonb not null default '[]',
    primary key (run_id, table_name, column_name)
);
comment on table documents.run_fields is 'Wide: written in the transaction that completes the run, and makes no change of its own.';
comment on table documents.run_table_columns is 'Wide, as run_fields.';
