-- ARGV: key, value, expires_at or '' of each.
-- include: values

for i = 1, #ARGV, 3 do
  call('HSET', values, ARGV[i], ARGV[i + 1])
  if ARGV[i + 2] == '' then call('ZREM', expiry, ARGV[i]) else call('ZADD', expiry, ARGV[i + 2], ARGV[i]) end
end
