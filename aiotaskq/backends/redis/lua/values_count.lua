-- ARGV: now. Returns the number of live values.
-- include: values

return call('HLEN', values) - call('ZCOUNT', expiry, '-inf', ARGV[1])
