-- ARGV: key, then of tasks that were woken by this event the fields and values in woken:<key>.
local woken = KEYS[1] .. 'woken:' .. ARGV[1]
for i = 2, #ARGV, 2 do
  if redis.call('HGET', woken, ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', woken, ARGV[i]) end
end
if redis.call('EXISTS', woken) == 0 then redis.call('SREM', KEYS[1] .. 'woken', ARGV[1]) end
