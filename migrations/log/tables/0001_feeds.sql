-- The feeds of a database. What each of them owns is made with it, by changefeed.create_log.

create schema changefeed;
comment on schema changefeed is 'Change feeds: what an operator calls.';

create schema changefeed_log;
comment on schema changefeed_log is 'Change feeds: the logs and ticks themselves. Written by capture, read by the gateway.';

create table changefeed.migrations (
    set        text not null,
    version    integer not null,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (set, version)
);
comment on table changefeed.migrations is 'What `changefeed migrate` applied, and the sha256 of each file.';

create table changefeed.feeds (
    feed_id               integer generated always as identity primary key,
    name                  text not null unique check (name <> ''),
    source                regclass,
    source_oid            oid,
    image_mode            text not null check (image_mode in ('captured', 'current', 'none')),
    image_function        text check ((image_mode = 'current') = (image_function is not null)),
    key_columns           text[] not null check (cardinality(key_columns) > 0),
    key_types             text[] not null check (key_types <@ array ['string', 'number', 'boolean', 'binary']),
    partition_key_columns text[] not null check (cardinality(partition_key_columns) > 0),
    doorbell              text not null check (doorbell in ('notify', 'poll')),
    capture               text not null default 'statement' check (capture in ('statement', 'row')),
    always                boolean not null default false,
    key_numbers           smallint[],
    partition_key_numbers smallint[],
    image_numbers         smallint[],
    image_columns         text[],
    text_forms            text[],
    shape                 text,
    stopped               text,
    retention             interval not null default '7 days' check (retention between '1 day' and '366 days'),
    incarnation           uuid not null default gen_random_uuid(),
    home                  text,
    created_at            timestamptz not null default clock_timestamp(),
    check (cardinality(key_columns) = cardinality(key_types))
);
comment on table changefeed.feeds is 'One row a feed; its log is changefeed_log.log_<feed_id>.';
comment on column changefeed.feeds.source is 'The watched table, which a dump names; null for a feed made of several.';
comment on column changefeed.feeds.source_oid is 'The table that the numbers of columns are of: a restored one has another.';
comment on column changefeed.feeds.image_mode is 'captured: the trigger stores the row; current: read with the page; none.';
comment on column changefeed.feeds.image_function is 'Takes text[] of keys, returns key, partition_key, image of those that exist now.';
comment on column changefeed.feeds.capture is 'Whether triggers fire once a statement or once a row.';
comment on column changefeed.feeds.always is 'Captured under session_replication_role = replica too.';
comment on column changefeed.feeds.key_numbers is 'attnum of the key columns, which a renamed column keeps; null without a source.';
comment on column changefeed.feeds.image_columns is 'The columns of the image when the table was watched; null for all.';
comment on column changefeed.feeds.image_numbers is 'attnum of the columns of the image; null for all.';
comment on column changefeed.feeds.text_forms is 'How the key columns, then the partition key columns, are written.';
comment on column changefeed.feeds.shape is 'The table that the capture functions were made for.';
comment on column changefeed.feeds.stopped is 'Why changes were not captured when check_feeds last looked; null if they were.';
comment on column changefeed.feeds.incarnation is 'A re-created feed has another one, and refuses the tokens of the first.';
comment on column changefeed.feeds.home is 'Where its log was made; elsewhere it is a copy, whose history begins anew.';

create table changefeed.partitions (
    feed_id      integer not null references changefeed.feeds on delete cascade,
    partition_id text not null,
    low          smallint not null check (low >= 0),
    high         smallint not null check (high between low and 255),
    start_tick   bigint not null,
    end_tick     bigint check (end_tick > start_tick),
    primary key (feed_id, partition_id)
);
comment on table changefeed.partitions is
    'Physical partitions: the changes of buckets low to high in the batches after start_tick, up to and including end_tick; '
    'null while it is active. At each tick the partitions cover every bucket once.';

create table changefeed.retention_runs (
    feed_id integer primary key references changefeed.feeds on delete cascade,
    ran_at  timestamptz not null,
    steps   integer not null,
    problem text
);
comment on table changefeed.retention_runs is 'The last retention run of each feed; problem is null when all was done.';
