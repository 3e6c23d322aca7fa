-- ARGV: now, packed queues or '', 1 to count the rows of every status. Returns how many rows are ready, the first
-- run_at, and the counts.
-- include: lanes

want_queues(ARGV[2])
sweep_expired(ARGV[1])
local ready, first, now = 0, nil, tonumber(ARGV[1])
local heads = call('ZRANGE', root .. 'heads', 0, -1, 'WITHSCORES')
for i = 1, #heads, 2 do
  if is_open(queue_of(heads[i])) then
    first = first or heads[i + 1]
    if tonumber(heads[i + 1]) > now then break end
    ready = ready + call('ZCOUNT', root .. 'lane:' .. heads[i], '-inf', ARGV[1])
  end
end
return {ready, first or false, ARGV[3] == '1' and call('HGETALL', root .. 'counts') or false}
