-- ARGV: kind, now. Returns the number of rows.
-- include: side

return call('HLEN', side) - call('ZCOUNT', expiry, '-inf', ARGV[2])
