CREATE OR REPLACE FUNCTION aiotaskq_hand_on(
    asked text, at bigint, most bigint, queues text, owner text, until bigint, ended bigint
)
RETURNS TABLE (
    task_id text, task_type text, params text, priority bigint, retry_count bigint, max_retries bigint,
    created_at bigint, queue text, run_at bigint, seq bigint, timeout double precision, flow text, fence bigint,
    others text, missed text, more boolean
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
-- Hands the slots on that tasks have left, and claims up to `most` tasks, after the statement that calls it has written
-- these (`ended` is their number). Each statement sees what is committed when it begins, so the slots are counted as
-- they are under the locks of the gates. `asked` has the gates, and the flow that tasks must have to pass here. A gate
-- at which that is not all there is to do is due then, and returned in `missed`; if there is one, nothing is claimed.
#variable_conflict use_column
DECLARE
    keys text[];
    shared text[];
    names text[];
    waited text[];
    lost text[];
    crowd text[];
    places tid[];
    mine boolean;
    level bigint;
    start bigint;
    stamp bigint;
    last bigint := -9223372036854775808;
    room bigint := most;
    n bigint;
BEGIN
    IF ended < 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(r.key), array_agg(r.key) FILTER (WHERE r.shared) INTO keys, shared
    FROM json_to_recordset(asked::json) AS r(key text, shared boolean);
    names := ARRAY(SELECT json_array_elements_text(queues::json));
    IF ended > 0 AND current_setting('transaction_isolation') <> 'read committed' THEN
        lost := keys;
    ELSIF ended > 0 THEN
        PERFORM 1 FROM aiotaskq_gate AS g WHERE g.key = ANY (keys) ORDER BY g.key COLLATE "C" FOR UPDATE;
        SELECT array_agg(f.key) FILTER (WHERE f.usual AND f.waits), array_agg(f.key) FILTER (WHERE NOT f.usual)
        INTO waited, lost
        FROM (
            SELECT k.key, w.task_id IS NOT NULL AS waits,
                g.interval_us IS NULL AND g.next_at IS NULL AND g.closed_until <= at AND g.key IS NOT NULL AS usual
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
    IF waited IS NOT NULL THEN
        SELECT array_agg(DISTINCT f.key) FILTER (WHERE NOT f.good), array_agg(f.place) FILTER (WHERE f.good),
            bool_and(queues IS NULL OR f.queue = ANY (names))
        INTO crowd, places, mine
        FROM (
            SELECT k.key, s.place, s.queue, bool_and(s.good) OVER (PARTITION BY k.key) AS good
            FROM unnest(waited) AS k(key)
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
                -- Read without a lock: a task that is locked is one of the first all the same.
                SELECT t.ctid AS place, t.queue, h.free <= 500 AND coalesce(t.due_at, 0) <= at
                    AND coalesce(t.expires_at, 4611686018427387904) > at AND t.flow = r.flow AS good
                FROM task_queue AS t
                WHERE t.live_gate = k.key AND t.run_at = 4611686018427387904
                AND coalesce(t.status, 'pending') = 'pending'
                AND t.queue NOT IN (SELECT q.name FROM aiotaskq_queue AS q WHERE q.paused)
                ORDER BY t.priority, t.due_at, t.seq LIMIT greatest(least(h.free, 500), 0)
            ) AS s
        ) AS f;
        lost := lost || crowd;
    END IF;
    IF places IS NOT NULL AND lost IS NULL AND mine AND cardinality(places) <= room THEN
        -- Is anything else ready?
        LOOP
            SELECT t.priority, t.run_at INTO level, start FROM task_queue AS t
            WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority > last
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
            EXIT WHEN NOT FOUND OR start <= at;
            last := level;
        END LOOP;
        IF NOT FOUND THEN
            PERFORM 1 FROM task_queue AS t WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority IS NULL
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        END IF;
        IF NOT FOUND THEN
            RETURN QUERY
            WITH picked AS (
                SELECT t.ctid AS place FROM task_queue AS t
                -- The guard again: of a task that was changed meanwhile it is the new row that is locked.
                WHERE t.ctid = ANY (places) AND coalesce(t.live_gate, '') = ANY (waited)
                AND abs(t.run_at) = 4611686018427387904 AND coalesce(t.status, 'pending') = 'pending'
                AND coalesce(t.due_at, 0) <= at
                FOR UPDATE SKIP LOCKED
            )
            UPDATE task_queue AS t SET
                run_at = greatest(coalesce(t.due_at, at), CASE WHEN t.live_gate = ANY (shared) THEN at ELSE 0 END),
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
            GET DIAGNOSTICS n = ROW_COUNT;
            room := 0;
            IF n < cardinality(places) THEN
                lost := waited;
            END IF;
            places := NULL;
        END IF;
    END IF;
    IF places IS NOT NULL THEN
        WITH picked AS (
            SELECT t.ctid AS place FROM task_queue AS t
            WHERE t.ctid = ANY (places) AND coalesce(t.live_gate, '') = ANY (waited)
            AND abs(t.run_at) = 4611686018427387904 AND coalesce(t.status, 'pending') = 'pending'
            AND coalesce(t.due_at, 0) <= at
            FOR UPDATE SKIP LOCKED
        )
        UPDATE task_queue AS t SET
            run_at = greatest(coalesce(t.due_at, at), CASE WHEN t.live_gate = ANY (shared) THEN at ELSE 0 END),
            due_at = NULL
        WHERE t.ctid = ANY (ARRAY(SELECT p.place FROM picked AS p));
        GET DIAGNOSTICS n = ROW_COUNT;
        IF n < cardinality(places) THEN
            lost := lost || waited;
        END IF;
    END IF;
    IF lost IS NOT NULL THEN
        UPDATE aiotaskq_gate AS g SET next_at = least(g.next_at, at) WHERE g.key = ANY (lost);
        room := 0;
    END IF;
    last := -9223372036854775808;
    WHILE room > 0 LOOP
        SELECT t.priority, t.run_at, t.seq INTO level, start, stamp FROM task_queue AS t
        WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority > last
        ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        EXIT WHEN NOT FOUND;
        last := level;
        CONTINUE WHEN start > at;
        RETURN QUERY
        WITH picked AS (
            SELECT t.ctid AS place FROM task_queue AS t
            WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority = level AND t.run_at >= start
            AND (t.run_at > start OR t.seq >= stamp) AND t.run_at <= at
            AND t.queue NOT IN (SELECT q.name FROM aiotaskq_queue AS q WHERE q.paused)
            AND (queues IS NULL OR t.queue = ANY (names)) AND (t.expires_at IS NULL OR t.expires_at > at)
            ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT room
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
        GET DIAGNOSTICS n = ROW_COUNT;
        room := room - n;
    END LOOP;
    -- Only other programs write tasks without a priority, which come last.
    IF room > 0 AND lost IS NULL THEN
        PERFORM 1 FROM task_queue AS t WHERE t.status = 'pending' AND t.run_at < 4611686018427387904 AND t.priority IS NULL
        ORDER BY t.priority, t.run_at, t.seq, t.task_id LIMIT 1;
        IF FOUND THEN
            lost := '{}';
        END IF;
    END IF;
    more := places IS NOT NULL AND (room <= 0 OR queues IS NOT NULL);
    IF lost IS NOT NULL OR more THEN
        missed := array_to_json(lost)::text;
        RETURN NEXT;
    END IF;
END
$function$
