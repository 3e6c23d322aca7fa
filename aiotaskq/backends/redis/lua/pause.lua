-- ARGV: queue, 1 to pause it or 0 to resume it. Returns 1 if there are gates: they are adapted then.
-- include: constants
-- include: base
-- include: when_full

call(ARGV[2] == '1' and 'SADD' or 'SREM', root .. 'paused', ARGV[1])
return call('EXISTS', root .. 'gates')
