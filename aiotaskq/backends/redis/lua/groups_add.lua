-- ARGV: hint, group, then lists of rows as for a push. Returns how many rows are new, -1 if the group takes none; then
-- as groups_push.
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

use_gates()
local tools, members = group_tools(), {}
local group = tools.read_group(ARGV[2])
if not group or group.ended or group.cancel then return {-1, 0} end
for n = 3, #ARGV do
  local rows, ids = cmsgpack.unpack(ARGV[n]), {}
  for i = 1, #rows, 3 do ids[#ids + 1] = rows[i] end
  load_states(ids)
  for i = 1, #rows, 3 do
    if not states[rows[i]] then  -- one that exists was added by an earlier call, or run
      insert(rows[i], rows[i + 1], rows[i + 2])
      members[#members + 1] = '[' .. cjson.encode(rows[i]) .. ',null,false]'
    end
  end
end
local full, most = admission.declare()
if full then return {full, most} end
group.total, group.remaining = group.total + #members, group.remaining + #members
tools.save_group(ARGV[2], group)
call_in_chunks('RPUSH', 'members:' .. ARGV[2], members)
flush()
local later = admission.admit()
publish(ARGV[1], later)
return {#members, later and 1 or 0}
