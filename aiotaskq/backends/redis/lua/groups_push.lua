-- ARGV: hint, packed groups, maxsize or '' for no bound, now, how many rows have to fit, the number of lists of
-- changes, these lists (packed), then lists of rows as for a push. Of each group its id, its state (see groups.lua),
-- the ids of the groups in it, its callbacks, what it has used up and its budget, all four JSON or '', and a list of
-- its members. Returns 0 if there is a group with the id of the first, 1 if not or if this very push has made it; then
-- 1 or 0 as a push; then what has followed for groups, if rows of groups have ended. If there is no room, nothing is
-- written: -1 and how many rows are too many, 0 if a change did not hold. If too many rows would wait at a gate,
-- nothing either: its key and how many may wait.
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
-- include: change
-- include: lanes
-- include: room
-- include: bound
-- include: usage_text
-- include: usage
-- include: budgets

use_gates()
local tools, groups, last = group_tools(), cmsgpack.unpack(ARGV[2]), 6 + ARGV[6]
if call('HEXISTS', root .. 'groups', groups[1][1]) == 1 then
  local first = ARGV[last + 1] and cmsgpack.unpack(ARGV[last + 1])
  local known = first and row_of(first[1])
  return {known and known.seq == parse(first[3]).seq and 1 or 0, 0}
end
if ARGV[3] ~= '' then
  sweep_expired(ARGV[4])
  local ready, count, maxsize = ready_without(tonumber(ARGV[4]), 7, last), tonumber(ARGV[5]), tonumber(ARGV[3])
  if not ready then return {-1, 0} end
  if count > 0 and ready + count > maxsize then return {-1, ready + count - maxsize} end
end
for n = last + 1, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
local full, most = admission.declare()
if full then return {full, most} end
for _, words in ipairs(groups) do
  local id, state, inner, callbacks, usage, budget, members = unpack(words)
  tools.save_group(id, tools.parse_group(state), true)
  if inner ~= '' then set_field('groups:inner', id, inner) end
  if callbacks ~= '' then set_field('groups:then', id, callbacks) end
  if usage ~= '' then set_field('groups:sums', id, usage) end
  if budget ~= '' then set_field('groups:sums', id .. ' budget', budget) end
  if budget ~= '' and ARGV[last + 1] and is_used_up(id, sums_of(id)) then close_budget(id) end
  call_in_chunks('RPUSH', 'members:' .. id, members)
end
flush()
local followed = tonumber(ARGV[6]) > 0 and admission.follow() or nil
local later = admission.admit()
publish(ARGV[1], later)
return {1, later and 1 or 0, followed}
