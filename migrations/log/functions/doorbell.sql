-- The bell of a feed rings only for gateways that sleep.
--
-- bell_<feed> counts who went to sleep, in steps of a thousand; rung_<feed> is how far rings were answered. The bell is armed
-- while bell is ahead of rung. Both are sequences: what is done to one counts at once, for everybody, whatever becomes of
-- the transaction.
--
-- Nothing is missed: a writer draws its number first and looks at the bell afterwards (capture.sql); a gateway arms the bell
-- first and reads the sequence afterwards (tick_sql). So either the writer sees the armed bell, or the gateway sees a
-- number that it cannot account for, and stays awake. All who commit while it is armed notify: one that commits late, or
-- never, harms nobody. A ring carries the value that the bell had, and who hears it answers up to that value: whoever had
-- armed the bell by then hears the same ring, and whoever arms it later is ahead of the answer, however late that comes.
-- Nobody is left to answer: a ring moves rung by one, so that after a thousand the bell is silent. The safety poll finds what
-- was rung for a gateway that did not hear it, and arms the bell again.

create or replace function changefeed.ring(feed integer, partition_key text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform nextval(format('changefeed_log.rung_%s', feed)::regclass);
    perform pg_notify('changefeed', json_build_object(
        'feed', feed, 'seq', currval(format('changefeed_log.seq_%s', feed)::regclass),
        'partition_key', case when length(partition_key) <= 1000 then partition_key end,
        'bell', pg_sequence_last_value(format('changefeed_log.bell_%s', feed)::regclass))::text);
end;
$$;
comment on function changefeed.ring(integer, text) is 'Wakes the gateways that sleep, when the transaction commits.';
