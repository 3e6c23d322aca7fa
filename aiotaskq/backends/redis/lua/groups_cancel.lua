-- ARGV: group. Marks it, and the groups in it, as cancelled. Returns 1, or 0 if it has ended or there is none.
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

local tools, todo, at = group_tools(), {ARGV[1]}, 1
local first = tools.read_group(ARGV[1])
if not first or first.ended then return 0 end
while todo[at] do
  local group, inner = tools.read_group(todo[at]), call('HGET', root .. 'groups:inner', todo[at])
  if group and not group.ended then
    group.cancel = true
    tools.save_group(todo[at], group, true)
  end
  for _, id in ipairs(inner and cjson.decode(inner) or {}) do todo[#todo + 1] = id end
  at = at + 1
end
flush()
return 1
