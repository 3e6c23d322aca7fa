-- ARGV: for each wait of a task that was woken by its event the key of that, the field and the value in woken:<key>.
for i = 1, #ARGV, 3 do
  local key = ARGV[i]
  local woken = KEYS[1] .. 'woken:' .. key
  if redis.call('HGET', woken, ARGV[i + 1]) == ARGV[i + 2] then redis.call('HDEL', woken, ARGV[i + 1]) end
  if redis.call('EXISTS', woken) == 0 then redis.call('SREM', KEYS[1] .. 'woken', key) end
end
