-- ARGV: hint, maxsize, now, the number of lists of changes, these lists (packed), then lists of rows as for a push.
-- Returns -1 and what a push returns, with 1 or 0 at its end and what has followed for groups behind it, if rows of
-- groups have ended: see groups.lua. Or, if nothing was written, how many tasks are too many, 0 if a change did not
-- hold.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: answer
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups
-- include: change
-- include: lanes
-- include: room
-- include: bound

local maxsize, now, last = tonumber(ARGV[2]), tonumber(ARGV[3]), 4 + ARGV[4]
sweep_expired(ARGV[3])
local ready = ready_without(now, 5, last)
if not ready then return {0} end
for n = last + 1, #ARGV do insert_list(cmsgpack.unpack(ARGV[n])) end
if new > 0 and ready + new > maxsize then return {ready + new - maxsize} end
local full, most = admission.declare()
if full then return {-1, {}, {}, full, most} end
flush()
local followed = admission.follow()
local later = admission.admit()
publish(ARGV[1], later)
if followed then return {-1, numbers, read_rows(others), later and 1 or 0, followed} end
return {-1, numbers, read_rows(others), later and 1 or nil}
