-- ARGV: ids. Returns rows, one that does not exist without a state; and for each what a transaction compares at its
-- commit: the digests of its state, and of what it has used up, '' where there is none.
-- include: answer

local rows, usage, digests = read_rows(ARGV), read_fields('usage', ARGV), {}
for i, id in ipairs(ARGV) do
  digests[2 * i - 1] = states[id] and redis.sha1hex(states[id]) or ''
  digests[2 * i] = usage[i] and redis.sha1hex(usage[i]) or ''
end
return {rows, digests}
