-- ARGV: the cursor of a scan, and about how many tasks are looked at. Returns the next cursor, and the ids of the tasks
-- with steps that have no row.
-- include: constants
-- include: base

local found = call('SSCAN', root .. 'stepped', ARGV[1], 'COUNT', ARGV[2])
local ids = {}
for _, id in ipairs(found[2]) do
  if call('HEXISTS', root .. 'state', id) == 0 then ids[#ids + 1] = id end
end
return {found[1], ids}
