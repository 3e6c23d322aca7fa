-- ARGV: key of a lock, its owner. Deletes the lock unless another has it by now.
local key = KEYS[1] .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
