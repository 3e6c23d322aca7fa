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

local limit, ids, late = tonumber(ARGV[2]), {}, {}

for _, owner in ipairs(owners_of_held()) do
  if #ids >= limit then break end
  if not call('HGET', root .. 'workers', owner) then
    local members, found = call('ZRANGE', root .. 'held', '[' .. owner .. ' ', '(' .. owner .. '!', 'BYLEX',
      'LIMIT', 0, limit - #ids), {}
    for i, member in ipairs(members) do found[i] = sub(member, #owner + 22) end
    load_states(found)
    for i, id in ipairs(found) do
      local row = parse(states[id])
      if row and row.status == 'running' and match(row.lease, '^@([^!]+)') == owner then
        ids[#ids + 1] = id
      else
        set_score('held', members[i], false)
      end
    end
  end
end

for name, status in pairs({leased = 'running', expiring = 'pending', expired = 'pending'}) do
  local part, found = call('ZRANGEBYSCORE', root .. name, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2]), {}
  for i = 1, #part, 2 do found[#found + 1] = name == 'leased' and sub(part[i], 21) or part[i] end
  load_states(found)
  for i, id in ipairs(found) do
    local row = parse(states[id])
    if row and row.status == status then
      late[#late + 1] = {id = id, at = tonumber(part[2 * i])}
    else
      set_score(name, part[2 * i - 1], false)
    end
  end
end
flush()
table.sort(late, function(a, b) return a.at < b.at end)
for i = 1, math.min(#late, limit - #ids) do ids[#ids + 1] = late[i].id end
return read_rows(ids)
