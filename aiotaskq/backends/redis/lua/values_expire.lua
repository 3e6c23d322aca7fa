-- ARGV: now, limit. Removes expired values, and returns how many.
-- include: values

local expired = call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, key in ipairs(expired) do
  call('ZREM', expiry, key)
  call('HDEL', values, key)
end
return #expired
