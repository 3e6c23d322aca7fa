-- ARGV: key, the event as it is stored, now, expires_at or ''. Returns the event that is there now, and the ids and
-- began_at of the tasks that wait for it.
-- include: events

local key, stored = ARGV[1], event_of(ARGV[1], ARGV[3])
if not stored then
  stored = ARGV[2]
  redis.call('HSET', KEYS[1] .. 'events', key, stored)
  redis.call('ZADD', KEYS[1] .. 'events:keys', 0, key)
  if ARGV[4] == '' then
    redis.call('ZREM', KEYS[1] .. 'events:until', key)
  else
    redis.call('ZADD', KEYS[1] .. 'events:until', ARGV[4], key)
  end
end
return {stored, redis.call('HGETALL', KEYS[1] .. 'waits:' .. key)}
