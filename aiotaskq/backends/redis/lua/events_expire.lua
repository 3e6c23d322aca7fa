-- ARGV: now, limit. Removes expired events, and returns how many.
local expired = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'events:until', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, key in ipairs(expired) do
  redis.call('ZREM', KEYS[1] .. 'events:until', key)
  redis.call('ZREM', KEYS[1] .. 'events:keys', key)
  redis.call('HDEL', KEYS[1] .. 'events', key)
end
return #expired
