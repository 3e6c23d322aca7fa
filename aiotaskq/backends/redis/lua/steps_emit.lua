-- ARGV: for each event the key, the event as it is stored, now, and expires_at or ''. Stores it, unless there is one,
-- and its value for each task that waits for it. Returns for each what is there now, and what is in woken:<key>.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: events
-- include: when_full

local answers = {}
for i = 1, #ARGV, 4 do
  local key, stored = ARGV[i], event_of(ARGV[i], ARGV[i + 2])
  if not stored then
    stored = ARGV[i + 1]
    call('HSET', root .. 'events', key, stored)
    call('ZADD', root .. 'events:keys', 0, key)
    if ARGV[i + 3] == '' then
      call('ZREM', root .. 'events:until', key)
    else
      call('ZADD', root .. 'events:until', ARGV[i + 3], key)
    end
    local waits = call('HGETALL', root .. 'waits:' .. key)
    for w = 1, #waits, 2 do
      local number, id = match(waits[w], '^(%S+) (.*)$')
      local row = row_of(id)
      if row and LIVE[row.status] and tonumber(row.seq) == tonumber(match(waits[w + 1], '^%S+ (%S+)')) then
        answer(id, key, number, waits[w + 1], stored)
      end
      forget_wait(id, key, number)
      call('HSET', root .. 'woken:' .. key, waits[w], waits[w + 1])
    end
    if waits[1] then call('SADD', root .. 'woken', key) end
  end
  answers[#answers + 1] = {stored, call('HGETALL', root .. 'woken:' .. key)}
end
return answers
