-- Side rows: those of one kind and owner, '<kind>:<owner>', are a hash of the texts and a sorted set of the names (all
-- scores are 0); those without an owner have a sorted set of their instants, too. Needs root
-- and call.

local function put_side(place, name, text, at)
  call('HSET', root .. 'side:' .. place, name, text)
  call('ZADD', root .. 'names:' .. place, 0, name)
  local kind, owner = string.match(place, '^([^:]*):(.*)$')
  if kind == 'tag' then call('SADD', root .. 'tagged:' .. name, owner) end
  if owner ~= '' then
    call('ZADD', root .. 'owners:' .. kind, 0, owner)
  elseif at == '' then
    call('ZREM', root .. 'until:' .. kind, name)
  else
    call('ZADD', root .. 'until:' .. kind, at, name)
  end
end

local function remove_side(place, name)
  local kind, owner = string.match(place, '^([^:]*):(.*)$')
  call('HDEL', root .. 'side:' .. place, name)
  call('ZREM', root .. 'names:' .. place, name)
  if owner == '' then
    call('ZREM', root .. 'until:' .. kind, name)
  elseif call('EXISTS', root .. 'side:' .. place) == 0 then
    call('ZREM', root .. 'owners:' .. kind, owner)
  end
end
