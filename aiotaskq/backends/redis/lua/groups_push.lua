-- ARGV: hint, packed groups, then lists of rows as for a push. Of each group its id, its state (see groups.lua), the
-- ids of the groups in it and its callbacks, both JSON or '', and a list of its members. Returns 0 if there is a group
-- with the id of the first, 1 if not or if this very push has made it; then 1 or 0 as a push. If too many rows would
-- wait at a gate, nothing is written, and its key comes first, then how many may wait.
-- include: base
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups

use_gates()
local tools, groups = group_tools(), cmsgpack.unpack(ARGV[2])
if call('HEXISTS', root .. 'groups', groups[1][1]) == 1 then
  local first = ARGV[3] and cmsgpack.unpack(ARGV[3])
  local known = first and row_of(first[1])
  return {known and known.seq == parse(first[3]).seq and 1 or 0, 0}
end
for n = 3, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
local full, most = admission.declare()
if full then return {full, most} end
for _, words in ipairs(groups) do
  local id, state, inner, callbacks, members = unpack(words)
  tools.save_group(id, tools.parse_group(state), true)
  if inner ~= '' then set_field('groups:inner', id, inner) end
  if callbacks ~= '' then set_field('groups:then', id, callbacks) end
  call_in_chunks('RPUSH', 'members:' .. id, members)
end
flush()
local later = admission.admit()
publish(ARGV[1], later)
return {1, later and 1 or 0}
