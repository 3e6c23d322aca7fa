-- ARGV: owner as JSON, now, limit, lease as in a head, started_at, packed queues or ''. Returns rows.
-- include: claim_rows
-- include: when_full

return claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])
