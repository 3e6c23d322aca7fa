-- ARGV: now. Returns all keys, and the expired ones.
-- include: values

return {call('HKEYS', values), call('ZRANGEBYSCORE', expiry, '-inf', ARGV[1])}
