-- ARGV: ids of tasks. Deletes the steps and the waits of those that have no row.
-- include: constants
-- include: base
-- include: when_full

for i = 1, #ARGV do
  local id = ARGV[i]
  if call('HEXISTS', root .. 'state', id) == 0 then
    call('SREM', root .. 'stepped', id)
    call('UNLINK', root .. 'steps:' .. id)
    local key = call('HGET', root .. 'waiting', id)
    if key then
      call('HDEL', root .. 'waiting', id)
      call('HDEL', root .. 'waits:' .. key, id)
      if call('EXISTS', root .. 'waits:' .. key) == 0 then call('SREM', root .. 'awaited', key) end
    end
  end
end
