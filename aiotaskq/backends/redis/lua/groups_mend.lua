-- ARGV: hint, now, ids of groups. Counts their members that have not ended anew, until enough members were looked at.
-- Returns how many groups were counted, how many of their counts were wrong, 1 or 0 as an update, and what has
-- followed.
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
local MOST = 1000  -- members of all groups, but for the first one
local tools, looked, counted, wrong = group_tools(), 0, 0, 0

local function count_live(id)
  local live, members = 0, call('LRANGE', root .. 'members:' .. id, 0, -1)
  local tasks = {}
  for _, text in ipairs(members) do
    local member = cjson.decode(text)
    if member[3] then
      local group = tools.read_group(member[1])
      if group and not group.ended then live = live + 1 end
    else
      tasks[#tasks + 1] = member[1]
    end
  end
  load_states(tasks)
  for _, task in ipairs(tasks) do
    if states[task] and LIVE[match(states[task], '^%S+')] then live = live + 1 end
  end
  looked = looked + #members
  return live
end

for n = 3, #ARGV do
  if looked >= MOST then break end
  counted = counted + 1
  local group = tools.read_group(ARGV[n])
  if group and not group.ended then
    local missing = group.remaining - count_live(ARGV[n])
    if missing ~= 0 then wrong = wrong + 1 end
    for _ = 1, missing do tools.add_tally(ARGV[n], 'cancelled', 1) end
    if missing < 0 then tools.add_tally(ARGV[n], 'completed', missing) end
  end
end
tools.set_now(tonumber(ARGV[2]))
local followed = admission.follow()
local later = admission.admit()
publish(ARGV[1], later)
return {counted, wrong, later and 1 or 0, followed}
