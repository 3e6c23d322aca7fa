-- ARGV: hint. Tells children of the ends of parents that an earlier script has left to this one. Returns 1 or 0 as
-- an update, and what has followed.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups
-- include: when_full

use_gates()
local tools = group_tools()
local MOST, looked = 1000, 0  -- children of all parents
for _, id in ipairs(call('HRANDFIELD', root .. 'groups:following', MOST)) do
  if looked >= MOST then break end
  local kind, status, children, at = unpack(cmsgpack.unpack(call('HGET', root .. 'groups:following', id)))
  tools.add_parent(id, kind, status, children, true)
  tools.set_now(tonumber(at))
  looked = looked + #children
end
local followed = admission.follow()
followed[5] = call('EXISTS', root .. 'groups:following')
local later = admission.admit()
publish(ARGV[1], later)
return {later and 1 or 0, followed}
