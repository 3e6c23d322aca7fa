CREATE OR REPLACE FUNCTION aiotaskq_enter(asked text, at bigint)
RETURNS TABLE (gate text, free bigint)
LANGUAGE plpgsql ROWS 10 SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
-- Locks the gates of a push, makes those that do not exist, and returns for each gate how many of its tasks may pass.
-- These are the first ones in claim order: where a slot is free, no other task waits. Returns no row where more than
-- slots decides (a rate, a closed gate, other bounds, a paused queue, tasks that wait at a gate with room): then the
-- push must not insert. Each statement sees what was committed before it began, so the count is that under the lock.
#variable_conflict use_column
DECLARE
    keys text[];
    locked bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    keys := ARRAY(SELECT r.key FROM json_to_recordset(asked::json) AS r(key text));
    PERFORM 1 FROM aiotaskq_gate AS g WHERE g.key = ANY (keys) ORDER BY g.key COLLATE "C" FOR UPDATE;
    GET DIAGNOSTICS locked = ROW_COUNT;
    IF locked < cardinality(keys) THEN
        INSERT INTO aiotaskq_gate (key, cap, fair_window, burst, fixed, tat, closed_until)
        SELECT r.key, r.cap, r.fair_window, 1, false, 0, 0
        FROM json_to_recordset(asked::json) AS r(key text, cap bigint, fair_window bigint)
        ORDER BY r.key COLLATE "C"
        ON CONFLICT DO NOTHING;
        PERFORM 1 FROM aiotaskq_gate AS g WHERE g.key = ANY (keys) ORDER BY g.key COLLATE "C" FOR UPDATE;
    END IF;
    IF EXISTS (SELECT FROM aiotaskq_queue AS q WHERE q.paused) THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT r.key, h.free,
            (g.fixed OR (g.cap IS NOT DISTINCT FROM r.cap AND g.fair_window IS NOT DISTINCT FROM r.fair_window))
            AND g.interval_us IS NULL AND g.max_waiting IS NULL AND g.next_at IS NULL AND g.closed_until <= at
            AND (h.free <= 0 OR (
                SELECT w.task_id FROM task_queue AS w
                WHERE w.live_gate = r.key AND w.run_at = 4611686018427387904
                AND coalesce(w.status, 'pending') = 'pending'
                ORDER BY w.priority, w.due_at, w.seq LIMIT 1
            ) IS NULL) AS slots_only
        FROM json_to_recordset(asked::json) AS r(key text, cap bigint, fair_window bigint)
        JOIN aiotaskq_gate AS g ON g.key = r.key
        CROSS JOIN LATERAL (
            SELECT coalesce(least(g.cap, g.fair_window), 4611686018427387904) - (
                SELECT count(*) FROM task_queue AS t
                WHERE t.live_gate = r.key AND t.run_at < 4611686018427387904
                AND coalesce(t.status, 'pending') IN ('pending', 'running')
                -- From the earliest live task on: before it, the index has a dead entry of each task that has had a
                -- slot since the last vacuum. As held_of() in gate_statements.py.
                AND t.run_at >= (
                    SELECT e.run_at FROM task_queue AS e
                    WHERE e.live_gate = r.key AND e.run_at < 4611686018427387904
                    AND e.run_at > (SELECT -9223372036854775808)
                    AND coalesce(e.status, 'pending') IN ('pending', 'running')
                    ORDER BY e.run_at LIMIT 1
                )
            ) - (
                SELECT count(*) FROM aiotaskq_slot AS s JOIN task_queue AS t ON t.task_id = s.task_id
                WHERE s.gate = r.key AND coalesce(t.status, 'pending') IN ('pending', 'running')
            ) AS free OFFSET 0
        ) AS h
    )
    SELECT f.key, greatest(f.free, 0) FROM found AS f
    WHERE (SELECT bool_and(a.slots_only) AND count(*) = cardinality(keys) FROM found AS a);
END
$function$
