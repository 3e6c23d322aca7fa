-- ARGV: owner, '1' or '0' for quiet or '' to leave it, wanted slots or '' to leave them. Returns 1 or 0: whether the
-- worker was there.
-- include: constants
-- include: base
-- include: when_full

if not call('HGET', root .. 'workers', ARGV[1]) then return 0 end
if ARGV[2] ~= '' then call('HSET', root .. 'steered', ARGV[1] .. ' quiet', ARGV[2]) end
if ARGV[3] ~= '' then call('HSET', root .. 'steered', ARGV[1] .. ' slots', ARGV[3]) end
return 1
