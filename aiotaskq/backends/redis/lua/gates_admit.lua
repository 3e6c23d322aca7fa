-- ARGV: hint, now, limit. Admits gates whose next_at has come. Returns the first next_at after that or false, and 1 if
-- there were any.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates
-- include: when_full

use_gates()
local due, now = call('ZRANGEBYSCORE', root .. 'gates:due', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3]), tonumber(ARGV[2])
table.sort(due)
for _, key in ipairs(due) do gated.touch(key, now) end
if due[1] then
  local later = admission.admit()
  publish(ARGV[1], later)
end
return {call('ZRANGE', root .. 'gates:due', 0, 0, 'WITHSCORES')[2] or false, due[1] and 1 or 0}
