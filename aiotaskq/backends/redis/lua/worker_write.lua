-- ARGV: owner, its value in the registry, 1 to add a worker that is not there; then, to be written with that, '1' if it
-- is asked to be quiet, and its wanted slots or ''. Returns 1 or 0: whether it was written.
-- include: constants
-- include: base
-- include: when_full

if ARGV[3] == '1' then
  call('HDEL', root .. 'steered', ARGV[1] .. ' quiet', ARGV[1] .. ' slots')
  if ARGV[4] == '1' then call('HSET', root .. 'steered', ARGV[1] .. ' quiet', '1') end
  if ARGV[5] ~= '' then call('HSET', root .. 'steered', ARGV[1] .. ' slots', ARGV[5]) end
elseif not call('HGET', root .. 'workers', ARGV[1]) then
  return 0
end
call('HSET', root .. 'workers', ARGV[1], ARGV[2])
return 1
