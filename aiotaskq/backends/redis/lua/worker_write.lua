-- ARGV: owner, its value in the registry, 1 to add a worker that is not there. Returns 1 or 0: whether it was written.
-- include: base
-- include: when_full

if ARGV[3] ~= '1' and not call('HGET', root .. 'workers', ARGV[1]) then return 0 end
call('HSET', root .. 'workers', ARGV[1], ARGV[2])
return 1
