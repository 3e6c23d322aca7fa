-- ARGV: hint, the number of lists of plain rows, these lists, then packed lists of other rows, each as id, body and
-- state. A list of plain rows is its length, the lane, the first run_at, and the words of the commands that look for
-- the ids and write the rows. Returns nil, and writes nothing, if there is a row with the id of a plain one. Else the
-- numbers of the other rows that were not inserted because a row has their id or a key of theirs, and those rows.

local at = 3
do  -- Most pushes end here, before what is included below.
  local root, call, lists = KEYS[1], redis.call, {}
  for n = 1, ARGV[2] do
    local length, ids = tonumber(ARGV[at]), at + 3
    for _, found in ipairs(call('HMGET', root .. 'state', unpack(ARGV, ids, ids + length - 1))) do
      if found then return nil end
    end
    lists[n], at = at, ids + 9 * length
  end
  for _, first in ipairs(lists) do
    local length, lane = tonumber(ARGV[first]), ARGV[first + 1]
    local words, step = first + 3 + length, 2 * length
    call('HSET', root .. 'state', unpack(ARGV, words, words + step - 1))
    call('HSET', root .. 'body', unpack(ARGV, words + step, words + 2 * step - 1))
    call('ZADD', root .. 'is:live', unpack(ARGV, words + 2 * step, words + 3 * step - 1))
    call('ZADD', root .. 'lane:' .. lane, unpack(ARGV, words + 3 * step, words + 4 * step - 1))
    call('ZADD', root .. 'heads', 'LT', ARGV[first + 2], lane)
    call('HINCRBY', root .. 'counts', 'pending:' .. string.match(lane, ':(.*)'), length)
  end
  if at > #ARGV then
    redis.pcall('PUBLISH', root .. 'hints', ARGV[1])
    return {{}, {}}
  end
end

-- include: answer
-- include: insert

for n = at, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
flush()
publish(ARGV[1])
return {numbers, read_rows(others)}
