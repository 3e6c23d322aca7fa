-- ARGV: kind, now. Returns the number of rows without an owner.
local expired = redis.call('ZCOUNT', KEYS[1] .. 'until:' .. ARGV[1], '-inf', ARGV[2])
return redis.call('HLEN', KEYS[1] .. 'side:' .. ARGV[1] .. ':') - expired
