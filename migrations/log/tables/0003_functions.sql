-- Functions are no history: their files are applied again whenever their text has changed.

create table changefeed.functions (
    set        text not null,
    topic      text not null,
    checksum   text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (set, topic)
);
comment on table changefeed.functions is 'The files of functions as `changefeed migrate` applied them last, with their sha256.';
comment on table changefeed.migrations is 'The steps that `changefeed migrate` applied, and the sha256 of each file.';
