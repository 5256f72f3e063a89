-- The time of a change is the default of its column: capture's INSERT is one step less. Triggers are made anew when what
-- makes them has changed.

drop function if exists changefeed.doorbell_sql(integer, text, text), changefeed.capture_body(integer, text),
    changefeed.written_sql(integer, text, text), changefeed.paired_sql(text, text, text, text, text);

alter table changefeed.feeds add triggers text;
comment on column changefeed.feeds.triggers is 'Which text of changefeed.create_triggers made the triggers.';

do $do$
declare
    f record;
begin
    for f in select feed_id, source from changefeed.feeds order by feed_id loop
        -- As writers take them: the table first, then the log. Until the end of the migration, which writes capture anew.
        if f.source is not null and to_regclass(f.source::text) is not null then
            execute format('lock table %s in share row exclusive mode', f.source);
        end if;
        execute format('alter table changefeed_log.log_%s alter changed_at set default clock_timestamp()', f.feed_id);
    end loop;
end;
$do$;
