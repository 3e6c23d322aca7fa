-- ARGV: the instant of an entry, the entry as JSON, the instant before which entries are deleted, how many are kept.

local key = KEYS[1] .. 'audit'
redis.call('ZADD', key, ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[3])
redis.call('ZREMRANGEBYRANK', key, 0, -1 - ARGV[4])
