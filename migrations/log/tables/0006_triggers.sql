-- Triggers are made anew when what makes them has changed.

drop function if exists changefeed.doorbell_sql(integer, text, text), changefeed.capture_body(integer, text),
    changefeed.written_sql(integer, text, text), changefeed.paired_sql(text, text, text, text, text),
    changefeed.append_sql(integer, text, text);

alter table changefeed.feeds add triggers text;
comment on column changefeed.feeds.triggers is 'Which text of changefeed.create_triggers made the triggers.';
