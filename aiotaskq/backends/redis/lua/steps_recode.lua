-- ARGV: a hash, and then of each of its values the field, the value as it was read and as it becomes. One that has
-- changed since stays.
-- include: constants
-- include: base
-- include: when_full

local key = root .. ARGV[1]
for i = 2, #ARGV, 3 do
  if call('HGET', key, ARGV[i]) == ARGV[i + 1] then call('HSET', key, ARGV[i], ARGV[i + 2]) end
end
