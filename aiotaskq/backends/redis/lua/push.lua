-- ARGV: hint, the number of lists of plain rows, these lists, then packed lists of other rows, each as id, body and
-- state. A list of plain rows is its length, the lane, the first run_at, and the words of the commands that look for
-- the ids and write the rows. Returns the numbers of the rows that were not inserted because another row has their id
-- or a key of theirs, and those other rows.

local lists, at = {}, 3
do  -- Most pushes end here, before what is included below.
  local root, call, all_free = KEYS[1], redis.call, true
  for n = 1, ARGV[2] do
    local length, lane, ids = tonumber(ARGV[at]), ARGV[at + 1], at + 3
    local found, free = call('HMGET', root .. 'state', unpack(ARGV, ids, ids + length - 1)), true
    for i = 1, length do free = free and not found[i] end
    at = ids + length
    if free then
      local step = 2 * length
      call('HSET', root .. 'state', unpack(ARGV, at, at + step - 1))
      call('HSET', root .. 'body', unpack(ARGV, at + step, at + 2 * step - 1))
      call('ZADD', root .. 'is:live', unpack(ARGV, at + 2 * step, at + 3 * step - 1))
      call('ZADD', root .. 'lane:' .. lane, unpack(ARGV, at + 3 * step, at + 4 * step - 1))
      call('ZADD', root .. 'heads', 'LT', ARGV[ids - 1], lane)
      call('HINCRBY', root .. 'counts', 'pending:' .. string.match(lane, ':(.*)'), length)
    end
    lists[n] = {ids = ids, length = length, free = free}
    at, all_free = at + 8 * length, all_free and free
  end
  if all_free and at > #ARGV then
    redis.pcall('PUBLISH', root .. 'hints', ARGV[1])
    return {{}, {}}
  end
end

-- include: answer
-- include: insert

for _, list in ipairs(lists) do
  local rows, length = {}, list.length
  for i = list.ids, list.ids + length - 1 do
    local pair = list.ids + length + 2 * (i - list.ids)
    rows[#rows + 1], rows[#rows + 2], rows[#rows + 3] = ARGV[i], ARGV[pair + 2 * length + 1], ARGV[pair + 1]
  end
  if list.free then number = number + length else insert_list(rows) end
end
for n = at, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
flush()
publish(ARGV[1])
return {numbers, read_rows(others)}
