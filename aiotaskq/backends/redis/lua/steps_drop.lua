-- ARGV: ids of tasks. Deletes the steps and the waits of those that have no row.
-- include: constants
-- include: base
-- include: events
-- include: when_full

for i = 1, #ARGV do
  local id = ARGV[i]
  if call('HEXISTS', root .. 'state', id) == 0 then
    call('SREM', root .. 'stepped', id)
    call('UNLINK', root .. 'steps:' .. id)
    forget_waits(id)
  end
end
