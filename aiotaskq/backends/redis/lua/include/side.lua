-- The side rows of one kind: a hash of the texts, and sorted sets of the names (all scores are 0) and of the instants.
local side, call = KEYS[1] .. 'side:' .. ARGV[1], redis.call
local names, expiry = side .. ':names', side .. ':until'

local function put(name, text, at)
  call('HSET', side, name, text)
  call('ZADD', names, 0, name)
  if at == '' then call('ZREM', expiry, name) else call('ZADD', expiry, at, name) end
end

local function remove(name)
  call('ZREM', expiry, name)
  call('ZREM', names, name)
  return call('HDEL', side, name) == 1
end

local function is_live(name, now)
  local at = call('ZSCORE', expiry, name)
  return not at or tonumber(at) > tonumber(now)
end
