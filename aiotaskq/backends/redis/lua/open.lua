-- ARGV: FORMAT. Returns the format of the namespace, which is written if there is none.
local stored = redis.call('GET', KEYS[1] .. 'format')
if not stored then redis.call('SET', KEYS[1] .. 'format', ARGV[1]) end
return stored or ARGV[1]
