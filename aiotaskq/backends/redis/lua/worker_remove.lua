-- ARGV: owner, lease_until. Removes a worker that has this lease. Returns 1 or 0: whether it had.
-- include: constants
-- include: base
-- include: when_full

local value = call('HGET', root .. 'workers', ARGV[1])
if not value or match(value, '^%S+') ~= ARGV[2] then return 0 end
call('HDEL', root .. 'steered', ARGV[1] .. ' quiet', ARGV[1] .. ' slots')
return call('HDEL', root .. 'workers', ARGV[1])
