-- ARGV: now, limit. Returns rows, the longest overdue first.
-- include: base

local found = {}
for name, status in pairs({running = 'running', expiring = 'pending', expired = 'pending'}) do
  local part, ids = call('ZRANGEBYSCORE', root .. name, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2]), {}
  for i = 1, #part, 2 do ids[#ids + 1] = name == 'running' and sub(part[i], 21) or part[i] end
  load_states(ids)
  for i, id in ipairs(ids) do
    local row = parse(states[id])
    if row and row.status == status then
      found[#found + 1] = {id = id, at = tonumber(part[2 * i])}
    else
      set_score(name, part[2 * i - 1], false)
    end
  end
end
flush()
table.sort(found, function(a, b) return a.at < b.at end)
local ids = {}
for i = 1, math.min(#found, tonumber(ARGV[2])) do ids[i] = found[i].id end
return read_rows(ids)
