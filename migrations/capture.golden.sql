-- What capture makes of this table, once a statement and once a row. Made by `make schema`; do not edit.
--     create table orders (id int primary key, space int not null, note text);
--     select changefeed.watch('orders', partition_key => '{space}');
-- docs/providers/postgres.md walks it. The number of the table and of its shape differ from database to database.


CREATE OR REPLACE FUNCTION changefeed_log.capture_1_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(1, 'old_rows', NULL) using said;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (null::pg_catalog.text));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'delete', (o.space::pg_catalog.text collate pg_catalog."C"), (o.id::pg_catalog.text collate pg_catalog."C"), null::pg_catalog.text from old_rows o) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select (r.space::pg_catalog.text collate pg_catalog."C") from old_rows r limit 1));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_1_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(1, NULL, 'new_rows') using said;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (null::pg_catalog.text));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select true, 'upsert', (n.space::pg_catalog.text collate pg_catalog."C"), (n.id::pg_catalog.text collate pg_catalog."C"), pg_catalog.row_to_json(n.*)::pg_catalog.text from new_rows n) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select (r.space::pg_catalog.text collate pg_catalog."C") from new_rows r limit 1));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_1_rekey()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
begin
    if coalesce(pg_catalog.current_setting('changefeed.mode_1', true), '') operator(pg_catalog.<>) 'nested' then
        perform pg_catalog.set_config('changefeed.mode_1', 'rekeyed', true);
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_1_truncate()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if true
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        -1, c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'truncate', '', '', null::pg_catalog.text) c (created, op, partition_key, key, image);
    if mode operator(pg_catalog.=) 'nested' then
        were := changefeed.pin_settings();
        execute changefeed.left_now_sql(1) using said;
        perform changefeed.restore_settings(were);
    end if;
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (null::pg_catalog.text));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_1_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_1', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) ''
                or changefeed.may_see_old_triggers('<table>'::pg_catalog.regclass) then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(1, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_1'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_1', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(1, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(1, 'old_rows', 'new_rows') using said;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (null::pg_catalog.text));
            end if;
            return null;
        end if;
        if mode operator(pg_catalog.=) 'rekeyed' or changefeed.may_see_old_triggers('<table>'::pg_catalog.regclass) then
            insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
            select pg_catalog.pg_current_xact_id(), moment,
                changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
            from (
            with pair as (
                select n.image, n.partition_key, n.key, o.partition_key as old_partition_key, o.key as old_key
                from (select (n.space::pg_catalog.text collate pg_catalog."C") as partition_key, (n.id::pg_catalog.text collate pg_catalog."C") as key, pg_catalog.row_to_json(n.*)::pg_catalog.text as image from new_rows n) n
                full join (select (o.space::pg_catalog.text collate pg_catalog."C") as partition_key, (o.id::pg_catalog.text collate pg_catalog."C") as key from old_rows o) o
                    on o.key operator(pg_catalog.=) n.key and o.partition_key operator(pg_catalog.=) n.partition_key
            )
            select false, 'delete', p.old_partition_key, p.old_key, null::pg_catalog.text from pair p where p.key is null
            union all
            select p.old_key is null, 'upsert', p.partition_key, p.key, p.image from pair p where p.key is not null
        ) c (created, op, partition_key, key, image);
            if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(1, (select (r.space::pg_catalog.text collate pg_catalog."C") from new_rows r limit 1));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'upsert', (n.space::pg_catalog.text collate pg_catalog."C"), (n.id::pg_catalog.text collate pg_catalog."C"), pg_catalog.row_to_json(n.*)::pg_catalog.text from new_rows n) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_1'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_1'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(1, (select (r.space::pg_catalog.text collate pg_catalog."C") from new_rows r limit 1));
    end if;
    return null;
end
$function$
;

CREATE TRIGGER changefeed_1_delete AFTER DELETE ON public.orders REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_delete();

CREATE TRIGGER changefeed_1_insert AFTER INSERT ON public.orders REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_insert();

CREATE TRIGGER changefeed_1_rekey AFTER UPDATE OF id, space ON public.orders FOR EACH ROW WHEN (record_image_ne(ROW(old.id, old.space), ROW(new.id, new.space))) EXECUTE FUNCTION changefeed_log.capture_1_rekey();

CREATE TRIGGER changefeed_1_truncate AFTER TRUNCATE ON public.orders FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_truncate();

CREATE TRIGGER changefeed_1_update AFTER UPDATE ON public.orders REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_update();

