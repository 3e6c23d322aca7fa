-- ARGV: queue, 1 to pause it or 0 to resume it.
-- include: base
-- include: when_full

call(ARGV[2] == '1' and 'SADD' or 'SREM', root .. 'paused', ARGV[1])
