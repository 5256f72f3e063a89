-- A log means something only in the cluster, database and table that it was written in: its transaction ids and
-- snapshots are theirs. Restored from a dump, or copied to another database, its feed begins anew.

create or replace function changefeed.home(feed integer) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('%s/%s/%s', c.system_identifier, d.oid, to_regclass('changefeed_log.log_' || feed)::oid)
    from pg_control_system() c, pg_database d where d.datname = current_database()
$$;
comment on function changefeed.home(integer) is 'Cluster, database and table of a feed''s log as they are now.';

-- Who waits for a lock with a snapshot that is older than it does not see what others have committed meanwhile.
create or replace function changefeed.refuse_kept_snapshot() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'this needs a transaction at READ COMMITTED: at % it would not see all of the log',
            upper(current_setting('transaction_isolation')) using errcode = 'active_sql_transaction';
    end if;
end;
$$;

-- What lies beyond the newest tick may have been written since: it becomes the first batch, as of one transaction that has
-- ended, so that the next tick sees it, be it of this transaction. With the log to ourselves all of it is visible, and each
-- row's changes keep the order of their numbers. TRUNCATE empties attached days only; nobody attaches or detaches one while
-- both tables are locked.
create or replace function changefeed.begin_epoch(feed integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    perform changefeed.refuse_kept_snapshot();
    perform changefeed.lock_day_floor(feed);
    perform changefeed.lock_ticks(feed);
    execute format('lock table changefeed_log.log_%1$s, changefeed_log.tick_%1$s in access exclusive mode', feed);
    execute format('create unlogged table changefeed_log.unread_%1$s as select * from changefeed_log.log_%1$s '
                   'where seq > (select coalesce(max(last_seq), 0) from changefeed_log.tick_%1$s)', feed);
    perform changefeed.drop_loose_days(feed);
    execute format('truncate changefeed_log.log_%1$s, changefeed_log.tick_%1$s', feed);
    -- Not setval, which would count also if all this came to nothing. A clock that was ahead is forgotten.
    execute format('alter sequence changefeed_log.day_%s restart', feed);
    perform changefeed.make_first_tick(feed);
    -- P1: the first tick's own word for what it does not see; a snapshot taken now may say otherwise. The bucket, because in a
    -- database of another encoding it is another one.
    execute format($sql$
        insert into changefeed_log.log_%1$s
            (xid, seq, changed_at, bucket, created, op, partition_key, key, image, annotations)
        select pg_snapshot_xmax(t.snapshot), u.seq, least(u.changed_at, clock_timestamp()),
            case when u.bucket < 0 then u.bucket else changefeed.bucket(u.partition_key) end,
            u.created, u.op, u.partition_key, u.key, u.image, u.annotations
        from changefeed_log.unread_%1$s u, changefeed_log.tick_%1$s t;
        drop table changefeed_log.unread_%1$s
    $sql$, feed);
    delete from changefeed.partitions p where p.feed_id = feed and p.end_tick is not null;
    update changefeed.partitions p set start_tick = 1 where p.feed_id = feed;
    update changefeed.feeds f set home = changefeed.home(feed), incarnation = gen_random_uuid() where f.feed_id = feed;
    perform changefeed.mark_days(feed);
end;
$$;
comment on function changefeed.begin_epoch(integer) is
    'Begins the history of a feed anew, without a loss of what no tick has bounded yet: all earlier tokens are refused. By '
    'itself after a restore; by hand on a physical clone whose readers shall not be mistaken for the original''s.';

-- Not immutable in truth. With a constant, PostgreSQL answers it when it makes the plan, so once a session; and what is at
-- home in a session stays so. To ask for each tick would cost as much as the tick.
create or replace function changefeed.is_at_home(feed integer) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) $$;

-- Runs as its owner: whoever may make a tick may find out that the log has moved, and nobody can do more with it.
create or replace function changefeed.adopt_log(feed integer) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.lock_day_floor(feed);
    perform changefeed.lock_ticks(feed);
    if exists (select from changefeed.feeds f where f.feed_id = feed and f.home = changefeed.home(feed)) then
        return false;
    end if;
    perform changefeed.begin_epoch(feed);
    return true;
end;
$$;
comment on function changefeed.adopt_log(integer) is
    'Begins a feed anew if its log was restored from a dump or its database copied; answers whether it did.';
