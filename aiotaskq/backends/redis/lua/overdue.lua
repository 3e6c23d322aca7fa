-- ARGV: now, limit. Returns rows: those whose worker is gone, and then the longest overdue first.
-- include: flush
-- include: answer

-- The owners of rows that workers hold, each found from the one before.
local function owners_of_held()
  local owners, from = {}, '-'
  while true do
    local member = call('ZRANGE', root .. 'held', from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not member then return owners end
    owners[#owners + 1] = match(member, '^%S+')
    from = '[' .. owners[#owners] .. '!'  -- the first character behind a blank
  end
end

-- The rows that members of a sorted set name from this place on. A member that its row does not confirm is dropped.
local function confirmed(key, members, from, status, owner)
  local ids, rows = {}, {}
  for i, member in ipairs(members) do ids[i] = sub(member, from) end
  load_states(ids)
  for i, id in ipairs(ids) do
    local row = parse(states[id])
    if row and row.status == status and (not owner or match(row.lease, '^@([^!]+)') == owner) then
      rows[#rows + 1] = {id = id, at = tonumber(status == 'running' and row.lease or row.expires) or 0}
    else
      set_score(key, members[i], false)
    end
  end
  return rows
end

local limit, ids, late = tonumber(ARGV[2]), {}, {}

for _, owner in ipairs(owners_of_held()) do
  local name = string.gsub(owner, '%%(%x%x)', function(code) return string.char(tonumber(code, 16)) end)
  if #ids < limit and not call('HGET', root .. 'side:worker:', name) then
    local members = call('ZRANGE', root .. 'held', '[' .. owner .. ' ', '(' .. owner .. '!', 'BYLEX', 'LIMIT', 0,
      limit - #ids)
    for _, row in ipairs(confirmed('held', members, #owner + 22, 'running', owner)) do ids[#ids + 1] = row.id end
  end
end
for key, status in pairs({leased = 'running', expiring = 'pending', expired = 'pending'}) do
  local members = call('ZRANGEBYSCORE', root .. key, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
  for _, row in ipairs(confirmed(key, members, key == 'leased' and 21 or 1, status)) do late[#late + 1] = row end
end
flush()
table.sort(late, function(a, b) return a.at < b.at end)
for i = 1, math.min(#late, limit - #ids) do ids[#ids + 1] = late[i].id end
return read_rows(ids)
