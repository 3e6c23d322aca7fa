-- ARGV: now, packed queues or '', 1 to count the rows of every status. Returns how many rows are ready, the first
-- run_at, and the counts.
-- include: lanes

want_queues(ARGV[2])
sweep_expired(ARGV[1])
local ready, first = count_ready(ARGV[1])
return {ready, first or false, ARGV[3] == '1' and call('HGETALL', root .. 'counts') or false}