CREATE OR REPLACE FUNCTION changefeed_log.capture_2_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_2', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(2, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_2', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(2, '(select ($2).*)', NULL) using said, old, new;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(2, (null::pg_catalog.text));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_2 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'delete', (old.space::pg_catalog.text collate pg_catalog."C"), (old.id::pg_catalog.text collate pg_catalog."C"), null::pg_catalog.text) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(2, (select (old.space::pg_catalog.text collate pg_catalog."C")));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_2_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_2', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(2, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_2', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(2, NULL, '(select ($3).*)') using said, old, new;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(2, (null::pg_catalog.text));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_2 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select true, 'upsert', (new.space::pg_catalog.text collate pg_catalog."C"), (new.id::pg_catalog.text collate pg_catalog."C"), (select pg_catalog.row_to_json(i.*) from (select new.id, new.space, new.note) i)::pg_catalog.text) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(2, (select (new.space::pg_catalog.text collate pg_catalog."C")));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_2_truncate()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if true
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(2, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_2', true);
    end if;
    insert into changefeed_log.log_2 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        -1, c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'truncate', '', '', null::pg_catalog.text) c (created, op, partition_key, key, image);
    if mode operator(pg_catalog.=) 'nested' then
        were := changefeed.pin_settings();
        execute changefeed.left_now_sql(2) using said;
        perform changefeed.restore_settings(were);
    end if;
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(2, (null::pg_catalog.text));
    end if;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION changefeed_log.capture_2_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
    said    pg_catalog.text;
    mode    pg_catalog.text;
    written pg_catalog.int8;
    were    pg_catalog.text[];
    moment  pg_catalog.timestamptz := pg_catalog.clock_timestamp();
begin
    if (case when pg_catalog.current_setting('changefeed.mode_2', true) operator(pg_catalog.<>) ''
                or pg_catalog.current_setting('changefeed.annotations', true) operator(pg_catalog.<>) '' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        or pg_catalog.date_bin('24:00', moment, '1970-01-01 00:00:00+00') operator(pg_catalog.<>) pg_catalog.to_timestamp(
            pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)
            operator(pg_catalog.*) (86400.0 operator(pg_catalog./) 1099511627776.0)::pg_catalog.float8)
    then
        perform pg_catalog.pg_current_xact_id();
        moment := (
                select case when d.now operator(pg_catalog.<) (d.day operator(pg_catalog.+) '24:00'::pg_catalog.interval)
                    then greatest(d.now, d.day) else changefeed.beyond_day(2, d.now) end
                from (select pg_catalog.clock_timestamp() as now, changefeed.day_start(
                    pg_catalog.pg_sequence_last_value('changefeed_log.day_2'::pg_catalog.regclass)) as day offset 0) d);
        said := changefeed.checked_annotations(pg_catalog.current_setting('changefeed.annotations', true));
        mode := pg_catalog.current_setting('changefeed.mode_2', true);
        if (case when mode operator(pg_catalog.=) 'nested' then null
            else '<table>'::pg_catalog.regclass end) is null
        or changefeed.has_drifted(2, '<shape>')
        then
            were := changefeed.pin_settings();
            execute changefeed.settled_now_sql(2, '(select ($2).*)', '(select ($3).*)') using said, old, new;
            get diagnostics written = row_count;
            perform changefeed.restore_settings(were);
            if written operator(pg_catalog.>) 0 and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
                perform changefeed.tell(2, (null::pg_catalog.text));
            end if;
            return null;
        end if;
    end if;
    insert into changefeed_log.log_2 (xid, changed_at, bucket, created, op, partition_key, key, image, annotations)
    select pg_catalog.pg_current_xact_id(), moment,
        changefeed.bucket(c.partition_key), c.created, c.op, c.partition_key, c.key, c.image, said
    from (select false, 'delete', (old.space::pg_catalog.text collate pg_catalog."C"), (old.id::pg_catalog.text collate pg_catalog."C"), null::pg_catalog.text where ((old.space::pg_catalog.text collate pg_catalog."C") operator(pg_catalog.<>) (new.space::pg_catalog.text collate pg_catalog."C") or (old.id::pg_catalog.text collate pg_catalog."C") operator(pg_catalog.<>) (new.id::pg_catalog.text collate pg_catalog."C")) union all select ((old.space::pg_catalog.text collate pg_catalog."C") operator(pg_catalog.<>) (new.space::pg_catalog.text collate pg_catalog."C") or (old.id::pg_catalog.text collate pg_catalog."C") operator(pg_catalog.<>) (new.id::pg_catalog.text collate pg_catalog."C")), 'upsert', (new.space::pg_catalog.text collate pg_catalog."C"), (new.id::pg_catalog.text collate pg_catalog."C"), (select pg_catalog.row_to_json(i.*) from (select new.id, new.space, new.note) i)::pg_catalog.text) c (created, op, partition_key, key, image);
    if found and (pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1 or pg_catalog.pg_sequence_last_value('changefeed_log.bell_2'::pg_catalog.regclass)
            operator(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value('changefeed_log.rung_2'::pg_catalog.regclass), 0)) then
        perform changefeed.tell(2, (select (new.space::pg_catalog.text collate pg_catalog."C")));
    end if;
    return null;
end
$function$
;

CREATE TRIGGER changefeed_2_delete AFTER DELETE ON public.orders FOR EACH ROW EXECUTE FUNCTION changefeed_log.capture_2_delete();

CREATE TRIGGER changefeed_2_insert AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION changefeed_log.capture_2_insert();

CREATE TRIGGER changefeed_2_truncate AFTER TRUNCATE ON public.orders FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_2_truncate();

CREATE TRIGGER changefeed_2_update AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION changefeed_log.capture_2_update();
