-- ARGV: hint, now, stamp to begin behind or ''. Ends children that wait for tasks which another program has deleted.
-- Returns the stamp of the last row looked at or '', how many had such parents, 1 or 0 as an update, and what has
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
local MOST = 1000  -- rows, and parents
local tools, looked, wrong, last = group_tools(), 0, 0, ''
local stamps = call('ZRANGEBYLEX', root .. 'is:live', ARGV[3] == '' and '-' or '(' .. ARGV[3], '+', 'LIMIT', 0, MOST)
local ids = {}
for i, stamp in ipairs(stamps) do ids[i] = sub(stamp, 21) end
load_states(ids)

-- A parent that is gone, if fewer of its parents than the row waits for hold it up.
local function missing_parent(id, row, waits)
  local names, gone = {}, nil
  for i, parent in ipairs(gated.place_of(row).parents or {}) do names[i] = parent[1] end
  load_states(names)
  looked = looked + #names
  for _, name in ipairs(names) do
    if not states[name] then gone = gone or name end
  end
  return gone and tools.live_parents(names, id) < waits and gone
end

for i, id in ipairs(ids) do
  if looked >= MOST then break end
  last = stamps[i]
  local row = parse(states[id])
  local waits = row and row.flow and row.status == 'pending' and tonumber(match(row.names, '^%S+ w(%d+) '))
  local parent = waits and missing_parent(id, row, waits)
  if parent then
    wrong = wrong + 1
    tools.add_parent(parent, 'deleted', 'cancelled', {{id, 'cancel'}})
  end
end
if last == stamps[#stamps] and #stamps < MOST then last = '' end
tools.set_now(tonumber(ARGV[2]))
local followed = admission.follow()
local later = admission.admit()
publish(ARGV[1], later)
return {last, wrong, later and 1 or 0, followed}
