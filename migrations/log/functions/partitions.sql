-- Physical partitions are split and merged between two batches: a tick of their own ends the parents and starts the
-- children, in one transaction. Who sees that tick sees the new partitions.

create or replace function changefeed.replace_partitions(feed integer, parents text[], bounds smallint[])
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    tick bigint;
begin
    select t.id into tick from changefeed.tick(feed, true) t;
    execute format('update changefeed_log.tick_%s set topology = id where id = $1', feed) using tick;
    update changefeed.partitions p set end_tick = tick where p.feed_id = feed and p.partition_id = any (parents);
    perform pg_notify('changefeed', json_build_object('feed', feed)::text)
    from changefeed.feeds f where f.feed_id = feed and f.doorbell = 'notify';
    return query
        insert into changefeed.partitions (feed_id, partition_id, low, high, start_tick)
        select feed, format('%s-%s@%s', b.low, b.next - 1, tick), b.low, b.next - 1, tick
        from (select u.low, lead(u.low) over (order by u.low) as next from unnest(bounds) u (low)) b
        where b.next is not null
        returning *;
end;
$$;

-- Takes the lock of the feed's ticks, so that nobody else changes its partitions until the transaction ends.
create or replace function changefeed.lock_feed(name text) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    feed integer;
begin
    select f.feed_id into feed from changefeed.feeds f where f.name = lock_feed.name;
    if feed is null then
        raise exception 'there is no feed %', quote_nullable(name)
            using errcode = 'undefined_object', hint = 'select name from changefeed.feeds lists them.';
    end if;
    perform changefeed.lock_ticks(feed);
    return feed;
end;
$$;

create or replace function changefeed.active_partition(feed integer, partition_id text) returns changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_one changefeed.partitions;
begin
    select p.* into found_one from changefeed.partitions p
        where p.feed_id = feed and p.partition_id = active_partition.partition_id;
    if found_one is null then
        raise exception 'there is no partition %', quote_nullable(partition_id)
            using errcode = 'undefined_object', hint = '`changefeed partitions list` names them.';
    elsif found_one.end_tick is not null then
        raise exception 'the partition % is retired', quote_literal(partition_id)
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'It was split or merged before: `changefeed partitions list` names its children.';
    end if;
    return found_one;
end;
$$;

create or replace function changefeed.split_partition(feed text, partition_id text, first_bucket integer default null)
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    feed_id integer := changefeed.lock_feed(feed);
    parent  changefeed.partitions := changefeed.active_partition(feed_id, partition_id);
    middle  integer := coalesce(first_bucket, (parent.low + parent.high + 1) / 2);
begin
    if parent.low = parent.high then
        raise exception 'the partition % has one bucket only', quote_literal(partition_id)
            using errcode = 'invalid_parameter_value', hint = 'A bucket cannot be split: choose another partition.';
    elsif middle <= parent.low or middle > parent.high then
        raise exception 'first_bucket is %, outside of the partition %', middle, quote_literal(partition_id)
            using errcode = 'invalid_parameter_value',
                  hint = format('It is the first bucket of the upper part: choose %s to %s.', parent.low + 1, parent.high);
    end if;
    return query select * from changefeed.replace_partitions(
        feed_id, array [partition_id], array [parent.low, middle, parent.high + 1]::smallint[]);
end;
$$;
comment on function changefeed.split_partition(text, text, integer) is
    'Retires a physical partition and starts two in its place, the upper one from first_bucket on (default: the middle). '
    'Needs a transaction of its own. Answers the new ones.';

create or replace function changefeed.merge_partitions(feed text, first_id text, second_id text)
returns setof changefeed.partitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    feed_id integer := changefeed.lock_feed(feed);
    one     changefeed.partitions := changefeed.active_partition(feed_id, first_id);
    two     changefeed.partitions := changefeed.active_partition(feed_id, second_id);
begin
    if one.high + 1 <> two.low and two.high + 1 <> one.low then
        raise exception 'the partitions % and % are not neighbours', quote_literal(first_id), quote_literal(second_id)
            using errcode = 'invalid_parameter_value',
                  hint = 'Merge two partitions where one begins with the bucket after the other''s last.';
    end if;
    return query select * from changefeed.replace_partitions(
        feed_id, array [first_id, second_id],
        array [least(one.low, two.low), greatest(one.high, two.high) + 1]::smallint[]);
end;
$$;
comment on function changefeed.merge_partitions(text, text, text) is
    'Retires two neighbouring physical partitions and starts one in their place. Needs a transaction of its own.';
