-- ARGV: kind, now, limit: deletes up to limit expired rows without an owner. Returns how many were deleted.
local root, call = KEYS[1], redis.call
-- include: side

local gone = call('ZRANGEBYSCORE', root .. 'until:' .. ARGV[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, name in ipairs(gone) do remove_side(ARGV[1] .. ':', name) end
return #gone
