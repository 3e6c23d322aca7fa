-- ARGV: key, then of tasks that wait for this event no more the fields and values in waits:<key>.
-- include: events

for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1] .. 'waits:' .. ARGV[1], ARGV[i]) == ARGV[i + 1] then
    local number, id = string.match(ARGV[i], '^(%S+) (.*)$')
    forget_wait(id, ARGV[1], number)
  end
end
