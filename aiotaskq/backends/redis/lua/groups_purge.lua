-- ARGV: instant, limit. Deletes groups that ended before it, with the groups in them, and their lists of members.
-- Returns how many.
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

local tools = group_tools()
local ids = call('ZRANGEBYSCORE', root .. 'groups:done', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
local n = 1
while ids[n] do
  local id = ids[n]
  local group, inner = tools.read_group(id), call('HGET', root .. 'groups:inner', id)
  for _, each in ipairs(inner and cjson.decode(inner) or {}) do ids[#ids + 1] = each end
  if group then set_score('groups:ended', group.created .. id, false) end
  set_score('groups:done', id, false)
  for _, key in ipairs({'groups', 'groups:then', 'groups:inner'}) do set_field(key, id, false) end
  set_field('groups:sums', id, false)
  if call('HEXISTS', root .. 'groups:sums', id .. ' budget') == 1 then
    local gate = 'budget:' .. id
    set_field('groups:sums', id .. ' budget', false)
    set_field('gates', gate, false)
    set_field('slots', gate, false)
    set_score('gates:due', gate, false)
    call('UNLINK', root .. 'lines:' .. gate, root .. 'later:' .. gate, root .. 'started:' .. gate)
  end
  call('UNLINK', root .. 'members:' .. id)
  n = n + 1
end
flush()
return #ids
