-- ARGV: key, then the ids and began_at of tasks that wait for this event no more.
local waits = KEYS[1] .. 'waits:' .. ARGV[1]
for i = 2, #ARGV, 2 do
  if redis.call('HGET', waits, ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', waits, ARGV[i])
    redis.call('HDEL', KEYS[1] .. 'waiting', ARGV[i])
  end
end
if redis.call('EXISTS', waits) == 0 then redis.call('SREM', KEYS[1] .. 'awaited', ARGV[1]) end
