-- ARGV: now, limit. Returns rows, the largest priority number first, and of one priority the oldest first.
-- include: answer
-- include: lanes

sweep_expired(ARGV[1])
local at, left = bound_instant(tonumber(ARGV[1])), tonumber(ARGV[2])
local lanes, priorities = due_lanes(at)
local ids = {}
for p = #priorities, 1, -1 do
  local found = due_rows(lanes[priorities[p]], at, left)
  local number = math.min(#found, left)
  for i = 1, number do ids[#ids + 1] = sub(found[i].stamp, 21) end
  left = left - number
  if left == 0 then break end
end
return read_rows(ids)
