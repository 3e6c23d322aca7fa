CREATE OR REPLACE FUNCTION aiotaskq_hand_on(
    asked text, at bigint, most bigint, queues text, owner text, until bigint, ended bigint
)
RETURNS TABLE (
    task_id text, task_type text, params text, priority bigint, retry_count bigint, max_retries bigint,
    created_at bigint, queue text, run_at bigint, seq bigint, timeout double precision, flow text, fence bigint,
    others text, missed text, more boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
-- Hands on the slots of ended tasks, and claims up to `most` tasks. The statement that calls it has written the ended
-- tasks; `ended` is their number. `asked` has their gates as JSON, each with the flow that a task must have to pass
-- here, and whether it is a fair share. A gate at which more than slots decides is made due, and returned in `missed`.
-- If there is one, nothing is claimed: the caller admits it, and then claims. `more` is whether tasks may have become
-- ready that are not returned. Each statement sees what was committed before it began, so the slots are counted as they
-- are under the locks of the gates.
#variable_conflict use_column
DECLARE
    keys text[];
    fair_keys text[];
    queue_names text[];
    waited_keys text[];  -- gates at which tasks wait, and only slots decide
    missed_keys text[];  -- gates at which more than slots decides
    unfit_keys text[];  -- those of waited_keys with a task among the first ones that must not pass here
    places tid[];  -- the tasks that may pass
    all_in_queues boolean;
    head_priority bigint;
    head_run_at bigint;
    head_seq bigint;
    last_priority bigint := -9223372036854775808;
    wanted bigint := most;
    written bigint;
BEGIN
    IF ended < 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(r.key), array_agg(r.key) FILTER (WHERE r.shared) INTO keys, fair_keys
    FROM json_to_recordset(asked::json) AS r(key text, shared boolean);
    queue_names := ARRAY(SELECT json_array_elements_text(queues::json));
    IF ended > 0 AND current_setting('transaction_isolation') <> 'read committed' THEN
        missed_keys := keys;
    ELSIF ended > 0 THEN
        PERFORM 1 FROM aiotaskq_gate AS g WHERE g.key = ANY (keys) ORDER BY g.key COLLATE "C" FOR UPDATE;
        SELECT array_agg(f.key) FILTER (WHERE f.slots_only AND f.waits),
            array_agg(f.key) FILTER (WHERE NOT f.slots_only)
        INTO waited_keys, missed_keys
        FROM (
            SELECT k.key, w.task_id IS NOT NULL AS waits,
                g.interval_us IS NULL AND g.next_at IS NULL AND g.closed_until <= at AND g.key IS NOT NULL AS slots_only
            FROM unnest(keys) AS k(key)
            LEFT JOIN aiotaskq_gate AS g ON g.key = k.key
            LEFT JOIN LATERAL (
                SELECT t.task_id FROM task_queue AS t
                WHERE t.live_gate = k.key AND t.run_at = 4611686018427387904
                AND coalesce(t.status, 'pending') = 'pending'
                ORDER BY t.priority, t.due_at, t.seq LIMIT 1
            ) AS w ON true
        ) AS f;
    END IF;
    IF waited_keys IS NOT NULL THEN
        SELECT array_agg(DISTINCT f.key) FILTER (WHERE NOT f.fits), array_agg(f.place) FILTER (WHERE f.fits),
            bool_and(queues IS NULL OR f.queue = ANY (queue_names))
        INTO unfit_keys, places, all_in_queues
        FROM (
            SELECT k.key, s.place, s.queue, bool_and(s.fits) OVER (PARTITION BY k.key) AS fits
            FROM unnest(waited_keys) AS k(key)
            JOIN aiotaskq_gate AS g ON g.key = k.key
            JOIN json_to_recordset(asked::json) AS r(key text, flow text) ON r.key = k.key
            CROSS JOIN LATERAL (
                SELECT coalesce(least(g.cap, g.fair_window), 4611686018427387904) - (
                    SELECT count(*) FROM task_queue AS t
                    WHERE t.live_gate = k.key AND t.run_at < 4611686018427387904
                    AND coalesce(t.status, 'pending') IN ('pending', 'running')
                    AND t.run_at >= (
                        SELECT e.run_at FROM task_queue AS e
                        WHERE e.live_gate = k.key AND e.run_at < 4611686018427387904
                        AND e.run_at > (SELECT -9223372036854775808)
                        AND coalesce(e.status, 'pending') IN ('pending', 'running')
                        ORDER BY e.run_at LIMIT 1
                    )
                ) - (
                    SELECT count(*) FROM aiotaskq_slot AS s JOIN task_queue AS t ON t.task_id = s.task_id
                    WHERE s.gate = k.key AND coalesce(t.status, 'pending') IN ('pending', 'running')
                ) AS free OFFSET 0
            ) AS h
            CROSS JOIN LATERAL (
                -- Read without a lock: a task that another transaction has locked is still one of the first.
                -- At most 500, so that one statement locks and writes a bounded number of rows.
                SELECT t.ctid AS place, t.queue, h.free <= 500 AND coalesce(t.due_at, 0) <= at
                    AND coalesce(t.expires_at, 4611686018427387904) > at AND t.flow = r.flow AS fits
                FROM task_queue AS t
                WHERE t.live_gate = k.key AND t.run_at = 4611686018427387904
                AND coalesce(t.status, 'pending') = 'pending'
                AND t.queue NOT IN (SELECT q.name FROM aiotaskq_queue AS q WHERE q.paused)
                ORDER BY t.priority, t.due_at, t.seq LIMIT greatest(least(h.free, 500), 0)
            ) AS s
        ) AS f;
        missed_keys := missed_keys || unfit_keys;
    END IF;
    IF places IS NOT NULL AND missed_keys IS NULL AND all_in_queues AND cardinality(places) <= wanted THEN
        -- Is anything else ready?
        LOOP
            SELECT t.priority, t.run_at INTO head_priority, head_run_at FROM task_queue AS t
            WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority > last_priority
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
            EXIT WHEN NOT FOUND OR head_run_at <= at;
            last_priority := head_priority;
        END LOOP;
        IF NOT FOUND THEN
            PERFORM 1 FROM task_queue AS t
            WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority IS NULL
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        END IF;
        IF NOT FOUND THEN
            RETURN QUERY
            WITH picked AS (
                SELECT t.ctid AS place FROM task_queue AS t
                -- The guard again: where a task was changed meanwhile, its new row is locked.
                WHERE t.ctid = ANY (places) AND coalesce(t.live_gate, '') = ANY (waited_keys)
                AND abs(t.run_at) = 4611686018427387904 AND coalesce(t.status, 'pending') = 'pending'
                AND coalesce(t.due_at, 0) <= at
                FOR UPDATE SKIP LOCKED
            )
            UPDATE task_queue AS t SET
                run_at = greatest(coalesce(t.due_at, at), CASE WHEN t.live_gate = ANY (fair_keys) THEN at ELSE 0 END),
                due_at = NULL, status = 'running', fence = t.fence + 1, lease_owner = owner, lease_until = until,
                started_at = at / 1000000, began_at = at
            WHERE t.ctid = ANY (ARRAY(SELECT p.place FROM picked AS p))
            RETURNING t.task_id::text, t.task_type::text, t.params::text, t.priority::bigint, t.retry_count::bigint,
                t.max_retries::bigint, t.created_at::bigint, t.queue::text, t.run_at, t.seq, t.timeout, t.flow, t.fence,
                CASE WHEN coalesce(
                    t.completed_at, t.expires_at, t.ended_at, t.due_at, CASE WHEN t.cancel_requested THEN 1 END,
                    nullif(t.crashes, 0)
                ) IS NULL AND coalesce(
                    t.error_message, t.scheduler_task_id, t.unique_key, t.idempotency_key, t.result,
                    t.progress, t.usage, t.on_success, t.on_failure, t.extra, t.attempts
                ) IS NULL THEN NULL ELSE to_json(t)::text END,
                NULL::text, NULL::boolean;
            GET DIAGNOSTICS written = ROW_COUNT;
            wanted := 0;
            IF written < cardinality(places) THEN
                missed_keys := waited_keys;
            END IF;
            places := NULL;
        END IF;
    END IF;
    IF places IS NOT NULL THEN
        WITH picked AS (
            SELECT t.ctid AS place FROM task_queue AS t
            WHERE t.ctid = ANY (places) AND coalesce(t.live_gate, '') = ANY (waited_keys)
            AND abs(t.run_at) = 4611686018427387904 AND coalesce(t.status, 'pending') = 'pending'
            AND coalesce(t.due_at, 0) <= at
            FOR UPDATE SKIP LOCKED
        )
        UPDATE task_queue AS t SET
            run_at = greatest(coalesce(t.due_at, at), CASE WHEN t.live_gate = ANY (fair_keys) THEN at ELSE 0 END),
            due_at = NULL
        WHERE t.ctid = ANY (ARRAY(SELECT p.place FROM picked AS p));
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written < cardinality(places) THEN
            missed_keys := missed_keys || waited_keys;
        END IF;
    END IF;
    IF missed_keys IS NOT NULL THEN
        UPDATE aiotaskq_gate AS g SET next_at = least(g.next_at, at) WHERE g.key = ANY (missed_keys);
        wanted := 0;
    END IF;
    last_priority := -9223372036854775808;
    WHILE wanted > 0 LOOP
        SELECT t.priority, t.run_at, t.seq INTO head_priority, head_run_at, head_seq FROM task_queue AS t
        WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority > last_priority
        ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        EXIT WHEN NOT FOUND;
        last_priority := head_priority;
        CONTINUE WHEN head_run_at > at;
        RETURN QUERY
        WITH picked AS (
            SELECT t.ctid AS place FROM task_queue AS t
            WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority = head_priority
            AND t.run_at >= head_run_at AND (t.run_at > head_run_at OR t.seq >= head_seq) AND t.run_at <= at
            AND t.queue NOT IN (SELECT q.name FROM aiotaskq_queue AS q WHERE q.paused)
            AND (queues IS NULL OR t.queue = ANY (queue_names)) AND (t.expires_at IS NULL OR t.expires_at > at)
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT wanted
            FOR UPDATE SKIP LOCKED
        )
        UPDATE task_queue AS t SET
            status = 'running', fence = t.fence + 1, lease_owner = owner, lease_until = until,
            started_at = at / 1000000, began_at = at
        WHERE t.ctid = ANY (ARRAY(SELECT p.place FROM picked AS p))
        RETURNING t.task_id::text, t.task_type::text, t.params::text, t.priority::bigint, t.retry_count::bigint,
            t.max_retries::bigint, t.created_at::bigint, t.queue::text, t.run_at, t.seq, t.timeout, t.flow, t.fence,
            CASE WHEN coalesce(
                t.completed_at, t.expires_at, t.ended_at, t.due_at, CASE WHEN t.cancel_requested THEN 1 END,
                nullif(t.crashes, 0)
            ) IS NULL AND coalesce(
                t.error_message, t.scheduler_task_id, t.unique_key, t.idempotency_key, t.result,
                t.progress, t.usage, t.on_success, t.on_failure, t.extra, t.attempts
            ) IS NULL THEN NULL ELSE to_json(t)::text END,
            NULL::text, NULL::boolean;
        GET DIAGNOSTICS written = ROW_COUNT;
        wanted := wanted - written;
    END LOOP;
    -- Tasks without a priority come last; only other programs write them. `missed` is then empty: the caller claims.
    IF wanted > 0 AND missed_keys IS NULL THEN
        PERFORM 1 FROM task_queue AS t
        WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority IS NULL
        ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        IF FOUND THEN
            missed_keys := '{}';
        END IF;
    END IF;
    more := places IS NOT NULL AND (wanted <= 0 OR queues IS NOT NULL);
    IF missed_keys IS NOT NULL OR more THEN
        missed := array_to_json(missed_keys)::text;
        RETURN NEXT;
    END IF;
END
$function$
